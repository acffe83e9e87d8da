"""A lower bound on ε from an attack's errors (Nasr et al. 2021, arXiv:2101.04535; Jagielski et al. 2020, 2006.07709).

(ε, δ)-DP forces TPR ≤ e^ε FPR + δ and 1 − FPR ≤ e^ε FNR + δ on every attack. Exact binomial upper bounds on both
errors, at α/2 each, turn observed errors into an ε that the mechanism cannot be below, with confidence 1 − α.
The count of errors treats patients as independent trials, which within one training run is an approximation.

The threshold must not be chosen by the errors that are then counted. Three ways keep to that:

| way                             | threshold                                     | price                              |
|---------------------------------|-----------------------------------------------|------------------------------------|
| ``epsilon_at_threshold``        | fixed before the scores are seen              | none                               |
| ``epsilon_over_thresholds``     | the best of J fixed before                    | each at α/J (Bonferroni)           |
| ``epsilon_lower_bound``         | chosen on one random half of the patients     | counted on the other half alone    |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import betaincinv

from imgsynth.measure.resampling import clopper_pearson

MIN_PATIENTS = 4  # members and non-members, each: below it, half of them cannot carry any bound above 0


@dataclass(frozen=True)
class EpsilonBound:
    """``epsilon``: the mechanism is not below it, with confidence 1 − α.

    ``ceiling`` is what an attack without any error could certify here. The rest is what both rest on.
    """

    epsilon: float
    ceiling: float
    n_members: int  # patients that the errors were counted on
    n_nonmembers: int
    false_positives: int
    false_negatives: int
    threshold: float  # a patient is called a member at score ≥ threshold
    alpha: float
    alpha_each: float  # α/J where the best of J thresholds was taken, else α
    delta: float


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


def epsilon_at_threshold(
    in_P: np.ndarray, out_Q: np.ndarray, threshold: float, alpha: float, delta: float
) -> EpsilonBound:
    """The bound at ``threshold``, which must have been fixed before these scores were seen."""
    return _counted(in_P, out_Q, threshold, alpha, alpha, delta)


def epsilon_over_thresholds(
    in_P: np.ndarray, out_Q: np.ndarray, thresholds: Sequence[float], alpha: float, delta: float
) -> EpsilonBound:
    """The best of J ``thresholds`` that were fixed before these scores were seen, each at α/J (Bonferroni).

    Thresholds taken from the scores themselves are not fixed beforehand, however many there are.
    """
    each = alpha / len(thresholds)
    bounds = [_counted(in_P, out_Q, threshold, each, alpha, delta) for threshold in thresholds]
    return max(bounds, key=lambda bound: bound.epsilon)


def choose_threshold(in_P: np.ndarray, out_Q: np.ndarray, alpha: float, delta: float) -> float:
    """The threshold with the largest bound on these patients; between equals, with the largest TPR − FPR."""
    thresholds_T = np.unique(np.concatenate([in_P, out_Q]))
    false_negatives_T = np.searchsorted(np.sort(in_P), thresholds_T, side="left")
    false_positives_T = len(out_Q) - np.searchsorted(np.sort(out_Q), thresholds_T, side="left")
    fnr_T = _upper_bounds_of(len(in_P), alpha)[false_negatives_T]
    fpr_T = _upper_bounds_of(len(out_Q), alpha)[false_positives_T]
    with np.errstate(divide="ignore"):
        member_T = np.log(np.maximum(1 - fnr_T - delta, 0)) - np.log(fpr_T)
        other_T = np.log(np.maximum(1 - fpr_T - delta, 0)) - np.log(fnr_T)
    bound_T = np.maximum(np.maximum(member_T, other_T), 0.0)
    advantage_T = 1 - false_negatives_T / len(in_P) - false_positives_T / len(out_Q)
    return float(thresholds_T[np.lexsort((advantage_T, bound_T))[-1]])


def epsilon_lower_bound(
    in_P: np.ndarray, out_Q: np.ndarray, alpha: float, delta: float, random: np.random.Generator
) -> EpsilonBound:
    """Choose the threshold on one random half of the patients, count errors on the other half.

    Choosing and counting on the same patients would report more than α allows. Needs MIN_PATIENTS on either side.
    """
    in_P, out_Q = random.permutation(in_P), random.permutation(out_Q)
    half_in, half_out = len(in_P) // 2, len(out_Q) // 2
    threshold = choose_threshold(in_P[:half_in], out_Q[:half_out], alpha, delta)
    return _counted(in_P[half_in:], out_Q[half_out:], threshold, alpha, alpha, delta)


def _counted(
    in_P: np.ndarray, out_Q: np.ndarray, threshold: float, alpha_each: float, alpha: float, delta: float
) -> EpsilonBound:
    """Errors at ``threshold`` as a bound at level ``alpha_each``, part of a procedure at level ``alpha``."""
    false_positives, false_negatives = int((out_Q >= threshold).sum()), int((in_P < threshold).sum())
    return EpsilonBound(
        epsilon=epsilon_from_errors(false_positives, len(out_Q), false_negatives, len(in_P), alpha_each, delta),
        ceiling=ceiling(len(in_P), len(out_Q), alpha_each, delta),
        n_members=len(in_P),
        n_nonmembers=len(out_Q),
        false_positives=false_positives,
        false_negatives=false_negatives,
        threshold=float(threshold),
        alpha=alpha,
        alpha_each=alpha_each,
        delta=delta,
    )


def upper_bounds(errors_T: np.ndarray, n: int, alpha: float) -> np.ndarray:
    """[T] Clopper and Pearson's upper bounds at α/2 on rates of which ``errors_T`` of ``n`` ≥ 1 were seen."""
    inside_T = np.minimum(errors_T, n - 1)
    return np.where(errors_T < n, betaincinv(inside_T + 1, n - inside_T, 1 - alpha / 2), 1.0)


@lru_cache(maxsize=8)
def _upper_bounds_of(n: int, alpha: float) -> np.ndarray:
    """[n + 1] ``upper_bounds`` of every count: the controls choose a threshold again and again on as many patients."""
    return upper_bounds(np.arange(n + 1), n, alpha)
