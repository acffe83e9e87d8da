"""Rows of a numpy archive (.npz), MedMNIST's layout among them, as volumes."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgsynth.types import Fault, InputError, IntensityUnit
from imgsynth.volumes.geometry import projection_affine
from imgsynth.volumes.volume import Volume

MEDMNIST_PARTS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class NpzSource:
    """The arrays of one archive, by name; the first axis of each is the row."""

    path: Path
    arrays: dict[str, np.ndarray]

    def array(self, name: str) -> np.ndarray:
        """An array that must be there; raises InputError that lists those that are."""
        if name not in self.arrays:
            raise InputError(Fault(f"{self.path}", f"no array {name!r}", f"one of {', '.join(sorted(self.arrays))}",
                                   "name the array in the data configuration"))  # fmt: skip
        return self.arrays[name]

    def medmnist(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """MedMNIST's parts in order: images [N, H, W] (or [N, D, H, W]) and labels [N], for train, val and test."""
        parts = {}
        for part in MEDMNIST_PARTS:
            images, labels = self.array(f"{part}_images"), self.array(f"{part}_labels")
            if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] == 3):
                colour = " (colour: Path-, Derma-, Retina- and BloodMNIST are)" if images.ndim == 4 else ""
                raise InputError(Fault(f"{self.path} {part}_images", f"shape {images.shape}{colour}",
                                       "gray images [N, H, W] or [N, D, H, W]",
                                       "another of the sets, or gray images of it in an npz of your own"))  # fmt: skip
            if labels.ndim == 2 and labels.shape[1] != 1:
                raise InputError(Fault(f"{self.path} {part}_labels", f"shape {labels.shape} (several labels an image)",
                                       "one label an image", "use an npz with one label array"))  # fmt: skip
            if len(images) != len(labels):
                raise InputError(Fault(f"{self.path} {part}_labels", f"{len(labels)} rows", f"{len(images)} rows",
                                       "repair the archive"))  # fmt: skip
            parts[part] = (images, labels.reshape(-1))
        return parts


def read_npz(path: Path) -> NpzSource:
    """Load every array of an archive; raises InputError when it is damaged or holds pickled objects."""
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return NpzSource(path, {name: archive[name] for name in archive.files})
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(Fault(str(path), f"unreadable npz ({error})", "an archive of plain numeric arrays",
                               "save it again with numpy.savez, without objects")) from error  # fmt: skip


def row_volume(
    row: np.ndarray,
    modality: str,
    unit: IntensityUnit = "a.u.",
    spacing: tuple[float, ...] | None = None,
    where: str = "array",
) -> Volume:
    """One row of an array of images as a Volume.

    ``row`` is [H, W] as it is displayed (rows from top to bottom, columns from left to right), or [D, H, W], a stack
    of such. The Volume's array is [W, H, 1] or [W, H, D]: its axes run to the patient's left and to the feet, as in a
    radiograph seen by its reader, so that DICOM and NIfTI written from it show it upright (axis codes "LIP").
    ``spacing`` is mm along the Volume's axes; nominally 1 mm. ``where`` names the row in errors.
    """
    colour = row.ndim == 3 and row.shape[-1] in (3, 4)
    if row.ndim not in (2, 3) or colour or row.size == 0:
        raise InputError(Fault(where, f"an image of shape {row.shape}", "[H, W] or [D, H, W], without colour",
                               "convert colour to gray first"))  # fmt: skip
    if row.dtype.kind not in "buif" or not np.isfinite(row).all():
        raise InputError(Fault(where, f"values of type {row.dtype}, NaN or infinite", "finite real numbers",
                               "repair or leave out the row"))  # fmt: skip
    array = row.astype(np.float32).T if row.ndim == 3 else row.astype(np.float32).T[..., None]
    affine = projection_affine()
    if spacing is not None:
        affine[:3, : len(spacing)] *= np.array(spacing)
    return Volume(array, affine, modality, unit)
