"""Kernel distance: unbiased MMD² with the cubic polynomial kernel (Bińkowski et al. 2018, arXiv:1801.01401).

k(a, b) = (⟨a, b⟩/D + 1)³. Within a side, pairs of images of one patient are left out: they are not independent, and
with them the estimate would be biased. With one image per patient this is exactly the published U-statistic.

Kernel matrices are worked through a block of rows at a time, for all resamples at once: memory is that of the features.
"""

from __future__ import annotations

import numpy as np

from imgsynth.evaluate.metric import Comparison, Interval, Measurement
from imgsynth.evaluate.side import Side
from imgsynth.measure.resampling import bootstrap_weights, recentred_interval

MIN_PATIENTS = 10


def kernel(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """[N, M] in double precision."""
    base = a_ND @ b_MD.T / a_ND.shape[1] + 1.0
    return base * base * base


def within(a: Side, w_RP: np.ndarray) -> np.ndarray:
    """[R] mean of k over pairs of images of different patients of one side, for each row of patient weights.

    A patient is never paired with itself, however often drawn; NaN where a resample is of one patient alone.
    """
    w_RN, x_ND = w_RP[:, a.owner_N], a.x_ND.astype(np.float64)
    total_R = np.zeros(len(w_RP))
    for rows in a.blocks(len(a)):  # k is symmetric: of each block of rows, the columns from its own on
        later = slice(rows.start, None)
        k = kernel(x_ND[rows], x_ND[later])
        k[a.owner_N[rows, None] == a.owner_N[None, later]] = 0.0
        k[:, len(k) :] *= 2
        total_R += ((w_RN[:, rows] @ k) * w_RN[:, later]).sum(1)
    drawn_RP = w_RP * np.bincount(a.owner_N, minlength=a.n_patients)  # images of each patient
    pairs_R = drawn_RP.sum(1) ** 2 - (drawn_RP**2).sum(1)
    return np.divide(total_R, pairs_R, out=np.full(len(w_RP), np.nan), where=pairs_R > 0)


def between(a: Side, w_RP: np.ndarray, b: Side, v_RQ: np.ndarray) -> np.ndarray:
    """[R] mean of k over pairs of an image of ``a`` and one of ``b``, for each row of patient weights."""
    w_RN, v_RM = w_RP[:, a.owner_N], v_RQ[:, b.owner_N]
    a_ND, b_MD = a.x_ND.astype(np.float64), b.x_ND.astype(np.float64)
    total_R = sum(
        (((w_RN[:, rows] @ kernel(a_ND[rows], b_MD)) * v_RM).sum(1) for rows in a.blocks(len(b))),
        np.zeros(len(w_RP)),
    )
    return total_R / (w_RN.sum(1) * v_RM.sum(1))


def weighted_mmd(a: Side, w_RP: np.ndarray, b: Side, v_RQ: np.ndarray) -> np.ndarray:
    """[R] unbiased MMD² for each row of patient weights of both sides."""
    return within(a, w_RP) + within(b, v_RQ) - 2 * between(a, w_RP, b, v_RQ)


def kid_with_interval(a: Side, b: Side, replicates: int, random: np.random.Generator) -> Interval:
    """MMD² of two sets of features and its interval: the patients of both sides are resampled."""
    weights = (
        np.vstack([np.ones(side.n_patients), bootstrap_weights(side.n_patients, replicates, random)]) for side in (a, b)
    )
    w_RP, v_RQ = weights
    mmd_R = weighted_mmd(a, w_RP, b, v_RQ)
    value = float(mmd_R[0])
    low, high = recentred_interval(value, mmd_R[1:])
    return Interval(value, low, high)


def kernel_distance(c: Comparison) -> Measurement:
    """MMD² between synthetic and test features; floor between train and test. Near 0 (or below) means alike."""
    c.require_patients(MIN_PATIENTS)
    test, train, synthetic = (
        Side.of(features, images.patients_N)
        for features, images in (
            (c.test_features, c.test),
            (c.train_features, c.train),
            (c.synthetic_features, c.synthetic),
        )
    )
    return Measurement.of(
        c,
        "kernel_distance",
        kid_with_interval(synthetic, test, c.bootstrap, c.random()),
        kid_with_interval(train, test, c.bootstrap, c.random()),
        len(c.synthetic),
        "unbiased MMD² with the cubic kernel (the KID formula, not on Inception); may fall below 0",
    )
