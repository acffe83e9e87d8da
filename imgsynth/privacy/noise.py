"""Gaussian noise from OpenSSL's cryptographic generator, added so that the result's low bits say nothing.

Every bit comes from OpenSSL's cryptographic generator (``ssl.RAND_bytes``: AES in counter mode, NIST SP 800-90A, seeded
and reseeded by the kernel; three times as fast as reading the kernel's own, which matters for millions of weights).
Its state never leaves the process: there is no seed that could be stored, leaked or guessed. Normals are made by Box
and Muller's transform in double precision, in parts that fit the processor's cache.
"""

from __future__ import annotations

import hashlib
import math
import ssl
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PAIRS = 32_000  # of normals that are made at once: they stay in a processor's own cache, and in one thread of torch's
_LOW = 39  # lower bits of the angle's 53
_GRID = 2.0**-20  # of the noise's standard deviation, rounded down to a power of two


class NoiseSource:
    """Adds N(0, std²) to tensors, independently for each element and call.

    What it is: noise of 2⁵³ levels per uniform, tails to 8.5 standard deviations (a normal exceeds that once in 10¹⁷
    draws), and *rounding of the noised value to a grid that is the same for all data* (a power of two near 2⁻²⁰ std).
    Floating-point noise alone is attackable, because which doubles can come out depends on the value beneath
    (Mironov 2012, CCS). Rounded, every outcome is reachable from every value with nearly its ideal probability, and
    rounding is post-processing of the ideal mechanism.

    What it is not: an exact sampler. The proof is of real-number noise; the cells' probabilities are off by about
    2⁻³⁰ of themselves, which no accountant sees. Nor does it hide how long a step takes.

    ``seed`` makes the noise repeatable for tests; such a run is not releasable.
    """

    def __init__(self, seed: int | None = None):
        self._random = None if seed is None else torch.Generator().manual_seed(seed_for("noise", seed) % 2**63)

    def add(self, value: Tensor, std: float, divisor: float = 1.0) -> Tensor:
        """(``value`` + N(0, std²)) / ``divisor``, double precision, on the device of ``value``; std > 0.

        The noised value lies on the public grid before it is divided.
        """
        grid = 2.0 ** math.floor(math.log2(std)) * _GRID  # a power of two: scaling by it is exact
        values_N = value.detach().reshape(-1)
        noisy = torch.empty(value.shape, dtype=torch.float64, device=value.device)
        for own, normal in self._parts(value.numel(), value.device):
            normal.mul_(std / grid).add_(values_N[own], alpha=1 / grid).round_()
            torch.mul(normal, grid, out=noisy.view(-1)[own])
            if divisor != 1:
                noisy.view(-1)[own].div_(divisor)
        return noisy

    def normal(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """``count`` independent standard normals, double precision."""
        normal_N = torch.empty(count, dtype=torch.float64, device=device)
        for own, normal in self._parts(count, normal_N.device):
            normal_N[own] = normal
        return normal_N

    def _parts(self, count: int, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
        """Standard normals in parts that stay in a processor's cache, each with the place that it is for."""
        pairs = _PAIRS if device.type == "cpu" else (count + 1) // 2
        start = 0
        while start < count:
            for normal in _box_muller(*self._bits(min(pairs, (count - start + 1) // 2), device)):
                stop = min(start + len(normal), count)
                yield slice(start, stop), normal[: stop - start]
                start = stop

    def _bits(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Twice ``count`` random integers of 53 bits."""
        if self._random is not None:
            both = torch.randint(0, 2**53, (2, count), generator=self._random)
        else:
            words = np.frombuffer(ssl.RAND_bytes(16 * count), dtype=np.uint64)
            both = torch.from_numpy((words >> 11).view(np.int64)).view(2, count)
        return both[0].to(device), both[1].to(device)

    def state_dict(self) -> dict[str, Any]:
        """The state of a seeded source; of an unseeded one there is nothing to know."""
        return {"random": None if self._random is None else self._random.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert (state["random"] is None) == (self._random is None), "a checkpoint of a seeded run for an unseeded one"
        if self._random is not None:
            self._random.set_state(state["random"])


def _box_muller(first_N: Tensor, second_N: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normals from each pair of uniform integers of 53 bits.

    The radius' uniform is one of the 2⁵³ midpoints in (0, 1), so that its logarithm is finite. The angle is a multiple
    of 2π/2⁵³: its upper bits pick a direction from a table in double precision, which its lower bits turn by an
    angle |δ| ≤ π/2¹⁴, where cos δ = 1 − δ²/2 and sin δ = δ − δ³/6 to within 10⁻¹⁶ (the next terms of the series).
    """
    radius_N = _root_of_log(first_N.double().add_(0.5).mul_(2.0**-53))
    cos_N, sin_N = (table.index_select(0, second_N >> _LOW) for table in _directions(second_N.device))
    delta_N = (second_N & (2**_LOW - 1)).double().sub_(2.0 ** (_LOW - 1)).mul_(2 * math.pi * 2.0**-53)
    square_N = delta_N.square()
    radial_N = (square_N * -0.5).add_(1).mul_(radius_N)  # radius · cos δ
    across_N = square_N.mul_(-1 / 6).add_(1).mul_(delta_N).mul_(radius_N)  # radius · sin δ
    one_N = (cos_N * radial_N).addcmul_(sin_N, across_N, value=-1)
    return one_N, sin_N.mul_(radial_N).addcmul_(cos_N, across_N)


def _root_of_log(uniform_N: Tensor) -> Tensor:
    """√(−2 ln u), in place; on the CPU by numpy, whose logarithm and root are twice as fast as torch's."""
    if uniform_N.device.type != "cpu":
        return uniform_N.log_().mul_(-2).sqrt_()
    array = uniform_N.numpy()
    np.log(array, out=array)
    np.multiply(array, -2, out=array)
    np.sqrt(array, out=array)
    return uniform_N


@lru_cache
def _directions(device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine at the middles of 2¹⁴ equal parts of the circle."""
    parts = 2 ** (53 - _LOW)
    angle = 2 * math.pi / parts * (torch.arange(parts, dtype=torch.float64) + 0.5)
    return angle.cos().to(device), angle.sin().to(device)


def seed_for(purpose: str, seed: int) -> int:
    """Unrelated 128-bit seeds for the several random streams of one seeded run."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:16], "big")
