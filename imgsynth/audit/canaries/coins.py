"""The secret coins of an audit, and how many of them are guessed at, which is fixed before anything is seen."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np


class GuessCounts(NamedTuple):
    """The ``included`` canaries with the highest scores are called in, the ``excluded`` ones with the lowest out."""

    included: int
    excluded: int

    @property
    def total(self) -> int:
        return self.included + self.excluded


def half_and_half(canaries: int, share: float) -> GuessCounts:
    """Guesses at ``share`` of the canaries, at least one of either kind."""
    each = max(1, round(share * canaries / 2))
    return GuessCounts(each, each)


def toss(canaries: int, seed: int | None = None) -> np.ndarray:
    """[M] fair coins from the operating system's entropy; ``seed`` is for tests."""
    if seed is not None:
        return np.random.default_rng(seed).random(canaries) < 0.5
    bits = np.frombuffer(os.urandom(-(-canaries // 8)), dtype=np.uint8)
    return np.unpackbits(bits)[:canaries].astype(bool)
