"""Images in NumPy archives: one array of images, or the MedMNIST layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from imgsynth.cohort.build_scan import Found, Scan
from imgsynth.cohort.load import archive, digest_of, read_row
from imgsynth.schema import DataConfig
from imgsynth.types import Fault, InputError, Split

_SPLITS: dict[str, Split] = {"train": "train", "val": "holdout", "test": "test"}
_USUAL = {"patient": ("patient_ids", "patient_id", "patients", "patient"), "label": ("labels", "label")}


def find_npz(data: DataConfig) -> Found:
    """One image per row of the array ``data.images``; ids and labels from arrays beside it or from a table."""
    path = Path(str(data.root))
    found = Found(path.parent)
    columns = {
        name: _column(path, name, asked, data) for name, asked in (("patient", data.patient), ("label", data.label))
    }
    archive(path).array(data.images)
    _add_rows(found, path, data.images, data.modality, columns["patient"], columns["label"])
    return found


def find_medmnist(data: DataConfig) -> Found:
    """The train_, val_ and test_ arrays. They are pooled, and imgsynth's own splits drawn by the rules that it states,
    unless ``data.splits.official`` keeps them as train, holdout and test."""
    path = Path(str(data.root))
    found = Found(path.parent)
    kept = "kept as train, holdout and test" if data.splits.official else "pooled and split again"
    found.notes.append(f"the source's train, val and test parts are {kept}")
    for part, (_, labels) in archive(path).medmnist().items():
        first = len(found.scans)
        _add_rows(found, path, f"{part}_images", data.modality, None, _texts(labels, f"{part}_labels"))
        for scan in found.scans[first:]:
            scan.part = _SPLITS[part]
    return found


def _column(path: Path, field: str, asked: str | None, data: DataConfig) -> list[str] | None:
    """The array that is asked for, or one of a usual name; None where there is none or the table has it instead."""
    arrays = archive(path).arrays
    name = asked or next((name for name in _USUAL[field] if name in arrays), None)
    if name in arrays:
        return _texts(arrays[name], name)
    if asked is not None and data.table is None:
        raise InputError(
            Fault(
                f"data.{field}",
                asked,
                f"one of the arrays {', '.join(sorted(arrays))}",
                f"data.{field}=<array>, or data.table=<csv> with that column",
            )
        )
    return None


def _texts(array: np.ndarray, name: str) -> list[str]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(
            Fault(
                name,
                f"an array of shape {array.shape}",
                "one value per image",
                "one column of it as an array of its own",
            )
        )
    return [str(value) for value in array.tolist()]


def _add_rows(
    found: Found, path: Path, name: str, modality: str | None, patients: list[str] | None, labels: list[str] | None
) -> None:
    images = archive(path).array(name)
    for setting, column in (("data.patient", patients), ("data.label", labels)):
        if column is not None and len(column) != len(images):
            raise InputError(
                Fault(
                    setting,
                    f"{len(column)} values",
                    f"one for each of the {len(images)} rows of {name}",
                    "arrays of one length",
                )
            )
    for row in range(len(images)):
        where = f"{path.name}[{name}][{row}]"
        try:
            volume = read_row(path, name, row, modality or "")
        except InputError as error:
            found.skipped += (replace(fault, code=fault.code or "unreadable", files=(where,)) for fault in error.faults)
            continue
        found.scans.append(
            Scan(
                (where,),
                (path.name,),
                modality,
                volume.array.shape,
                volume.spacing,
                volume.orientation,
                str(images.dtype),
                digest_of(path.parent, (path.name,), name, row),
                patient=patients[row] if patients else None,
                study=where,
                series=where,
                label=labels[row] if labels else None,
                array=name,
                row=row,
            )
        )
