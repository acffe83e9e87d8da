"""Euclidean distances by matrix products, and nearest neighbours in chunks of them."""

from __future__ import annotations

import numpy as np


def distances(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """[N, M] by ‖a‖² + ‖b‖² − 2⟨a, b⟩: fast, with an error near zero of some 10⁻³ of the vectors' norms."""
    squares_NM = -2 * (a_ND @ b_MD.T)
    squares_NM += np.einsum("nd,nd->n", a_ND, a_ND)[:, None]
    squares_NM += np.einsum("md,md->m", b_MD, b_MD)[None, :]
    return np.sqrt(np.maximum(squares_NM, 0.0))


def nearest(a_ND: np.ndarray, b_MD: np.ndarray, chunk: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """For each row of ``a_ND``, the distance to its nearest row of ``b_MD`` and that row's index: ([N], [N]).

    The neighbour is found by ``distances``; its distance is then computed once more from the difference, so that
    a copy is at distance 0.
    """
    if not len(b_MD):
        raise ValueError("Expected at least one candidate neighbour, got none.")
    found = [distances(a_ND[i : i + chunk], b_MD).argmin(1) for i in range(0, len(a_ND), chunk)]
    index_N = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
    distance_N = np.array([np.linalg.norm(a.astype(np.float64) - b_MD[j]) for a, j in zip(a_ND, index_N, strict=True)])
    return distance_N, index_N
