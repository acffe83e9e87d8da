"""What the scanner adds to the patient: the couch, its calibration error, and correlated noise."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from imgsynth.cohort.phantom_anatomy import PatientAnatomy, Study
from imgsynth.cohort.phantom_canvas import Canvas
from imgsynth.cohort.phantom_thorax import RIB

AIR = -1000.0  # HU
HU_MIN, HU_MAX = -1024, 3071  # what a 12-bit scanner stores
FOV_MM = 384.0  # edge of the cubic field of view: 12 mm voxels at 32³
_COUCH_HU = -650.0
_REFERENCE_MM = 12.0  # voxel edge that a scanner's noise figure refers to


def paint_table(canvas: Canvas, p: PatientAnatomy) -> None:
    """A thin curved couch under the back; it does not roll with the patient."""
    across = canvas.grid[:, None, None]
    height = canvas.grid[None, :, None] - canvas.shift[1]
    back = p.cavity_b + 6.0 + RIB + p.muscle + p.fat
    sheet = 7.0 - np.abs(height + back + 7.0 - 0.0012 * across**2)
    canvas.over(canvas.coverage(np.minimum(sheet, 175.0 - np.abs(across)).astype(np.float32)), _COUCH_HU)


def acquire(hu: np.ndarray, p: PatientAnatomy, study: Study) -> np.ndarray:
    """Add calibration error and noise, then round and clip to what the scanner stores: int16 HU.

    Noise grows with girth (fewer photons arrive), toward the middle of the body, and with smaller voxels.
    """
    n = hu.shape[0]
    noise = np.random.default_rng(study.noise_seed).standard_normal(hu.shape, dtype=np.float32)
    noise = gaussian_filter(noise, (study.scanner.correlation, study.scanner.correlation, 0.0), mode="wrap")
    noise /= noise.std()
    axis = ((np.arange(n) - (n - 1) / 2) * (FOV_MM / n)).astype(np.float32)
    centre = np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / 120.0**2)[:, :, None]
    girth = 1.0 + 0.2 * p.habitus
    scale = study.scanner.noise * girth * np.sqrt(_REFERENCE_MM * n / FOV_MM)
    image = hu + study.scanner.offset + scale * (0.7 + 0.5 * centre) * noise
    return np.clip(np.rint(image), HU_MIN, HU_MAX).astype(np.int16)
