"""Intervals whose sample is the patient: resampling of whole patients, and exact binomial intervals.

A resample is a vector of patient weights (how often each was drawn), so a statistic that is a function of sums over
patients is recomputed for all resamples by one matrix product.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.special import betaincinv

LEVEL = 0.95  # of every interval that says nothing else


def bootstrap_weights(n_patients: int, replicates: int, random: np.random.Generator) -> np.ndarray:
    """[R, P] counts: each row is n_patients draws with replacement from n_patients patients (Efron's bootstrap)."""
    return random.multinomial(n_patients, np.full(n_patients, 1.0 / n_patients), size=replicates).astype(np.float64)


def mean_by_patient(values_N: np.ndarray, owner_N: np.ndarray, n_patients: int) -> np.ndarray:
    """[P, F] means of ``values_N`` [N, F] over the images of each patient."""
    return sum_by_patient(values_N, owner_N, n_patients) / np.bincount(owner_N, minlength=n_patients)[:, None]


def percentile_interval(replicates_R: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Efron's percentile interval; replicates in which the statistic is undefined (NaN) are left out."""
    low, high = np.nanquantile(replicates_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def recentred_interval(value: float, replicates_R: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The spread of the replicates, laid around ``value`` instead of around their own mean.

    For statistics that the bootstrap biases upward (a distance between distributions: a resample has fewer distinct
    patients). The interval speaks about the statistic at this sample size, as its real-versus-real floor does.
    """
    low, high = percentile_interval(replicates_R - np.nanmean(replicates_R), level)
    return value + low, value + high


def value_and_interval(values_R: np.ndarray) -> dict[str, float]:
    """{"value", "low", "high"} of a statistic: the first entry is of the sample itself, the others of its resamples."""
    low, high = percentile_interval(values_R[1:])
    return {"value": float(values_R[0]), "low": low, "high": high}


def clopper_pearson(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact two-sided interval of a binomial proportion (Clopper & Pearson 1934); (0, 1) without trials."""
    alpha = 1 - level
    low = 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, alpha / 2))
    high = 1.0 if successes == trials else float(betaincinv(successes + 1, trials - successes, 1 - alpha / 2))
    return low, high


def sum_by_patient(values_N: np.ndarray, owner_N: np.ndarray, n_patients: int) -> np.ndarray:
    """[P, ...] sums of ``values_N`` [N, ...] over the images of each patient."""
    ends = np.cumsum(np.bincount(owner_N, minlength=n_patients))
    of_patient = csr_array(
        (np.ones(len(owner_N)), np.argsort(owner_N, kind="stable"), np.concatenate([[0], ends])),
        shape=(n_patients, len(owner_N)),
    )
    return (of_patient @ values_N.reshape(len(owner_N), -1)).reshape(n_patients, *values_N.shape[1:])
