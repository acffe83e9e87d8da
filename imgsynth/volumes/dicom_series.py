"""Headers as series: grouped, freed of duplicates, stacked in the order of space; what makes none is told why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom import dcmread

from imgsynth.types import Fault, InputError
from imgsynth.volumes.archives import on_disk
from imgsynth.volumes.dicom_element import BROKEN, element, quietly, text
from imgsynth.volumes.dicom_header import Header
from imgsynth.volumes.dicom_stack import Uneven, stack_slices
from imgsynth.volumes.geometry import planes_affine


@dataclass(frozen=True)
class Slice:
    """One plane of a series: a file, and which of its frames (0 in single-frame files)."""

    path: Path
    frame: int


@dataclass(frozen=True, eq=False)
class Series:
    """One even stack of slices of one Series Instance UID, in the order of space; or one projection image.

    ``faults`` are remarks on a series that can be used (a duplicate dropped, a spacing assumed).
    """

    uid: str
    modality: str
    shape: tuple[int, int, int]  # columns, rows, slices
    affine: np.ndarray  # 4×4, voxel indices to RAS+ mm
    slices: tuple[Slice, ...]
    meta: dict[str, str]
    faults: tuple[Fault, ...] = ()

    @property
    def files(self) -> list[Path]:
        return list(dict.fromkeys(part.path for part in self.slices))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxel centres along columns, rows, slices."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    def header_value(self, keyword: str) -> str | None:
        """An element of the first file's header as text, for labels; None when absent."""
        path = self.slices[0].path
        with quietly():
            dataset = dcmread(on_disk(path), stop_before_pixels=True, force=True, specific_tags=[keyword])
            return text(dataset, keyword, path) or None


@dataclass(frozen=True)
class DicomIndex:
    """``series`` can be read as they stand; ``faults`` tells all that was left out, and all remarks on the series.

    ``passed_over`` are files that are not DICOM, and DICOMDIRs.
    """

    series: list[Series]
    faults: list[Fault]
    passed_over: tuple[Path, ...] = ()


def build_series(headers: Iterable[Header]) -> tuple[list[Series], list[Fault]]:
    """The series that these headers make, and the faults of all that was left out."""
    series: list[Series] = []
    faults: list[Fault] = []
    for group in _grouped(headers):
        usable, left_out = _build(group)
        series.extend(usable)
        faults.extend(left_out)
    return series, faults


def _grouped(headers: Iterable[Header]) -> list[list[Header]]:
    """Files that can be of one stack: same patient, series, kind, matrix and pixel size; a projection stands alone."""
    groups: dict[tuple, list[Header]] = defaultdict(list)
    for header in headers:
        meta, pixel = header.meta, tuple(round(mm, 4) for mm in header.planes.spacing.tolist())
        alone = header.planes.positions is None or header.frames != (0,)
        single = (header.sop_instance, header.frames) if alone else ()
        groups[(meta.get("PatientID"), meta["StudyInstanceUID"], meta["SeriesInstanceUID"], header.sop_class,
                header.modality, header.rows, header.columns, pixel, single)].append(header)  # fmt: skip
    return list(groups.values())


def _build(group: list[Header]) -> tuple[list[Series], list[Fault]]:
    """The series that a group of files makes, and the faults of what was left out."""
    series: list[Series] = []
    faults: list[Fault] = []
    localizers = [header for header in group if "LOCALIZER" in header.image_type]
    if localizers:
        faults.append(Fault(f"{localizers[0].path} ({len(localizers)} file(s))", f"{element('ImageType')} LOCALIZER",
                            "slices of a volume", "nothing: localizers are set aside", "localizer",
                            tuple(str(header.path) for header in localizers)))  # fmt: skip
    try:
        headers, duplicates = _without_duplicates([header for header in group if header not in localizers])
    except InputError as error:
        return [], [*faults, *error.faults]
    for parallel in _by_orientation(headers):
        built = _stack(parallel)
        mine = {header.sop_instance for header in parallel}
        remarks = tuple(fault for instance, fault in duplicates if instance in mine)
        if isinstance(built, Fault):
            faults += [built, *remarks]
        else:
            series.append(replace(built, faults=built.faults + remarks))
    return series, faults


