"""Kernel distance: unbiased MMD² with the cubic polynomial kernel (Bińkowski et al. 2018, arXiv:1801.01401).

k(a, b) = (⟨a, b⟩/D + 1)³. Within a side, pairs of images of one patient are left out: they are not independent, and
with them the estimate would be biased. With one image per patient this is exactly the published U-statistic.
"""

from __future__ import annotations

import numpy as np

from imgsynth.evaluate.metric import Comparison, Interval, Measurement, require
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import bootstrap_weights, recentred_interval, sum_by_patient

MIN_PATIENTS = 10


def kernel_sums(a_ND: np.ndarray, a: Images, b_MD: np.ndarray, b: Images) -> np.ndarray:
    """[P, Q] sums of k over the images of patient p of ``a`` with those of patient q of ``b``."""
    kernel_NM = (a_ND.astype(np.float64) @ b_MD.T / a_ND.shape[1] + 1.0) ** 3
    kernel_PM = sum_by_patient(kernel_NM, a.owner_N, a.n_patients)
    return sum_by_patient(kernel_PM.T, b.owner_N, b.n_patients).T


def weighted_mmd(
    k_aa: np.ndarray, k_bb: np.ndarray, k_ab: np.ndarray, count_a: np.ndarray, count_b: np.ndarray,
    w_RP: np.ndarray, v_RQ: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """[R] unbiased MMD² for each row of patient weights; a patient is never paired with itself, however often drawn."""

    def within(k_PP: np.ndarray, count_P: np.ndarray, w_RP: np.ndarray) -> np.ndarray:
        off_PP = 1.0 - np.eye(len(k_PP))
        pairs_PP = np.outer(count_P, count_P) * off_PP
        pairs_R = ((w_RP @ pairs_PP) * w_RP).sum(1)
        pairs_R[pairs_R == 0] = np.nan  # a resample of one patient alone has no pair and no estimate
        return ((w_RP @ (k_PP * off_PP)) * w_RP).sum(1) / pairs_R

    between = ((w_RP @ k_ab) * v_RQ).sum(1) / ((w_RP @ count_a) * (v_RQ @ count_b))
    return within(k_aa, count_a, w_RP) + within(k_bb, count_b, v_RQ) - 2 * between


def kid_with_interval(
    a_ND: np.ndarray, a: Images, b_MD: np.ndarray, b: Images, replicates: int, random: np.random.Generator
) -> Interval:
    """MMD² of two sets of features and its interval: the patients of both sides are resampled."""
    k_aa, k_bb, k_ab = kernel_sums(a_ND, a, a_ND, a), kernel_sums(b_MD, b, b_MD, b), kernel_sums(a_ND, a, b_MD, b)
    count_a = sum_by_patient(np.ones(len(a)), a.owner_N, a.n_patients)
    count_b = sum_by_patient(np.ones(len(b)), b.owner_N, b.n_patients)
    once = np.ones((1, a.n_patients)), np.ones((1, b.n_patients))
    value = float(weighted_mmd(k_aa, k_bb, k_ab, count_a, count_b, *once)[0])
    w_RP = bootstrap_weights(a.n_patients, replicates, random)
    v_RQ = bootstrap_weights(b.n_patients, replicates, random)
    low, high = recentred_interval(value, weighted_mmd(k_aa, k_bb, k_ab, count_a, count_b, w_RP, v_RQ))
    return Interval(value, low, high)


def kernel_distance(c: Comparison) -> Measurement:
    """MMD² between synthetic and test features; floor between train and test. Near 0 (or below) means alike."""
    smallest = min(c.train.n_patients, c.test.n_patients, c.synthetic.n_patients)
    require(smallest >= MIN_PATIENTS, f"{smallest} patients on the smallest side; it takes {MIN_PATIENTS}")
    result = kid_with_interval(c.synthetic_features, c.synthetic, c.test_features, c.test, c.bootstrap, c.random())
    return Measurement(
        name="kernel_distance",
        value=result.value,
        low=result.low,
        high=result.high,
        floor=kid_with_interval(c.train_features, c.train, c.test_features, c.test, c.bootstrap, c.random()),
        unit="",
        better="lower",
        n_real=c.test.n_patients,
        n_synthetic=len(c.synthetic),
        encoder=c.encoder.name,
        note="unbiased MMD² with the cubic kernel (the KID formula, not on Inception); may fall below 0",
    )
