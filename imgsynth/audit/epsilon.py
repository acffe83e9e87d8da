"""A lower bound on ε from an attack's errors (Nasr et al. 2021, arXiv:2101.04535; Jagielski et al. 2020, 2006.07709).

(ε, δ)-DP forces TPR ≤ e^ε FPR + δ and 1 − FPR ≤ e^ε FNR + δ on every attack. Exact binomial upper bounds on both
errors, at α/2 each, turn observed errors into an ε that the mechanism cannot be below, with confidence 1 − α.
The count of errors treats patients as independent trials, which within one training run is an approximation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from imgsynth.measure.resampling import clopper_pearson

MIN_PATIENTS = 4  # members and non-members, each: below it, half of them cannot carry any bound above 0


@dataclass(frozen=True)
class EpsilonBound:
    """``epsilon`` ≥ this with confidence 1 − α; ``ceiling`` is what an attack without any error could certify here."""

    epsilon: float
    ceiling: float
    n_members: int  # patients that the errors were counted on
    n_nonmembers: int


def epsilon_from_errors(
    false_positives: int, n_nonmembers: int, false_negatives: int, n_members: int, alpha: float, delta: float
) -> float:
    """ε_LB = max{0, ln[(1 − FNR⁺ − δ)/FPR⁺], ln[(1 − FPR⁺ − δ)/FNR⁺]} for a threshold fixed beforehand."""
    fpr = clopper_pearson(false_positives, n_nonmembers, 1 - alpha)[1]
    fnr = clopper_pearson(false_negatives, n_members, 1 - alpha)[1]

    def log_ratio(numerator: float, denominator: float) -> float:
        return math.log(numerator / denominator) if numerator > 0 else 0.0

    return max(0.0, log_ratio(1 - fnr - delta, fpr), log_ratio(1 - fpr - delta, fnr))


def ceiling(n_members: int, n_nonmembers: int, alpha: float, delta: float) -> float:
    """The bound that zero errors would give: no attack on so few patients can certify more."""
    return epsilon_from_errors(0, n_nonmembers, 0, n_members, alpha, delta)


def choose_threshold(in_P: np.ndarray, out_Q: np.ndarray, alpha: float, delta: float) -> float:
    """The threshold with the largest bound on these patients; between equals, with the largest TPR − FPR."""

    def quality(threshold: float) -> tuple[float, float]:
        false_positives, false_negatives = int((out_Q >= threshold).sum()), int((in_P < threshold).sum())
        bound = epsilon_from_errors(false_positives, len(out_Q), false_negatives, len(in_P), alpha, delta)
        return bound, 1 - false_negatives / len(in_P) - false_positives / len(out_Q)

    return float(max(np.unique(np.concatenate([in_P, out_Q])), key=quality))


def epsilon_lower_bound(
    in_P: np.ndarray, out_Q: np.ndarray, alpha: float, delta: float, random: np.random.Generator
) -> EpsilonBound:
    """Choose the threshold on one random half of the patients, count errors on the other half.

    Choosing and counting on the same patients would report more than α allows. Needs MIN_PATIENTS on either side.
    """
    in_P, out_Q = random.permutation(in_P), random.permutation(out_Q)
    half_in, half_out = len(in_P) // 2, len(out_Q) // 2
    threshold = choose_threshold(in_P[:half_in], out_Q[:half_out], alpha, delta)
    in_P, out_Q = in_P[half_in:], out_Q[half_out:]
    false_positives, false_negatives = int((out_Q >= threshold).sum()), int((in_P < threshold).sum())
    return EpsilonBound(
        epsilon=epsilon_from_errors(false_positives, len(out_Q), false_negatives, len(in_P), alpha, delta),
        ceiling=ceiling(len(in_P), len(out_Q), alpha, delta),
        n_members=len(in_P),
        n_nonmembers=len(out_Q),
    )
