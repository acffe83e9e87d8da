"""Is every DICOM file of a release what DESIGN promises: synthetic, nobody's, unique, in its place and range?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from pydicom import FileDataset
from pydicom.errors import InvalidDicomError

from imgsynth.release.dicom_rules import broken_file
from imgsynth.release.images import release_geometry
from imgsynth.release.patients import SyntheticPatient, dicom_sex
from imgsynth.types import Fault, Grid, InputError
from imgsynth.volumes.dicom_element import BROKEN
from imgsynth.volumes.dicom_modules import burned_in_annotation
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.parallel import in_chunks
from imgsynth.volumes.volume import Volume

REMEDY = "do not use this file; get the release again from whoever published it"


def dicom_faults(
    folder: Path, patients: Sequence[SyntheticPatient], grid: Grid, burned_in: str | None
) -> Iterator[Fault]:
    """Faults of all DICOM files that ``patients`` list, by file, by series and over the whole release.

    ``burned_in`` is what the card says of Burned In Annotation.
    """
    uids: Counter[str] = Counter()
    examined = [patient for patient in patients if patient.dicom]
    files_each = max((len(patient.dicom) for patient in examined), default=1)
    for _, chunk in in_chunks(partial(_examine, folder, grid, burned_in), examined, files_each):
        for faults, found in chunk:
            yield from faults
            uids.update(found)
    for uid in sorted(uid for uid, count in uids.items() if count > 1):
        yield Fault("dicom", f"UID {uid} more than once", "UIDs that are unique over the release", REMEDY)


def _examine(
    folder: Path, grid: Grid, burned_in: str | None, patients: Sequence[SyntheticPatient]
) -> list[tuple[list[Fault], list[str]]]:
    """The faults of each patient's files, and the UIDs in them that nothing else in the release may have."""
    found = []
    for patient in patients:
        uids: list[str] = []
        found.append((list(_patient_faults(folder, patient, grid, burned_in, uids)), uids))
    return found


def _patient_faults(
    folder: Path, patient: SyntheticPatient, grid: Grid, burned_in: str | None, uids: list[str]
) -> Iterator[Fault]:
    """Faults of one patient's files; their UIDs are added to ``uids``."""
    datasets = {}
    for name in patient.dicom:
        try:
            datasets[name] = pydicom.dcmread(folder / name)
        except (InvalidDicomError, OSError, ValueError, EOFError) as error:
            yield Fault(name, f"unreadable ({error})", "a DICOM file", REMEDY)
    for name, dataset in datasets.items():
        try:
            yield from header_faults(name, dataset, patient.id, grid.modality, burned_in)
            if (got := str(dataset.get("PatientSex", "") or "")) != dicom_sex(patient.facts):
                yield Fault(f"{name}: PatientSex", repr(got), repr(dicom_sex(patient.facts)), REMEDY)
        except BROKEN as error:
            yield Fault(name, f"unreadable ({error})", "elements that can be read", REMEDY)
        uids.append(str(dataset.get("SOPInstanceUID", "")))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        values = {str(dataset[keyword].value) for dataset in datasets.values() if keyword in dataset}
        if len(values) > 1:
            yield Fault(patient.id, f"{len(values)} values of {keyword}", "one series of one study", REMEDY)
        uids.extend(values)
    if len(datasets) == len(patient.dicom):
        yield from _series_faults(folder, patient, grid)


def header_faults(
    name: str, dataset: FileDataset, patient: str, modality: str, burned_in: str | None
) -> Iterator[Fault]:
    """Faults of one header: against the table of its object, and against what the release says elsewhere."""
    for broken in broken_file(dataset):
        yield Fault(f"{name}: {broken.where}", broken.got, broken.expected, REMEDY)
    judged = burned_in_annotation(burned_in, modality)
    for keyword, value in {"PatientID": patient, "Modality": modality, "BurnedInAnnotation": judged}.items():
        if dataset.get(keyword) != value:
            yield Fault(f"{name}: {keyword}", repr(dataset.get(keyword)), repr(value), REMEDY)
    if not str(dataset.get("PatientName", "")).startswith(patient):
        yield Fault(f"{name}: PatientName", repr(str(dataset.get("PatientName", ""))), f"{patient}…", REMEDY)
    if dataset.preamble and dataset.preamble.strip(b"\0"):
        yield Fault(f"{name}: preamble", "bytes that are not zero", "128 zeros", REMEDY)


def _series_faults(folder: Path, patient: SyntheticPatient, grid: Grid) -> Iterator[Fault]:
    try:
        volume = read_dicom_series([folder / name for name in patient.dicom])
    except InputError as error:
        yield from (Fault(patient.id, fault.got, fault.expected, REMEDY) for fault in error.faults)
        return
    yield from volume_faults(f"{patient.id} (DICOM)", volume, grid, projection=grid.modality in ("DX", "CR"))


def volume_faults(where: str, volume: Volume, grid: Grid, projection: bool = False) -> Iterator[Fault]:
    """Faults of an image against the grid: shape, place, range. A DICOM ``projection`` has no place in the patient."""
    shape, affine = release_geometry(grid)
    if volume.array.shape != shape:
        yield Fault(where, f"shape {volume.array.shape}", f"{shape}, the grid's", REMEDY)
    columns = slice(0, 2) if projection else slice(0, 4)
    if not np.allclose(volume.affine[:3, columns], affine[:3, columns], atol=1e-3):
        yield Fault(where, f"affine {volume.affine.tolist()}", f"{affine.tolist()}, the grid's", REMEDY)
    step = (grid.high - grid.low) / 65535 + (0.5 if grid.unit == "HU" or projection else 0)
    low, high = float(volume.array.min()), float(volume.array.max())
    if not grid.low - step <= low <= high <= grid.high + step:
        yield Fault(where, f"values {low:g} to {high:g}", f"{grid.low:g} to {grid.high:g} {grid.unit}", REMEDY)
    if volume.unit != grid.unit:
        yield Fault(where, f"unit {volume.unit}", grid.unit, REMEDY)
