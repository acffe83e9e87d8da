"""From an item of a manifest to its volume, checked to be what the manifest was made from."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgsynth.cohort.build_scan import Scan
from imgsynth.cohort.grid import FRONTAL, display_plane
from imgsynth.cohort.manifest import Item, Manifest
from imgsynth.files import sha256
from imgsynth.types import Fault, InputError
from imgsynth.volumes.archives import on_disk
from imgsynth.volumes.dicom_index import Series, Slice
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.geometry import projection_affine
from imgsynth.volumes.image import read_image
from imgsynth.volumes.nifti import read_nifti
from imgsynth.volumes.npz import NpzSource, read_npz, row_volume
from imgsynth.volumes.volume import Volume


def load_volume(manifest: Manifest, item: Item) -> Volume:
    """Read one image.

    Raises:
        InputError: if a file is gone or unreadable, if it is not the content that the manifest was made from, or if
            a voxel is not a finite number; the fault names the file.
    """
    root = Path(manifest.root)
    missing = [name for name in item.files if not on_disk(root / name).is_file()]
    if missing:
        raise InputError(
            Fault(
                str(root / missing[0]),
                "no such file",
                "the cohort as the manifest lists it",
                "put it back, or start a new run",
            )
        )
    if digest_of(root, item.files, item.array, item.row) != item.digest:
        raise InputError(
            Fault(
                str(root / item.where),
                "content that has changed since the manifest was made",
                "the cohort that was split and entered in the ledger",
                "start a new run",
            )
        )
    if item.array is not None and item.row is not None:
        return read_row(root / item.files[0], item.array, item.row, item.modality)
    if item.affine:
        return _finite(read_dicom_series(series_of(root, item)), root / item.where)
    return read_file(root / item.files[0], item.modality)


@dataclass(frozen=True)
class Pair:
    """An image and its mask on the same voxels."""

    image: Volume
    mask: Volume


def load_pair(manifest: Manifest, item: Item) -> Pair:
    """Read one image and the mask beside it. Raises InputError as ``load_volume`` does, for either."""
    path = Path(manifest.root) / str(item.mask)
    if item.mask is None or not path.is_file() or sha256(path) != item.mask_digest:
        raise InputError(
            Fault(str(path), "no mask, or content that has changed since the manifest was made",
                  "the masks that were checked when the run was begun", "put them back, or start a new run")
        )  # fmt: skip
    return Pair(load_volume(manifest, item), read_file(path, item.modality))


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_file(path: Path, modality: str) -> Volume:
    """One NIfTI or picture file as a volume; both readers refuse values that are not finite."""
    if is_nifti(path):
        return read_nifti(path, modality or None)
    return _hung(read_image(path, modality))


def read_row(path: Path, array: str, row: int, modality: str) -> Volume:
    """One row of an array of an npz file as a volume."""
    return _hung(row_volume(archive(path).array(array)[row], modality, where=f"{path}[{array}][{row}]"))


def archive(path: Path) -> NpzSource:
    """The arrays of an npz file, kept in memory from one call to the next."""
    if not path.is_file():
        raise InputError(Fault(str(path), "no such file", "an npz file", "data.root=FILE.npz"))
    return _archive(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _archive(path: Path, changed: int) -> NpzSource:
    return read_npz(path)


def _hung(volume: Volume) -> Volume:
    """Pictures without geometry get the plane that their modality is shown in: radiographs frontal, CT and MR axial.

    A stack of axial pictures is taken to run from the feet to the head.
    """
    if display_plane(volume.modality) == FRONTAL:
        return volume
    return dataclasses.replace(volume, affine=projection_affine(volume.spacing[:2], letters=("L", "P")))


def _finite(volume: Volume, where: Path) -> Volume:
    broken = int(np.count_nonzero(~np.isfinite(volume.array)))
    if broken:
        raise InputError(
            Fault(
                str(where),
                f"{broken} of {volume.array.size} voxels that are NaN or infinite",
                "finite intensities",
                "repair or remove the file",
            )
        )
    return volume


def digest_of(root: Path, files: Sequence[str], array: str | None = None, row: int | None = None) -> str:
    """SHA-256 of an image's content: of its file, of its files' hashes in sorted order, or of its row of an array."""
    if array is not None and row is not None:
        images = archive(root / files[0]).array(array)
        content = f"{images.dtype.str}{images.shape[1:]}".encode() + np.ascontiguousarray(images[row]).tobytes()
        return hashlib.sha256(content).hexdigest()
    return joined_digest([sha256(on_disk(root / name)) for name in files])


def joined_digest(of_files: Sequence[str]) -> str:
    """The digest of an image from those of its files, whatever their order."""
    return of_files[0] if len(of_files) == 1 else hashlib.sha256("".join(sorted(of_files)).encode()).hexdigest()


def series_of(root: Path, item: Item | Scan) -> Series:
    """The series as it was indexed: its files in the order of space and its affine are in the manifest."""
    paths = [root / name for name in item.files]
    slices = tuple(Slice(path, 0) for path in paths)
    if item.frames:
        slices = tuple(Slice(paths[0], frame) for frame in item.frames)
    i, j, k = item.shape
    return Series(item.series, item.modality or "", (i, j, k), np.array(item.affine).reshape(4, 4), slices, {})
