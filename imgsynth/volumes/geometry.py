"""Where voxels lie: between DICOM's planes (LPS+ mm, PS3.3 C.7.6.2) and the affine of a Volume (RAS+ mm)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from imgsynth.volumes.volume import Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])

# Patient Orientation (0020,0020), PS3.3 C.7.6.1.1.1: the direction in LPS+ that each letter stands for.
LETTERS = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}

# A radiograph is taken as seen by its reader: columns run to the patient's left, rows to the feet.
UPRIGHT = ("L", "F")


def planes_affine(orientation: np.ndarray, spacing: np.ndarray, origin: np.ndarray, step: float) -> np.ndarray:
    """The RAS+ affine of an array [column, row, slice].

    ``orientation`` is Image Orientation (6 direction cosines in LPS+: along a row, then along a column), ``spacing``
    Pixel Spacing (mm between rows, then between columns), ``origin`` the Image Position of the first slice (LPS+ mm),
    ``step`` the mm from slice to slice along the normal (PS3.3 C.7.6.2.1.1).
    """
    row, column = orientation[:3], orientation[3:]
    affine = np.eye(4)
    affine[:3, 0] = LPS_TO_RAS @ row * spacing[1]
    affine[:3, 1] = LPS_TO_RAS @ column * spacing[0]
    affine[:3, 2] = LPS_TO_RAS @ np.cross(row, column) * step
    affine[:3, 3] = LPS_TO_RAS @ origin
    return affine


def orthonormal(orientation: np.ndarray, tolerance: float = 1e-3) -> np.ndarray | None:
    """Image Orientation freed of rounding: exact unit vectors at right angles; None when it is not near to that."""
    row, column = orientation[:3], orientation[3:]
    sizes = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.abs(sizes - 1).max() > tolerance or abs(row @ column) > tolerance:
        return None
    row = row / sizes[0]
    column = column - (row @ column) * row
    return np.concatenate([row, column / np.linalg.norm(column)])


def letters_orientation(letters: tuple[str, ...]) -> np.ndarray | None:
    """Image Orientation (6,) for a Patient Orientation such as ("L", "F"); None when it does not say two axes."""
    if len(letters) != 2 or not all(letter[:1] in LETTERS for letter in letters):
        return None
    row, column = (np.array(LETTERS[letter[:1]], dtype=float) for letter in letters)
    return None if abs(row @ column) > 0 else np.concatenate([row, column])


def projection_affine(spacing: tuple[float, float] = (1.0, 1.0), letters: tuple[str, str] = UPRIGHT) -> np.ndarray:
    """The affine of a radiograph or photograph, which has a pixel size but no place in the patient.

    Array axes are [column, row, 1]; ``spacing`` is mm between columns, then between rows. By default columns run to
    the patient's left and rows to the feet (axis codes "LIP"), so that the image stands upright in every viewer.
    Its origin is 0 and its nominal thickness 1 mm: a projection has neither.
    """
    orientation = letters_orientation(letters)
    if orientation is None:
        raise ValueError(f"Expected two letters of different axes from {''.join(LETTERS)}, got {letters}.")
    return planes_affine(orientation, np.array(spacing[::-1]), np.zeros(3), 1.0)


def is_square(affine: np.ndarray, tolerance: float = 1e-4) -> bool:
    """Whether the three array axes are at right angles: DICOM planes and a NIfTI qform can carry nothing else."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < tolerance)


def right_handed(volume: Volume) -> Volume:
    """The same image with a right-handed affine: where it is left-handed, the slice axis is stored the other way.

    Every voxel keeps its value and its place in the patient; only the order in which slices are stored may change.
    """
    if np.linalg.det(volume.affine[:3, :3]) > 0:
        return volume
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 2] * (volume.array.shape[2] - 1)
    affine[:3, 2] *= -1
    return replace(volume, array=volume.array[:, :, ::-1], affine=affine)
