"""Nearest neighbours by Euclidean distance, in chunks of a matrix product."""

from __future__ import annotations

import numpy as np


def nearest(a_ND: np.ndarray, b_MD: np.ndarray, chunk: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """For each row of ``a_ND``, the distance to its nearest row of ``b_MD`` and that row's index: ([N], [N]).

    The neighbour is found by ‖a‖² + ‖b‖² − 2⟨a, b⟩, which is fast but cancels for near copies; the distance that is
    returned is therefore computed once more from the difference.
    """
    if not len(b_MD):
        raise ValueError("Expected at least one candidate neighbour, got none.")
    squares_M = np.einsum("md,md->m", b_MD, b_MD)
    found = [
        np.argmin(squares_M[None, :] - 2 * (a_ND[i : i + chunk] @ b_MD.T), axis=1) for i in range(0, len(a_ND), chunk)
    ]
    index_N = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
    distance_N = np.array([np.linalg.norm(a.astype(np.float64) - b_MD[j]) for a, j in zip(a_ND, index_N, strict=True)])
    return distance_N, index_N
