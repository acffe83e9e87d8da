"""Memorisation share: how many train patients have a synthetic image nearer than different patients ever are.

The same share of holdout patients is what the threshold lets through by chance, and grows with the number of samples
(a rule without it called 11 % of patients memorised where nothing was copied); the difference is the finding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import norm

from imgsynth.measure.resampling import LEVEL


def memorisation(to_train_P: np.ndarray, to_holdout_Q: np.ndarray, threshold: float) -> dict[str, Any]:
    """Shares of patients with a synthetic image nearer than ``threshold``, and their difference.

    ``to_train_P`` [P] and ``to_holdout_Q`` [Q] are each patient's distance to the nearest synthetic image, found for
    each patient by itself: a search in which patients compete for samples would find less where there are more of them.
    A patient is in it or not, and train and holdout are different patients: the interval is that of a difference of two
    independent proportions.
    """
    found, chance = to_train_P < threshold, to_holdout_Q < threshold
    low, high = difference_interval(int(found.sum()), len(found), int(chance.sum()), len(chance))
    return {
        "threshold": threshold,
        "train": float(found.mean()),
        "holdout": float(chance.mean()),
        "n_train": len(found),
        "n_holdout": len(chance),
        "excess": float(found.mean() - chance.mean()),
        "low": low,
        "high": high,
    }


def difference_interval(a: int, n_a: int, b: int, n_b: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a/n_a - b/n_b for independent binomials (Newcombe 1998, Stat. Med. 17:873, method 10: Wilson's
    intervals of the two, squared and added)."""
    p, q = a / n_a, b / n_b
    (p_low, p_high), (q_low, q_high) = wilson(a, n_a, level), wilson(b, n_b, level)
    low = p - q - np.hypot(p - p_low, q_high - q)
    high = p - q + np.hypot(p_high - p, q - q_low)
    return float(low), float(high)


def wilson(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Score interval of a binomial proportion (Wilson 1927)."""
    z2, p = norm.ppf((1 + level) / 2) ** 2, successes / trials
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = np.sqrt(z2 * (p * (1 - p) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))
