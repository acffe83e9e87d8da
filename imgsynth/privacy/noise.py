"""Gaussian noise from OpenSSL's cryptographic generator, added so that the result's low bits say nothing.

Every bit comes from OpenSSL's cryptographic generator (``ssl.RAND_bytes``: AES in counter mode, NIST SP 800-90A, seeded
and reseeded by the kernel; three times as fast as reading the kernel's own, which matters for millions of weights).
Its state never leaves the process: there is no seed that could be stored, leaked or guessed. Normals are made by Box
and Muller's transform in double precision.
"""

from __future__ import annotations

import hashlib
import math
import ssl
from typing import Any

import numpy as np
import torch
from torch import Tensor

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

    def add(self, value: Tensor, std: float) -> Tensor:
        """``value`` + N(0, std²) on the public grid, in double precision, on the device of ``value``; std > 0."""
        grid = 2.0 ** math.floor(math.log2(std)) * _GRID  # a power of two: scaling by it is exact
        noisy = self.normal(value.numel(), value.device).view(value.shape)
        return noisy.mul_(std / grid).add_(value.detach(), alpha=1 / grid).round_().mul_(grid)

    def normal(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """``count`` independent standard normals, double precision."""
        pairs = (count + 1) // 2
        u_2N = self._uniform(2 * pairs, device).view(2, pairs)
        radius, angle = u_2N[0].log_().mul_(-2.0).sqrt_(), u_2N[1].mul_(2.0 * math.pi)
        normal_2N = torch.empty_like(u_2N)
        torch.cos(angle, out=normal_2N[0])
        torch.sin(angle, out=normal_2N[1])
        return normal_2N.mul_(radius).view(-1)[:count]

    def _uniform(self, count: int, device: torch.device | str) -> Tensor:
        """Uniform in (0, 1): the 2⁵³ midpoints, so that the logarithm is always finite."""
        if self._random is not None:
            bits = torch.randint(0, 2**53, (count,), generator=self._random)
        else:
            bits = torch.from_numpy(np.frombuffer(ssl.RAND_bytes(8 * count), dtype=np.int64) & (2**53 - 1))
        return bits.to(device).double().add_(0.5).mul_(2.0**-53)

    def state_dict(self) -> dict[str, Any]:
        """The state of a seeded source; of an unseeded one there is nothing to know."""
        return {"random": None if self._random is None else self._random.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert (state["random"] is None) == (self._random is None), "a checkpoint of a seeded run for an unseeded one"
        if self._random is not None:
            self._random.set_state(state["random"])


def seed_for(purpose: str, seed: int) -> int:
    """Unrelated 128-bit seeds for the several random streams of one seeded run."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:16], "big")
