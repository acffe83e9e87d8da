"""Distance between images that no flip and no small shift can hide: for each pair, the least over all of these.

Two stages, so that thousands of images are compared in minutes. Coarsely, every synthetic image, shifted by nothing and
by the largest shift along each axis, against every real image in every flip, on pooled images by matrix products.
Finely, only the nearest patients of each synthetic image and the nearest synthetic images of each patient, in the flip
that was best, over every shift, by one cross-correlation (FFT) a pair. Images of more than 64 (32 in three dimensions)
voxels along an axis are pooled to that first; shifts are of pooled voxels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from imgsynth.measure.images import Images

SHIFT = 3  # pooled voxels along each axis, at most; a sixth of the image where it is smaller than 18
SIDE = {2: 64, 3: 32}  # pooled voxels along an axis, at most
COARSE = 8  # cells along an axis in the first stage
OF_ROW, OF_COLUMN = 16, 8  # patients of each synthetic image, and synthetic images of each patient, compared finely
AT_ONCE = 64  # synthetic images transformed at once


@dataclass(frozen=True, eq=False)
class Nearness:
    """``distance_NP`` [N, P]: root mean square difference, in the images' unit, of synthetic image n and the nearest
    image of patient p, over flips and shifts; infinite for pairs that the coarse stage ruled out. ``image_NP``: that
    image's index. ``nearest_P`` [P]: of the synthetic images that the coarse stage took for the nearest of patient p,
    the least distance; unlike ``distance_NP.min(0)`` it does not depend on who and how many the other patients are."""

    distance_NP: np.ndarray
    image_NP: np.ndarray
    nearest_P: np.ndarray

    @property
    def filled_NP(self) -> np.ndarray:
        """``distance_NP``, and for pairs that were ruled out the largest distance of the row that is known."""
        known_NP = np.isfinite(self.distance_NP)
        largest_N = np.where(known_NP, self.distance_NP, -np.inf).max(1, keepdims=True)
        return np.where(known_NP, self.distance_NP, largest_N)


def invariant_nearness(synthetic: Images, patients: Images, of_row: int = OF_ROW) -> Nearness:
    """Every synthetic image against every patient, ``of_row`` of them finely; see the module's text.

    Raises ValueError without either.
    """
    if not (len(synthetic) and len(patients)):
        raise ValueError(f"Expected images on both sides, got {len(synthetic)} and {len(patients)}.")
    x_NC, y_MC = pooled(synthetic.x_NC), pooled(patients.x_NC)
    shift = largest_shift(x_NC.shape[2:])
    coarse_NM, flip_NM = _coarse(x_NC, y_MC, shift)
    coarse_NP, image_NP = _by_patient(coarse_NM, patients)
    of_patient_NP = _least(coarse_NP, OF_COLUMN, axis=0)
    rows, columns = np.nonzero(_least(coarse_NP, of_row, axis=1) | of_patient_NP)
    images = image_NP[rows, columns]
    fine = _fine(x_NC, y_MC, rows, images, flip_NM[rows, images], shift)
    distance_NP = np.full(coarse_NP.shape, np.inf)
    distance_NP[rows, columns] = fine
    return Nearness(distance_NP, image_NP, np.where(of_patient_NP, distance_NP, np.inf).min(0))


def largest_shift(shape: tuple[int, ...]) -> int:
    return max(1, min(SHIFT, min(shape) // 6))


def pooled(x_NC: np.ndarray) -> Tensor:
    """The images as a tensor of at most SIDE voxels along each axis."""
    dims = x_NC.ndim - 2
    factors = [-(-side // SIDE[dims]) for side in x_NC.shape[2:]]
    pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
    parts = (
        torch.from_numpy(np.ascontiguousarray(x_NC[i : i + AT_ONCE])).float() for i in range(0, len(x_NC), AT_ONCE)
    )
    return torch.cat([part if max(factors) == 1 else pool(part, factors) for part in parts])


def _flips(dims: int) -> list[tuple[int, ...]]:
    """Axes to reverse (of [N, 1, *spatial]): every subset of the spatial ones."""
    axes = range(2, 2 + dims)
    return [subset for size in range(dims + 1) for subset in itertools.combinations(axes, size)]


def _coarse(x_NC: Tensor, y_MC: Tensor, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """([N, M] least squared distance of the coarse images, [N, M] index of the flip that gave it)."""
    dims = x_NC.ndim - 2
    flips = [_cells(y_MC.flip(axes)) for axes in _flips(dims)]
    squares = [(y_MD * y_MD).sum(1) for y_MD in flips]
    best_NM = torch.full((len(x_NC), len(y_MC)), torch.inf)
    flip_NM = torch.zeros(best_NM.shape, dtype=torch.int8)
    padded = F.pad(x_NC, [shift] * (2 * dims), mode="replicate")
    for corner in itertools.product((0, shift, 2 * shift), repeat=dims):
        x_ND = _cells(_window(padded, corner, x_NC.shape[2:]))
        norms_N1 = (x_ND * x_ND).sum(1, keepdim=True)
        for index, (y_MD, squares_M) in enumerate(zip(flips, squares, strict=True)):
            found_NM = torch.addmm(norms_N1 + squares_M, x_ND, y_MD.T, alpha=-2)
            nearer = found_NM < best_NM
            flip_NM[nearer] = index
            torch.minimum(best_NM, found_NM, out=best_NM)
    return best_NM.numpy(), flip_NM.numpy()


def _cells(x_NC: Tensor) -> Tensor:
    """[N, D] means over at most COARSE cells along each axis."""
    dims = x_NC.ndim - 2
    height, width, *depth = (min(COARSE, side) for side in x_NC.shape[2:])
    if dims == 2:
        return F.adaptive_avg_pool2d(x_NC, (height, width)).flatten(1)
    return F.adaptive_avg_pool3d(x_NC, (height, width, depth[0])).flatten(1)


def _by_patient(d_NM: np.ndarray, patients: Images) -> tuple[np.ndarray, np.ndarray]:
    """([N, P] least distance over each patient's images, [N, P] the image)."""
    least_NP = np.empty((len(d_NM), patients.n_patients), d_NM.dtype)
    image_NP = np.empty(least_NP.shape, np.int64)
    for p in range(patients.n_patients):
        own = np.flatnonzero(patients.owner_N == p)
        image_NP[:, p] = own[d_NM[:, own].argmin(1)]
        least_NP[:, p] = d_NM[:, own].min(1)
    return least_NP, image_NP


def _least(d_NP: np.ndarray, count: int, axis: int) -> np.ndarray:
    """[N, P] whether the pair is among the ``count`` nearest along ``axis``."""
    count = min(count, d_NP.shape[axis])
    chosen_NP = np.zeros(d_NP.shape, bool)
    least = np.argpartition(d_NP, count - 1, axis=axis).take(range(count), axis=axis)
    np.put_along_axis(chosen_NP, least, True, axis=axis)
    return chosen_NP


def _fine(
    x_NC: Tensor, y_MC: Tensor, rows: np.ndarray, images: np.ndarray, flips: np.ndarray, shift: int
) -> np.ndarray:
    """[pairs] least RMS difference over all shifts, of the part of the real image that every shift leaves in view."""
    found = np.empty(len(rows))
    for start in range(0, len(x_NC), AT_ONCE):
        search = _ShiftSearch(x_NC[start : start + AT_ONCE], shift)
        here = (rows >= start) & (rows < start + AT_ONCE)
        for flip, axes in enumerate(_flips(x_NC.ndim - 2)):
            pairs = np.flatnonzero(here & (flips == flip))
            if len(pairs):
                y_BC = y_MC[torch.from_numpy(images[pairs])].flip(axes)
                found[pairs] = search.rms(torch.from_numpy(rows[pairs] - start), y_BC)
    return found


class _ShiftSearch:
    """Least over shifts s of the RMS of x[s + r] - y[shift + r], r over y without a border of ``shift`` voxels.

    ‖x_s - y‖² = Σ x_s² + ‖y‖² - 2⟨x_s, y⟩, both sums over s being cross-correlations without wrap-around. The best
    shift's difference is then taken voxel by voxel, so that a copy is at distance 0.
    """

    def __init__(self, x_NC: Tensor, shift: int):
        self.x_NC, self.shift, self.shape = x_NC, shift, x_NC.shape[2:]
        self.axes = tuple(range(2, x_NC.ndim))
        self.inner = [side - 2 * shift for side in self.shape]
        self.spectra_NC = self._spectra(x_NC)
        self.energy_NC = self._correlate(self._spectra(x_NC * x_NC), torch.ones((1, 1, *self.inner)))

    def rms(self, rows: Tensor, y_BC: Tensor) -> np.ndarray:
        """[B] of the images ``rows`` [B] and ``y_BC``."""
        y_BC = _window(y_BC, [self.shift] * len(self.shape), self.inner)
        scores = (self.energy_NC[rows] - 2 * self._correlate(self.spectra_NC[rows], y_BC)).flatten(1)
        best = np.unravel_index(scores.argmin(1).numpy(), (2 * self.shift + 1,) * len(self.shape))
        found = []
        for b, row in enumerate(rows.tolist()):
            part = _window(self.x_NC[row : row + 1], [int(corner[b]) for corner in best], self.inner)
            found.append(float((part - y_BC[b]).double().square().mean().sqrt()))
        return np.array(found)

    def _spectra(self, x_NC: Tensor) -> Tensor:
        return torch.fft.rfftn(x_NC, s=self.shape, dim=self.axes)

    def _correlate(self, spectra_BC: Tensor, y_BC: Tensor) -> Tensor:
        product = torch.fft.irfftn(spectra_BC * self._spectra(y_BC).conj(), s=self.shape, dim=self.axes)
        return _window(product, [0] * len(self.shape), [2 * self.shift + 1] * len(self.shape))


def _window(x_NC: Tensor, starts: Sequence[int], sides: Sequence[int]) -> Tensor:
    """The part of every image that begins at ``starts`` and is as large as ``sides``."""
    for axis, (start, side) in enumerate(zip(starts, sides, strict=True), 2):
        x_NC = x_NC.narrow(axis, start, side)
    return x_NC
