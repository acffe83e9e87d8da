"""Images that wait to be put into the Zarr store: patients are made in any order, by several processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imgsynth.files import atomic_path
from imgsynth.types import IntensityUnit
from imgsynth.volumes.volume import Volume

PARTS = "zarr/parts"


def dtype_of(unit: IntensityUnit) -> np.dtype:
    """HU are whole numbers."""
    return np.dtype("int16" if unit == "HU" else "float32")


def part_name(number: int) -> str:
    """Where the image of synthetic patient ``number`` waits, relative to the release, until all are there."""
    return f"{PARTS}/{number:06d}.npy"


def write_part(release: Path, number: int, volume: Volume) -> Path:
    """Put the image of synthetic patient ``number`` aside: patients are made in any order, by several processes."""
    path = release / part_name(number)
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.save(file, to_stored(volume))
    return path


def to_stored(volume: Volume) -> np.ndarray:
    """The volume's array [i, j, k] as [k, j, i], or [j, i] of a single image."""
    array = volume.array.transpose(2, 1, 0)
    return (array if len(array) > 1 else array[0]).astype(dtype_of(volume.unit))
