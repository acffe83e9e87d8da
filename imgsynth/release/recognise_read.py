"""Images from files of any kind, with the marks in words that say that they are synthetic: for ``recognise``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from imgsynth.release.folder import list_files
from imgsynth.release.zarr_store import needs_zarr
from imgsynth.types import Fault, InputError
from imgsynth.volumes.dicom_element import BROKEN as BROKEN_DICOM
from imgsynth.volumes.dicom_element import quietly
from imgsynth.volumes.dicom_index import index_files
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.image import SUFFIXES, read_image
from imgsynth.volumes.nifti import BROKEN as BROKEN_NIFTI
from imgsynth.volumes.nifti import sidecar_path
from imgsynth.volumes.nifti_limits import check_header, check_reach
from imgsynth.volumes.npz import read_npz

NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True, eq=False)
class Picture:
    """One image or volume: the file (or the folder of a series, or a row of an array), the marks in words that it
    bears, and its voxels [i, j] or [i, j, k]; None where they are a mask or cannot be read, with the ``note`` why."""

    name: str
    kind: str
    marks: tuple[str, ...]
    array: np.ndarray | None
    note: str = ""


def pictures(path: Path) -> Iterator[Picture]:
    """Every image in a file or below a folder. Raises InputError where there is nothing at ``path``."""
    if not path.exists():
        raise InputError(Fault(str(path), "no such file or folder", "images, or a folder of them", "check the path"))
    if _is_zarr(path):
        yield from _zarr(path)
        return
    files = [path] if path.is_file() else [path / name for name in list_files(path)]
    stores = sorted(
        {parent for file in files for parent in file.parents if path in parent.parents and _is_zarr(parent)}
    )
    tops = [store for store in stores if not any(other in store.parents for other in stores)]
    for store in tops:
        yield from _zarr(store)
    rest = [file for file in files if not any(store in file.parents for store in tops)]
    dicom = []
    for file in rest:
        name = file.name.lower()
        if name.endswith(NIFTI):
            yield _nifti(file)
        elif name.endswith(SUFFIXES):
            yield _image(file)
        elif name.endswith(".npz"):
            yield from _npz(file)
        elif name.endswith(".npy"):
            yield from _npy(file)
        elif _is_dicom(file):
            dicom.append(file)
    yield from _dicom(dicom)


def _dicom(files: Sequence[Path]) -> Iterator[Picture]:
    if not files:
        return
    with quietly():
        index = index_files(list(files))
        used = set()
        for series in index.series:
            used.update(series.files)
            where = str(series.files[0].parent if len(series.files) > 1 else series.files[0])
            try:
                array: np.ndarray | None = read_dicom_series(series).array
                note = ""
            except InputError as error:
                array, note = None, error.faults[0].got
            yield Picture(where, "DICOM", _dicom_marks(series.files[0]), array, note)
        for file in files:
            if file not in used:
                yield Picture(str(file), "DICOM", _dicom_marks(file), None, "no image of a series that can be read")


def _dicom_marks(path: Path) -> tuple[str, ...]:
    """Of a header; docs/dicom_attributes.md."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        found = []
        if header.get("SyntheticData") == "YES":
            found.append("Synthetic Data (0008,001C) YES")
        for item in header.get("ContributingEquipmentSequence") or []:
            codes = item.get("PurposeOfReferenceCodeSequence") or []
            if any((code.get("CodeValue"), code.get("CodingSchemeDesignator")) == ("109100", "DCM") for code in codes):
                found.append("Synthesizing Equipment (109100, DCM)")
        if str(header.get("DerivationDescription", "")).startswith("Synthetic image"):
            found.append("Derivation Description")
        return tuple(dict.fromkeys(found))
    except (InvalidDicomError, OSError, EOFError, *BROKEN_DICOM):
        return ()


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _nifti(path: Path) -> Picture:
    marks: list[str] = []
    try:
        check_header(path)
        image: Any = nib.load(path)
        if bytes(image.header["descrip"].item()).lower().startswith(b"synthetic"):
            marks.append("NIfTI descrip")
        check_reach(path, image.shape, image.get_data_dtype().itemsize, image.dataobj.offset)
        array = np.squeeze(np.asarray(image.dataobj, dtype=np.float32))
        note = "" if array.ndim in (2, 3) and np.isfinite(array).all() else f"shape {array.shape}, or values not finite"
    except (InputError, *BROKEN_NIFTI) as error:
        array, note = np.zeros(0, np.float32), f"unreadable ({error})"
    if path.name.removesuffix(".gz").removesuffix(".nii").endswith("_dseg"):
        note = "a mask: masks have no watermark"
    return Picture(str(path), "NIfTI", (*marks, *_beside(sidecar_path(path))), None if note else array, note)


def _image(path: Path) -> Picture:
    marks = _beside(path.with_suffix(".json"))
    try:
        return Picture(str(path), "image", marks, read_image(path, "OT").array[..., 0])
    except InputError as error:
        return Picture(str(path), "image", marks, None, error.faults[0].got)


def _npz(path: Path) -> Iterator[Picture]:
    marks = _beside(path.with_suffix(".json"))
    try:
        arrays = read_npz(path).arrays
    except InputError as error:
        yield Picture(str(path), "npz", marks, None, error.faults[0].got)
        return
    for name, array in arrays.items():
        yield from _rows(f"{path}[{name}]", "npz", marks, array)


def _npy(path: Path) -> Iterator[Picture]:
    marks = _beside(path.with_suffix(".json"))
    try:
        yield from _rows(str(path), "npy", marks, np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        yield Picture(str(path), "npy", marks, None, f"unreadable ({error})")


def _zarr(path: Path) -> Iterator[Picture]:
    store = needs_zarr().open(str(path), mode="r")
    ours = store.attrs.get("imgsynth")
    marks = ("Zarr attribute",) if isinstance(ours, dict) and ours.get("synthetic") is True else ()
    for name, array in [("", store)] if hasattr(store, "dtype") else sorted(store.arrays()):
        if array.ndim > 1:
            yield from _rows(f"{path}/{name}", "Zarr", marks, array)


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def _rows(name: str, kind: str, marks: tuple[str, ...], array: Any) -> Iterator[Picture]:
    """Of an array: [i, j] is an image, [n, i, j, k] are volumes; [n, i, j] may be either, and is given as both."""
    if array.dtype.kind not in "buif":
        return
    if array.ndim in (2, 3):
        yield Picture(name, kind, marks, _finite(array[:]))
    if array.ndim in (3, 4) and array.shape[-1] > 4:
        for row in range(array.shape[0]):
            yield Picture(f"{name}[{row}]", kind, marks, _finite(array[row]))


def _finite(array: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.asarray(array, dtype=np.float32), posinf=0, neginf=0)


def _beside(path: Path) -> tuple[str, ...]:
    """The mark of a JSON sidecar."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ()
    return ("sidecar",) if isinstance(said, dict) and said.get("SyntheticData") is True else ()