def _without_duplicates(headers: list[Header]) -> tuple[list[Header], list[tuple[str, Fault]]]:
    """Drop files that repeat a SOP Instance UID with the same content; refuse them where the content differs."""
    kept: dict[tuple, Header] = {}
    dropped = []
    for header in headers:
        first = kept.setdefault((header.sop_instance, header.frames), header)
        if first is header:
            continue
        same = _same_content(first.path, header.path)
        fault = Fault(str(header.path), f"{element('SOPInstanceUID')} of {first.path.name} again, with "
                      f"{'the same' if same else 'other'} content", "each instance once",
                      "nothing: the copy is dropped" if same else "remove the file that is wrong",
                      "duplicate_file" if same else "duplicate_uid",
                      (str(header.path),) if same else tuple(str(one.path) for one in headers))  # fmt: skip
        if not same:
            raise InputError(fault)
        dropped.append((header.sop_instance, fault))
    return list(kept.values()), dropped


def _same_content(one: Path, other: Path) -> bool:
    first, second = on_disk(one), on_disk(other)
    if first.read_bytes() == second.read_bytes():
        return True
    try:
        return bool(dcmread(first, force=True) == dcmread(second, force=True))
    except BROKEN:
        return False


def _by_orientation(headers: list[Header]) -> list[list[Header]]:
    """Parallel slices together: cosines within 0.001 of the first of their stack."""
    stacks: list[list[Header]] = []
    for header in headers:
        for stack in stacks:
            if _parallel(stack[0].planes.orientation, header.planes.orientation):
                stack.append(header)
                break
        else:
            stacks.append([header])
    return stacks


def _parallel(one: np.ndarray, other: np.ndarray) -> bool:
    return one.tobytes() == other.tobytes() or bool(np.abs(one - other).max() < 1e-3)


def _stack(headers: list[Header]) -> Series | Fault:
    """Parallel slices as one series, or the fault that makes them none."""
    first, planes = headers[0], headers[0].planes
    uid, shape = first.meta["SeriesInstanceUID"], (first.columns, first.rows)
    if planes.positions is None:
        affine = planes_affine(planes.orientation, planes.spacing, np.zeros(3), 1.0)
        parts = (Slice(first.path, 0),)
        return Series(uid, first.modality, (*shape, 1), affine, parts, first.meta, planes.remarks)
    positions = np.concatenate([h.planes.positions for h in headers if h.planes.positions is not None])
    stack = stack_slices(positions, planes.orientation, float(planes.spacing.min()))
    if isinstance(stack, Uneven):
        several = f"{first.path.parent} series {uid} ({len(headers)} files)"
        where = several if len(headers) > 1 else str(first.path)
        varies = f"; its frames differ in {', '.join(planes.varies)}" if planes.varies else ""
        return Fault(where, f"{element('ImagePositionPatient')}: {stack.got}{varies}", stack.expected, stack.remedy,
                     stack.code, tuple(str(header.path) for header in headers))  # fmt: skip
    step, remarks = _step(first, stack.step, len(positions))
    remarks = planes.remarks + remarks
    frames = [Slice(header.path, frame) for header in headers for frame in header.frames]
    affine = planes_affine(planes.orientation, planes.spacing, positions[stack.order[0]], step)
    parts = tuple(frames[n] for n in stack.order)
    return Series(uid, first.modality, (*shape, len(parts)), affine, parts, first.meta, remarks)


def _step(first: Header, measured: float, count: int) -> tuple[float, tuple[Fault, ...]]:
    """Millimetres from slice to slice: measured; for a single slice what its header tells, else 1 mm."""
    if count > 1:
        return measured, ()
    thickness = first.planes.thickness
    if thickness is not None and thickness > 0:
        return thickness, ()
    remark = Fault(str(first.path), f"a single slice without {element('SliceThickness')}", "a thickness in mm",
                   "nothing: 1 mm is assumed", "spacing_assumed")  # fmt: skip
    return 1.0, (remark,)
