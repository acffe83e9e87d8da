"""Masks as DICOM Segmentation objects (PS3.3 A.51), by highdicom, beside the synthetic series that they belong to."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread, uid

from imgsynth.types import Fault, InputError, Structure
from imgsynth.volumes.dicom_element import BROKEN
from imgsynth.volumes.dicom_enhanced import NO_DATE, NO_TIME
from imgsynth.volumes.dicom_frames import write_files
from imgsynth.volumes.dicom_modules import provenance_elements
from imgsynth.volumes.geometry import planes_affine
from imgsynth.volumes.provenance import Provenance
from imgsynth.volumes.uids import NewUid

# Names that no published list has a code for are codes of this private scheme, which the object identifies.
PRIVATE_SCHEME = "99IMGSYNTH"
CATEGORY = "declared", "Structure declared by the maker"


def missing_writer() -> Fault | None:
    """Where the package that writes segmentations is not installed."""
    if find_spec("highdicom") is not None:
        return None
    return Fault("sample.formats", "dicom, for masks, without the package highdicom",
                 "the package that writes DICOM segmentations", "pip install imgsynth[package], or "
                 "sample.formats=[nifti]")  # fmt: skip


def write_segmentation(
    labels: np.ndarray, series: Sequence[Path], folder: Path, structures: Sequence[Structure], provenance: Provenance,
    new_uid: NewUid,
) -> list[Path]:  # fmt: skip
    """Write ``labels`` uint8 [i, j, k] (0 background, n the n-th structure) as one file in the new folder ``folder``.

    ``series`` are the files of the image, in spatial order, as ``write_dicom_series`` wrote them (one enhanced file
    too); the mask refers to them, and is of their study and frame of reference. Every structure has a frame for every
    plane, an empty one where it is not. Everything that would follow the clock is fixed, every UID is of ``new_uid``.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    sources = [dcmread(path, stop_before_pixels=False) for path in series]
    by = hd.AlgorithmIdentificationSequence(
        f"imgsynth {provenance.model}", codes.cid7162.ArtificialIntelligence, provenance.version
    )
    described = [
        hd.seg.SegmentDescription(
            number, structure.name, hd.sr.CodedConcept(CATEGORY[0], PRIVATE_SCHEME, CATEGORY[1]),
            _property_type(hd, number, structure), hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=by,
        )
        for number, structure in enumerate(structures, 1)
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an empty mask, which a release may hold
        dataset = hd.seg.Segmentation(
            sources, np.ascontiguousarray(labels.transpose(2, 1, 0)), hd.seg.SegmentationTypeValues.BINARY, described,
            new_uid(), int(sources[0].SeriesNumber) + 1, new_uid(), 1, "imgsynth", provenance.model,
            f"imgsynth {provenance.version}", "NONE", omit_empty_frames=False, content_label="MASK",
        )  # fmt: skip
    _settle(dataset, sources[0], provenance, new_uid())
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return write_files([buffer.getvalue()], folder)


def _property_type(hd: Any, number: int, structure: Structure) -> Any:
    if structure.code is None:
        return hd.sr.CodedConcept(f"structure-{number}", PRIVATE_SCHEME, structure.name)
    scheme, value, meaning = structure.code
    return hd.sr.CodedConcept(value, scheme, meaning)


def _settle(dataset: Dataset, source: Dataset, provenance: Provenance, organization: str) -> None:
    """Mark it synthetic as its image is, identify the private scheme, and take out what the clock and chance put in."""
    for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
        if keyword in dataset:
            del dataset[keyword]
    dataset.ContentDate, dataset.ContentTime = NO_DATE, NO_TIME
    marks = provenance_elements(provenance, "SEG")
    marks.pop("BurnedInAnnotation", None)  # said of pictures; a mask of one bit holds no text of theirs
    dataset.update(marks)
    dataset.SeriesDescription = source.SeriesDescription
    if "PatientOrientation" in source:  # of a projection, which has no place in the patient
        dataset.PatientOrientation = source.PatientOrientation
    scheme = Dataset()
    scheme.CodingSchemeDesignator = PRIVATE_SCHEME
    scheme.CodingSchemeName = "Names of structures as declared by the maker of the release"
    scheme.CodingSchemeResponsibleOrganization = "imgsynth"
    dataset.CodingSchemeIdentificationSequence = [scheme]
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization


def read_segmentation(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """(labels uint8 [i, j, k], RAS+ affine) of a segmentation; the affine is None where its frames have no position.

    Planes are put in the order of space, along the normal of their orientation.

    Raises:
        InputError: if it is no binary segmentation of whole, evenly spaced planes, or two structures share a voxel.
    """
    try:
        dataset = dcmread(path)
        if dataset.SOPClassUID != uid.SegmentationStorage or dataset.SegmentationType != "BINARY":
            raise ValueError("no binary segmentation")
        return _decoded(dataset)
    except BROKEN as error:
        raise InputError(
            Fault(str(path), f"no readable segmentation ({error})", "a DICOM segmentation as imgsynth writes it",
                  "get it again")
        ) from error  # fmt: skip


def _decoded(dataset: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
    frames_FRC = np.asarray(dataset.pixel_array).reshape(-1, dataset.Rows, dataset.Columns)
    groups = list(dataset.PerFrameFunctionalGroupsSequence)
    segment_F = np.array([int(g.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for g in groups])
    if len(frames_FRC) != len(groups):
        raise ValueError(f"{len(frames_FRC)} frames and {len(groups)} descriptions")
    place_F, affine = np.zeros(len(groups), int), None
    if "PlanePositionSequence" in groups[0]:
        place_F, affine = _placed(dataset, groups)
    labels_KRC = np.zeros((place_F.max() + 1, dataset.Rows, dataset.Columns), np.uint8)
    seen = set()
    for frame_RC, number, place in zip(frames_FRC, segment_F.tolist(), place_F.tolist(), strict=True):
        if (number, place) in seen or (frame_RC.astype(bool) & (labels_KRC[place] > 0)).any():
            raise ValueError("a plane given twice, or structures that overlap")
        seen.add((number, place))
        labels_KRC[place][frame_RC > 0] = number
    if len(seen) != len(dataset.SegmentSequence) * len(labels_KRC):
        raise ValueError("planes that are missing")
    return labels_KRC.transpose(2, 1, 0), affine


def _placed(dataset: Dataset, groups: list[Dataset]) -> tuple[np.ndarray, np.ndarray]:
    """Which plane each frame is, from the first along the normal on, and the affine of all."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    measures = shared.PixelMeasuresSequence[0]
    position_F3 = np.array([g.PlanePositionSequence[0].ImagePositionPatient for g in groups], dtype=float)
    along_F = position_F3 @ np.cross(orientation[:3], orientation[3:])
    planes, first, place_F = np.unique(np.round(along_F, 3), return_index=True, return_inverse=True)
    steps = np.diff(planes)
    if len(planes) > 1 and np.ptp(steps) > 0.01:
        raise ValueError("planes that are not evenly spaced")
    step = float(steps.mean()) if len(planes) > 1 else float(measures.SliceThickness)
    spacing = np.array(measures.PixelSpacing, dtype=float)
    return place_F.reshape(-1), planes_affine(orientation, spacing, position_F3[first[0]], step)
