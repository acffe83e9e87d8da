"""The images of a release, read back from its files onto the model's scale."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from imgsynth.cohort.grid import grid_affine
from imgsynth.release.facts import Facts
from imgsynth.release.zarr_store import from_stored, needs_zarr
from imgsynth.types import Grid
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.nifti import read_nifti


def images_of_release(folder: Path, facts: Facts, most: int) -> Iterator[np.ndarray]:
    """The first ``most`` images [1, *grid.shape] in [-1, 1], in the patients' order, of one of the formats that are
    there: the inverse of ``release_volume``. What a format rounds (CT to whole HU) stays rounded."""
    for array in islice(_arrays(folder, facts), most):
        yield _on_grid(array, facts.grid)


def images_by_format(folder: Path, facts: Facts, number: int) -> Iterator[tuple[str, np.ndarray]]:
    """(format, array [i, j, k]) of synthetic patient ``number``, counted from 1, in each format that is there."""
    patient = facts.patients[number - 1]
    if patient.nifti:
        yield "nifti", read_nifti(folder / patient.nifti[0]).array
    if patient.dicom:
        yield "dicom", read_dicom_series([folder / name for name in patient.dicom]).array
    if facts.cohort.get("zarr"):
        store = needs_zarr().open_group(str(folder / facts.cohort["zarr"]), mode="r")["0"]
        yield "zarr", from_stored(store[number - 1])


def _arrays(folder: Path, facts: Facts) -> Iterator[np.ndarray]:
    """Each [i, j, k] in the grid's unit."""
    if all(patient.nifti for patient in facts.patients):
        yield from (read_nifti(folder / patient.nifti[0]).array for patient in facts.patients)
    elif all(patient.dicom for patient in facts.patients):
        yield from (read_dicom_series([folder / n for n in patient.dicom]).array for patient in facts.patients)
    else:
        store = needs_zarr().open_group(str(folder / facts.cohort["zarr"]), mode="r")["0"]
        yield from (from_stored(store[index]) for index in range(len(facts.patients)))


def _on_grid(array: np.ndarray, grid: Grid) -> np.ndarray:
    """Undo ``right_handed``, which reverses the last axis of a left-handed grid, and the scale of intensities."""
    if np.linalg.det(grid_affine(grid)[:3, :3]) < 0:
        array = array[:, :, ::-1]
    x = 2 * (array.astype(np.float32) - grid.low) / (grid.high - grid.low) - 1
    return np.clip(x.reshape(grid.shape), -1, 1)[None]
