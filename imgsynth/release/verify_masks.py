"""Does every mask of a release lie on its image, with declared values alone, the same in each format?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom import Dataset

from imgsynth.release.dicom_rules import broken_file
from imgsynth.release.images import release_geometry
from imgsynth.release.patients import SyntheticPatient
from imgsynth.release.verify_nifti import REMEDY, header_faults
from imgsynth.types import Fault, Grid, InputError, Structure
from imgsynth.volumes.dicom_element import BROKEN
from imgsynth.volumes.dicom_seg import PRIVATE_SCHEME, read_segmentation
from imgsynth.volumes.nifti import read_nifti


def mask_faults(folder: Path, patients: Sequence[SyntheticPatient], grid: Grid) -> Iterator[Fault]:
    """Faults of all masks: one for each format of an image where the grid has structures, else none."""
    uids: list[str] = []
    for patient in patients:
        wanted = (bool(patient.dicom), bool(patient.nifti)) if grid.structures else (False, False)
        got = len(patient.segmentations), len(patient.nifti_masks)
        if got != wanted:
            yield Fault(f"{patient.id}: masks", f"{got[0]} DICOM and {got[1]} NIfTI masks",
                        f"{int(wanted[0])} and {int(wanted[1])}, as it has images", REMEDY)  # fmt: skip
        found: dict[str, np.ndarray] = {}
        for name in patient.masks:
            try:
                labels, affine = _read(folder / name)
            except InputError as error:
                yield from (Fault(name, fault.got, fault.expected, REMEDY) for fault in error.faults)
                continue
            found[name] = np.ascontiguousarray(labels, dtype=np.float32)
            yield from _place_faults(name, labels, affine, grid)
            if name.endswith(".dcm"):
                yield from _segmentation_faults(folder, patient, name, grid.structures, uids)
            else:
                yield from header_faults(name, nib.load(folder / name).header)
        if len({labels.tobytes() for labels in found.values()}) > 1:
            yield Fault(f"{patient.id}: masks", "other voxels in DICOM than in NIfTI", "one mask in both", REMEDY)
    if len(set(uids)) < len(uids):
        yield Fault("dicom", "a UID of a segmentation more than once", "UIDs that are unique over the release", REMEDY)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    if path.suffix == ".dcm":
        return read_segmentation(path)
    volume = read_nifti(path)
    return volume.array, volume.affine


def _place_faults(name: str, labels: np.ndarray, affine: np.ndarray | None, grid: Grid) -> Iterator[Fault]:
    """Against the grid's shape and place, which the image is held to as well."""
    shape, expected = release_geometry(grid)
    if labels.shape != shape:
        yield Fault(name, f"a mask of {labels.shape} voxels", f"{shape}, the image's", REMEDY)
    if affine is not None and not np.allclose(affine[:3], expected[:3], atol=1e-3):
        yield Fault(name, f"affine {affine.tolist()}", f"{expected.tolist()}, the image's", REMEDY)
    if affine is None and grid.modality not in ("DX", "CR"):
        yield Fault(name, "frames without a position", "the positions of the image's planes", REMEDY)
    values = set(np.unique(labels).tolist()) - set(range(len(grid.structures) + 1))
    if values:
        yield Fault(name, f"values {sorted(values)[:8]}", f"0 to {len(grid.structures)}", REMEDY)


def _segmentation_faults(
    folder: Path, patient: SyntheticPatient, name: str, structures: Sequence[Structure], uids: list[str]
) -> Iterator[Fault]:
    """Its header, and what it says of the series that it belongs to. Its own UIDs are added to ``uids``."""
    try:
        mask = pydicom.dcmread(folder / name, stop_before_pixels=False)
        images = [pydicom.dcmread(folder / image, stop_before_pixels=True) for image in patient.dicom]
        for broken in broken_file(mask):
            yield Fault(f"{name}: {broken.where}", broken.got, broken.expected, REMEDY)
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "DerivationDescription"):
            got, expected = mask.get(keyword), images[0].get(keyword)
            if got != expected:
                yield Fault(f"{name}: {keyword}", repr(got), f"{expected!r}, as in the image", REMEDY)
        if _referenced(mask) != {(i.SeriesInstanceUID, i.SOPClassUID, i.SOPInstanceUID) for i in images}:
            yield Fault(f"{name}: ReferencedSeriesSequence", "other images", "the images of its series", REMEDY)
        said = [_described(segment) for segment in mask.SegmentSequence]
        if said != [_expected(number, structure) for number, structure in enumerate(structures, 1)]:
            yield Fault(f"{name}: SegmentSequence", f"{said}", "the structures of synthetic_cohort.json", REMEDY)
        uids += [
            mask.SOPInstanceUID,
            mask.SeriesInstanceUID,
            mask.DimensionOrganizationSequence[0].DimensionOrganizationUID,
        ]
    except BROKEN as error:
        yield Fault(name, f"unreadable ({error})", "elements that can be read", REMEDY)


def _referenced(mask: Dataset) -> set[tuple[str, str, str]]:
    return {
        (series.SeriesInstanceUID, one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID)
        for series in mask.ReferencedSeriesSequence
        for one in series.ReferencedInstanceSequence
    }


def _described(segment: Dataset) -> tuple[int, str, str, str, str]:
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    return (segment.SegmentNumber, segment.SegmentLabel, kind.CodingSchemeDesignator, kind.CodeValue, kind.CodeMeaning)


def _expected(number: int, structure: Structure) -> tuple[int, str, str, str, str]:
    scheme, value, meaning = structure.code or (PRIVATE_SCHEME, f"structure-{number}", structure.name)
    return number, structure.name, scheme, value, meaning
