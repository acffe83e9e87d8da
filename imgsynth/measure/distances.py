"""Euclidean distances by matrix products in single precision, a block at a time, and nearest neighbours by them.

‖a − b‖² = ‖a‖² + ‖b‖² − 2⟨a, b⟩ loses its digits where a and b are nearly equal, which is where an audit looks. So
everything is centred first, and pairs that are near in proportion to their norms are computed once more from their
difference: a copy is at distance 0 exactly, and every other distance is within 10⁻³ of itself.

Either side may be stored in half precision (``b_MD`` too big for memory otherwise). The other side is then rounded
alike, so that a copy stays at distance 0. For values in [-1, 1] the rounding is at most 2⁻¹², a sixth of one HU in a
window of 1,400 HU, and moves a distance by at most 2⁻¹¹ √D.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

LEFT, RIGHT = 1 << 27, 1 << 25  # values of either side that are held at once in single precision: 512 and 128 MiB
NEAR = 1e-3  # of ‖a‖² + ‖b‖²: below it a squared distance is computed from the difference


def distances(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """[N, M] float32."""
    out_NM = np.empty((len(a_ND), len(b_MD)), dtype=np.float32)
    for rows, columns, squares in _blocks(a_ND, b_MD):
        out_NM[rows, columns] = np.sqrt(squares)
    return out_NM


def nearest(a_ND: np.ndarray, b_MD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of ``a_ND``, the distance to its nearest row of ``b_MD`` and that row's index: ([N], [N]).

    The neighbour is found by blocks; its distance is then computed once more in double precision.
    """
    if not len(b_MD):
        raise ValueError("Expected at least one candidate neighbour, got none.")
    least_N = np.full(len(a_ND), np.inf)
    index_N = np.zeros(len(a_ND), dtype=np.int64)
    for rows, columns, squares in _blocks(a_ND, b_MD):
        found = squares.argmin(1)
        value = squares[np.arange(len(found)), found]
        better = value < least_N[rows]
        least_N[rows][better] = value[better]
        index_N[rows][better] = found[better] + columns.start
    precision = _coarser(a_ND, b_MD)
    pairs = ((_wide(a_ND[i], precision), _wide(b_MD[j], precision)) for i, j in enumerate(index_N))
    return np.array([np.linalg.norm(a - b) for a, b in pairs]), index_N


def _blocks(a_ND: np.ndarray, b_MD: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Blocks [n, m] of squared distances, with the rows and columns that they are of."""
    if not (len(a_ND) and len(b_MD)):
        return
    precision, width = _coarser(a_ND, b_MD), max(1, a_ND.shape[1])
    centre_D = a_ND[: max(1, RIGHT // width)].mean(0, dtype=np.float64).astype(np.float32)
    held_mD = np.empty((min(len(b_MD), max(1, RIGHT // width)), a_ND.shape[1]), dtype=np.float32)
    for rows in _slices(len(a_ND), LEFT // width):
        a_nD = centred(a_ND[rows].astype(precision, copy=False), centre_D)
        norms_n = np.einsum("nd,nd->n", a_nD, a_nD)
        for columns in _slices(len(b_MD), RIGHT // width):
            b_mD = centred(b_MD[columns].astype(precision, copy=False), centre_D, held_mD)
            norms_nm = norms_n[:, None] + np.einsum("md,md->m", b_mD, b_mD)[None, :]
            squares_nm = norms_nm - 2 * (a_nD @ b_mD.T)
            near = np.nonzero(squares_nm < NEAR * norms_nm)
            for pick in _slices(len(near[0]), RIGHT // width):
                i, j = near[0][pick], near[1][pick]
                squares_nm[i, j] = np.square(a_nD[i] - b_mD[j]).sum(1)
            yield rows, columns, squares_nm


def centred(x_ND: np.ndarray, centre_D: np.ndarray, held_MD: np.ndarray | None = None) -> np.ndarray:
    """``x_ND`` in single precision less ``centre_D``, in the first rows of ``held_MD`` (float32) where that is given.

    Memory that is asked for anew costs several times what the subtraction does, and numpy converts half precision one
    value at a time, torch many.
    """
    out_ND = np.empty(x_ND.shape, dtype=np.float32) if held_MD is None else held_MD[: len(x_ND)]
    if x_ND.dtype == np.float16 and x_ND.flags.writeable:
        torch.from_numpy(out_ND).copy_(torch.from_numpy(x_ND))
    else:
        np.copyto(out_ND, x_ND, casting="same_kind")
    out_ND -= centre_D
    return out_ND


def _slices(n: int, size: int) -> Iterator[slice]:
    size = max(1, size)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _coarser(a_ND: np.ndarray, b_MD: np.ndarray) -> type:
    return np.float16 if np.float16 in (a_ND.dtype, b_MD.dtype) else np.float32


def _wide(row_D: np.ndarray, precision: type) -> np.ndarray:
    return row_D.astype(precision).astype(np.float64)
