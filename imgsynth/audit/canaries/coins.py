"""Secret coins, and guesses at them, as a one-run audit counts them (Steinke, Nasr and Jagielski 2023, 2305.08846)."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Guesses:
    """How many coins are guessed at, fixed before anything is seen: the ``included`` canaries with the highest scores
    are said to be in, the ``excluded`` ones with the lowest to be out; of the others nothing is said."""

    included: int
    excluded: int

    @property
    def total(self) -> int:
        return self.included + self.excluded

    def correct(self, scores_M: np.ndarray, coins_M: np.ndarray) -> int:
        """How many are right. Equal scores are ordered by lot, so that no order of the canaries tells anything."""
        order = np.lexsort((np.random.default_rng().random(len(scores_M)), scores_M))
        lowest, highest = order[: self.excluded], order[len(order) - self.included :]
        return int(coins_M[highest].sum() + (~coins_M[lowest]).sum())


def half_and_half(canaries: int, share: float) -> Guesses:
    """Guesses at ``share`` of the canaries, at least one of either kind."""
    each = max(1, round(share * canaries / 2))
    return Guesses(each, each)


def toss(canaries: int, seed: int | None = None) -> np.ndarray:
    """[M] fair coins from the operating system's entropy; ``seed`` is for tests."""
    if seed is not None:
        return np.random.default_rng(seed).random(canaries) < 0.5
    bits = np.frombuffer(os.urandom(-(-canaries // 8)), dtype=np.uint8)
    return np.unpackbits(bits)[:canaries].astype(bool)
