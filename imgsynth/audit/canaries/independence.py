"""Is the noise fresh? Tests of what pooled moments cannot see: noise used twice, or kept, or not normal.

``z_TM`` is what is left of Dirac canaries' readings without their dose: for the plan's mechanism T × M independent
N(0, σ²). Of two independent such vectors of length n the squared cosine has the distribution Beta(1/2, (n - 1)/2),
exactly and for every σ; of all pairs the largest is tested (Bonferroni), which sees a repeated or negated step however
far apart, and of the sums over neighbours the largest, which sees what is spread thin.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

_BLOCK = 1024  # vectors whose products with all others are held at once
_LAGS = 8
_EXACT = 1 - 1e-12  # doubles tell no squared cosine above this from 1; in two or three dimensions it matters


def of_rows(z_RN: np.ndarray) -> tuple[float, float] | None:
    """(largest |cosine| of two rows, p-value that rows are independent); None for fewer than two rows or columns."""
    z_RN = z_RN.astype(np.float64)
    rows, n = z_RN.shape
    if rows < 2 or n < 2:
        return None
    norm_R = np.linalg.norm(z_RN, axis=1)
    unit_RN = np.divide(z_RN, norm_R[:, None], out=np.zeros_like(z_RN), where=norm_R[:, None] > 0)
    largest = _largest_product(unit_RN)
    pairs = rows * (rows - 1) // 2 * _p_of_cosine(largest, n)
    lags = {*range(1, min(_LAGS, rows - 1) + 1), rows // 2}  # half: the two normals of Box and Muller's pairs
    neighbours = len(lags) * min(_p_of_cosine(_cosine(z_RN[:-lag], z_RN[lag:]), (rows - lag) * n) for lag in lags)
    return largest, float(min(1.0, 2 * min(pairs, neighbours)))


def of_shape(z_TM: np.ndarray) -> tuple[float, float]:
    """(Kolmogorov's distance from a normal of the same mean square, its p-value, which is rather too large)."""
    z_N = z_TM.ravel().astype(np.float64)
    found = stats.kstest(z_N / max(math.sqrt(float((z_N**2).mean())), 1e-300), "norm")
    return float(found.statistic), float(found.pvalue)


def _largest_product(unit_RN: np.ndarray) -> float:
    """The largest |product| of two different rows."""
    largest = 0.0
    for start in range(0, len(unit_RN), _BLOCK):
        product_BR = np.abs(unit_RN[start : start + _BLOCK] @ unit_RN[start:].T)
        np.fill_diagonal(product_BR, 0.0)
        largest = max(largest, float(product_BR.max()))
    return largest


def _cosine(a_RN: np.ndarray, b_RN: np.ndarray) -> float:
    length = float(np.linalg.norm(a_RN) * np.linalg.norm(b_RN))
    return float(np.vdot(a_RN, b_RN)) / length if length > 0 else 0.0


def _p_of_cosine(cosine: float, n: int) -> float:
    return float(stats.beta.sf(min(_EXACT, cosine**2), 0.5, (n - 1) / 2))
