"""The public grid: from the configuration alone to its geometry, and from model space back to a volume."""

from __future__ import annotations

import re

import numpy as np
from torch import Tensor

from imgsynth.schema import PreprocessConfig
from imgsynth.types import Fault, Grid, InputError, IntensityUnit, Structure
from imgsynth.volumes.volume import Volume

NOMINAL_MM = 1.0  # voxel size of a grid without a physical one, and thickness of a 2D image

# How a single image hangs on the wall: rows run toward the first letter, columns toward the second.
_PROJECTIONS = ("DX", "CR")
FRONTAL = "IL"  # radiographs: rows toward the feet, columns toward the patient's left
AXIAL = "PL"  # CT and MR slices: rows toward the back, columns toward the patient's left
_TOWARD = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}  # RAS+
_DEFAULT = PreprocessConfig().orientation


def grid_of(preprocess: PreprocessConfig, modality: str, structures: tuple[Structure, ...] = ()) -> Grid:
    """The grid that images of ``modality`` are brought to, their masks' ``structures`` included; nothing in it is read
    from the data.

    Three axes: ``preprocess.orientation`` as it stands. Two axes: a two-letter code says where rows and columns run;
    where the configuration leaves the three-letter default, images are upright as they are read on a screen, "IL" for
    radiographs (DX, CR) and "PL" (axial) for CT and MR. Spacing null (``fit=resize``) is a nominal 1 mm. CT in a
    fixed window is in HU, everything else in arbitrary units.

    Raises:
        InputError: if the orientation does not fit the number of axes.
    """
    shape = tuple(int(n) for n in preprocess.shape)
    spacing = tuple(float(s) for s in preprocess.spacing or [NOMINAL_MM] * len(shape))
    orientation = preprocess.orientation
    if len(shape) == 2 and orientation == _DEFAULT:
        orientation = display_plane(modality)
    if len(orientation) != len(shape) or len(set(map(_axis, orientation))) != len(shape) or len(spacing) != len(shape):
        raise InputError(
            Fault(
                "preprocess.orientation",
                f"{preprocess.orientation!r} with {len(shape)} axes and {len(spacing)} spacings",
                "one letter of R/L, A/P, S/I for each axis, and as many spacings",
                "preprocess.orientation=RAS for volumes; IL (frontal), PL (axial) or IP (sagittal) for single images",
            )
        )
    unit: IntensityUnit = "HU" if modality == "CT" and preprocess.intensity == "window" else "a.u."
    low, high = float(preprocess.low), float(preprocess.high)
    return Grid(shape, spacing, orientation, modality, unit, low, high, structures)


def display_plane(modality: str) -> str:
    """Toward where rows and columns of a single image of ``modality`` run, when nothing says otherwise."""
    return FRONTAL if modality in _PROJECTIONS else AXIAL


def axis_codes(grid: Grid) -> str:
    """Three axis codes of the volume a grid stands for; a 2D grid's third axis makes the system right-handed."""
    if grid.spatial_dims == 3:
        return grid.orientation
    rows, columns = (_TOWARD[code] for code in grid.orientation)
    normal = tuple(int(n) for n in np.cross(rows, columns))
    return grid.orientation + next(code for code, toward in _TOWARD.items() if toward == normal)


def grid_affine(grid: Grid) -> np.ndarray:
    """4×4 matrix from voxel indices to RAS+ mm; the grid's centre is the origin. A 2D grid is one nominal mm thick."""
    shape = np.array([*grid.shape, 1][:3])
    spacing = np.array([*grid.spacing, NOMINAL_MM][:3])
    affine = np.eye(4)
    affine[:3, :3] = np.array([_TOWARD[code] for code in axis_codes(grid)], dtype=float).T * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)
    return affine


def to_volume(x_C: Tensor | np.ndarray, grid: Grid) -> Volume:
    """A model's image [1, *grid.shape] in [-1, 1] (values beyond are clamped) as a Volume in the grid's unit, float32.

    The inverse of ``build_transforms``: preprocessing the result gives ``x_C`` again (intensity included where the
    grid's window is fixed).
    """
    array = np.asarray(x_C.detach().cpu() if isinstance(x_C, Tensor) else x_C, dtype=np.float32)
    if array.shape != (1, *grid.shape):
        raise ValueError(f"Expected one channel on the grid, shape {(1, *grid.shape)}, got {array.shape}.")
    intensity = grid.to_intensity(array[0]).astype(np.float32)
    return Volume(
        intensity.reshape(*grid.shape, *[1] * (3 - grid.spatial_dims)), grid_affine(grid), grid.modality, grid.unit
    )


def _axis(code: str) -> int:
    """Which RAS axis a letter runs along; letters that are none get an axis that no grid has."""
    return next((axis for axis, pair in enumerate(("RL", "AP", "SI")) if re.match(f"[{pair}]", code)), -1)
