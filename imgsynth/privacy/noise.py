"""Gaussian noise from OpenSSL's cryptographic generator, added so that the result's low bits say nothing.

Every bit comes from OpenSSL's cryptographic generator (``ssl.RAND_bytes``: AES in counter mode, NIST SP 800-90A, seeded
and reseeded by the kernel; three times as fast as reading the kernel's own, which matters for millions of weights).
Its state never leaves the process: there is no seed that could be stored, leaked or guessed. Normals are made by Box
and Muller's transform in double precision; on the CPU in parts that fit its cache.
"""

from __future__ import annotations

import hashlib
import math
import ssl
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_PART = 131_072  # normals that are made at once on the CPU: what they need stays in the cache
_CELLS = 14  # upper bits of the angle's word, which pick a direction from a table
_GRID = 2.0**-20  # of the noise's standard deviation, rounded down to a power of two


class NoiseSource:
    """Adds N(0, std²) to tensors, independently for each element and call.

    What it is: noise of 2⁵² radii and about as many angles as doubles tell apart, tails to 8.5 standard deviations (a
    normal exceeds that once in 10¹⁷ draws), and *rounding of the noised value to a grid that is the same for all data*
    (a power of two near 2⁻²⁰ std). Floating-point noise alone is attackable, because which doubles can come out depends
    on the value beneath (Mironov 2012, CCS). Rounded, an outcome within 8 std of two values is reachable from both with
    nearly its ideal probability, and rounding is post-processing of the ideal mechanism. This is so for values below
    2³³ std, beyond which doubles are wider than the grid; clipping keeps them below.

    What it is not: an exact sampler. The proof is of real-number noise; the cells' probabilities are off by less than
    2⁻³⁰ of themselves to 5 std, by 2⁻¹⁷ at 6.5 and 2⁻⁹ at 7, beyond which one draw in 4·10¹¹ falls. No accountant sees
    that. Nor does it hide how long a step takes.

    ``seed`` makes the noise repeatable for tests; such a run is not releasable.
    """

    def __init__(self, seed: int | None = None):
        self._random = None if seed is None else torch.Generator().manual_seed(seed_for("noise", seed) % 2**63)

    def add(self, value: Tensor, std: float, divisor: float = 1.0) -> Tensor:
        """(``value`` + N(0, std²)) / ``divisor``, double precision, on the device of ``value``; std > 0.

        The noised value lies on the public grid before it is divided.
        """
        grid = 2.0 ** math.floor(math.log2(std)) * _GRID  # a power of two: scaling by it is exact
        if not _by_table(value.device):
            normal_N = self.normal(value.numel(), value.device)
            cells_N = normal_N.mul_(std / grid).add_(value.detach().reshape(-1), alpha=1 / grid).round_()
            return cells_N.mul_(grid / divisor).view(value.shape)
        wide = value.dtype in (torch.float32, torch.float64)
        value_N = (value if wide else value.double()).detach().reshape(-1).numpy()
        noisy_N = np.empty(len(value_N))
        for start in range(0, len(noisy_N), _PART):
            own = slice(start, start + _PART)
            cells = self._on_cpu(len(value_N[own]), std / grid)
            cells += np.multiply(value_N[own], 1 / grid, dtype=np.float64)
            np.rint(cells, out=cells)
            np.multiply(cells, grid / divisor, out=noisy_N[own])
        return torch.from_numpy(noisy_N).view(value.shape)

    def normal(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """``count`` independent standard normals, double precision."""
        device = torch.device(device)
        if _by_table(device):
            parts = [self._on_cpu(min(_PART, count - start)) for start in range(0, count, _PART)]
            return torch.from_numpy(np.concatenate([np.empty(0), *parts]))
        words = torch.tensor(self._words((count + 1) // 2).view(np.int64), device=device)
        return _box_muller(*words)[:count]

    def _on_cpu(self, count: int, std: float = 1.0) -> NDArray[np.float64]:
        """``count`` draws of N(0, ``std``²), of which there should not be more than fit the cache."""
        return _box_muller_by_table(self._words((count + 1) // 2), std).view(np.float64)[:count]

    def _words(self, count: int) -> NDArray[np.uint64]:
        """[2, ``count``] random integers of 64 bits."""
        if self._random is not None:
            words = torch.empty(2, count, dtype=torch.int64).random_(-(2**63), None, generator=self._random)
            return words.numpy().view(np.uint64)
        return np.frombuffer(ssl.RAND_bytes(16 * count), dtype=np.uint64).reshape(2, count)

    def state_dict(self) -> dict[str, Any]:
        """The state of a seeded source; of an unseeded one there is nothing to know."""
        return {"random": None if self._random is None else self._random.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert (state["random"] is None) == (self._random is None), "a checkpoint of a seeded run for an unseeded one"
        if self._random is not None:
            self._random.set_state(state["random"])


def _by_table(device: torch.device) -> bool:
    """Whether normals for it are made by numpy."""
    return device.type == "cpu"


def _box_muller(first_N: Tensor, second_N: Tensor) -> Tensor:
    """Two independent standard normals, side by side, from each pair of random words of 64 bits (int64), anywhere.

    The radius' uniform is one of the 2⁵² midpoints in (0, 1), so that its logarithm is finite; the angle is a multiple
    of 2π/2⁵³, rounded to a double.
    """
    uniform_N = (first_N >> 12 & (1 << 52) - 1).double().add_(0.5).mul_(2.0**-52)
    radius_N = uniform_N.log_().mul_(-2).sqrt_()
    angle_N = (second_N >> 11 & (1 << 53) - 1).double().mul_(2 * math.pi * 2.0**-53)
    return torch.stack([angle_N.cos(), angle_N.sin()], 1).mul_(radius_N[:, None]).view(-1)


def _box_muller_by_table(words_2N: NDArray[np.uint64], std: float = 1.0) -> NDArray[np.complex128]:
    """The same to the last digits, times ``std``, as real and imaginary part; on the CPU, and faster.

    Bits become numbers as the fraction of a double in [1, 2). The angle's upper bits pick a direction from a table,
    which its lower bits turn by an angle |δ| ≤ π/2¹⁴, where cos δ = 1 − δ²/2 and sin δ = δ − δ³/6 to within 10⁻¹⁶
    (the next terms of the series).
    """
    radius_N = _fraction(words_2N[0] >> np.uint64(12))
    radius_N -= 1 - 2.0**-53
    np.log(radius_N, out=radius_N)
    radius_N *= -2 * std**2
    np.sqrt(radius_N, out=radius_N)

    turn_N = np.empty(len(radius_N), dtype=np.complex128)  # e^{iδ} times the radius
    lower_N = _fraction(words_2N[1] & np.uint64((1 << 64 - _CELLS) - 1))
    lower_N -= 1.125  # of [1, 1.25): 50 bits of 52
    unit = 8 * math.pi / 2**_CELLS  # δ is so many of these
    square_N = lower_N * lower_N
    lower_N *= radius_N
    term_N = square_N * (-(unit**3) / 6)
    term_N += unit
    np.multiply(term_N, lower_N, out=turn_N.imag)
    np.multiply(square_N, -(unit**2) / 2, out=term_N)
    term_N += 1
    np.multiply(term_N, radius_N, out=turn_N.real)

    cells_N = (words_2N[1] >> np.uint64(64 - _CELLS)).view(np.int64)
    normal_N = np.take(_directions(), cells_N, mode="clip")  # cells are within the table: "clip" is only the fastest
    normal_N *= turn_N
    return normal_N


def _fraction(bits_N: NDArray[np.uint64]) -> NDArray[np.float64]:
    """1 + ``bits_N`` / 2⁵², in their place."""
    bits_N |= np.uint64(0x3FF0_0000_0000_0000)  # the double 1.0
    return bits_N.view(np.float64)


@lru_cache
def _directions() -> NDArray[np.complex128]:
    """e^{iφ} at the middles φ of 2¹⁴ equal parts of the circle."""
    return np.exp(2j * math.pi / 2**_CELLS * (np.arange(2**_CELLS) + 0.5))


def seed_for(purpose: str, seed: int) -> int:
    """Unrelated 128-bit seeds for the several random streams of one seeded run."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:16], "big")
