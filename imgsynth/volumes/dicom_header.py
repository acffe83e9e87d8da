"""One pass over a file's header, without its pixels: what the file is, and where its frames lie."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, dcmread, uid
from pydicom.uid import UID

from imgsynth.types import Fault, InputError
from imgsynth.volumes.dicom_directory import listed_files
from imgsynth.volumes.dicom_element import BROKEN, Source, quietly, refuse, tag_of, text, whole, words
from imgsynth.volumes.dicom_kind import ENHANCED, PROJECTIONS, check_kind
from imgsynth.volumes.dicom_multiframe import enhanced_stacks
from imgsynth.volumes.dicom_planes import Planes, projection_planes, single_plane
from imgsynth.volumes.dicom_scan import PIXEL_DATA, deflated_from, known_uid, scan
from imgsynth.volumes.limits import check_deflated, is_bomb
from imgsynth.volumes.volume import ALLOWED_META

_KEYWORDS = (*ALLOWED_META, "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "Rows", "Columns",
             "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
             "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing",
             "NominalScannedPixelSpacing", "SliceThickness", "SpacingBetweenSlices", "PatientOrientation",
             "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PixelPresentation",
             "DirectoryRecordSequence", "DimensionIndexSequence")  # fmt: skip


_WANTED = frozenset(map(tag_of, _KEYWORDS))
_FIRST, _MORE = 16 << 10, 1 << 20  # bytes that hold nearly every header, and those with long private elements


@dataclass(frozen=True, eq=False)
class Header:
    """What the index needs of one file, or of one stack of frames in it."""

    path: Path
    sop_class: UID
    sop_instance: str
    modality: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    planes: Planes
    meta: dict[str, str]
    frames: tuple[int, ...] = (0,)  # which frames of the file ``planes`` places


@dataclass(frozen=True, eq=False)
class Found:
    """What one file turned out to be.

    No headers, faults nor listed files: no DICOM at all. ``listed`` are the files that a DICOMDIR names.
    """

    headers: tuple[Header, ...] = ()
    faults: tuple[Fault, ...] = ()
    listed: tuple[str, ...] | None = None


def read_header(path: Path, named: Path | None = None) -> Found:
    """Read one file, which may be anything. Errors and the header call it ``named``, where that is not its path."""
    named = named or path
    try:
        with path.open("rb") as file:
            return _read(file, named)
    except InputError as error:
        return Found(faults=error.faults)
    except BROKEN as error:
        return Found(faults=(Fault(str(named), f"unreadable DICOM ({type(error).__name__}: {error})",
                                   "a whole DICOM file", "copy or export the file again, or remove it", "unreadable",
                                   (str(named),)),))  # fmt: skip


def _read(file: BinaryIO, path: Path) -> Found:
    start = file.read(_FIRST)
    if not _looks_like_dicom(path, start):
        return Found()
    size = os.fstat(file.fileno()).st_size
    scanned = scan(start, _WANTED)
    if scanned is None and size > _FIRST and start[128:132] == b"DICM":
        scanned = scan(start + file.read(_MORE), _WANTED)
    if scanned is not None and known_uid(text(scanned, "SOPClassUID", path)) not in ENHANCED:
        header = _parse(scanned, path)
        _check_length(scanned, scanned.syntax, size - scanned.end - (8 if scanned.syntax.is_implicit_VR else 12), path)
        return Found((header,))
    return _read_with_pydicom(file, size, path)


@quietly()
def _read_with_pydicom(file: BinaryIO, size: int, path: Path) -> Found:
    """Whatever is not laid out by the book, and headers that have sequences of frames."""
    file.seek(0)
    check_deflated(file, deflated_from(file.read(_FIRST)), path)
    file.seek(0)
    dataset = dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(_KEYWORDS))
    end = file.tell()
    if text(dataset.file_meta, "MediaStorageSOPClassUID", path) == uid.MediaStorageDirectoryStorage:
        return Found(listed=listed_files(dataset, path))
    sop_class = known_uid(text(dataset, "SOPClassUID", path))
    headers = _parse_stacks(dataset, path) if sop_class in ENHANCED else (_parse(dataset, path),)
    syntax = known_uid(text(dataset.file_meta, "TransferSyntaxUID", path))
    if syntax != uid.DeflatedExplicitVRLittleEndian:
        file.seek(end)
        implicit, little = dataset.original_encoding
        tag = file.read(4)
        number = int.from_bytes(tag[:2], "little" if little else "big") << 16
        number |= int.from_bytes(tag[2:], "little" if little else "big")
        if len(tag) < 4 or number != PIXEL_DATA:
            refuse(path, "PixelData", "nothing", "pixels", "copy or export the file again, or remove it",
                   "no_pixels")  # fmt: skip
        _check_length(dataset, syntax, size - end - (8 if implicit else 12), path)
    return Found(headers)


def _looks_like_dicom(path: Path, start: bytes) -> bool:
    """Part 10 files say DICM after 128 bytes; bare data sets begin with group 0002 or 0008 in either byte order."""
    bare = start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08")
    return start[128:132] == b"DICM" or bare or path.suffix.lower() in (".dcm", ".ima")


def _parse(dataset: Source, path: Path, planes: Planes | None = None) -> Header:
    sop_class = known_uid(text(dataset, "SOPClassUID", path))
    check_kind(dataset, sop_class, path)
    rows, columns = (_required_whole(dataset, keyword, path) for keyword in ("Rows", "Columns"))
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not text(dataset, keyword, path):
            refuse(path, keyword, "nothing", "a UID", "repair the export: the file belongs to no series")
    meta = {keyword: text(dataset, keyword, path) for keyword in ALLOWED_META}
    return Header(
        path=path,
        sop_class=sop_class,
        sop_instance=text(dataset, "SOPInstanceUID", path),
        modality=text(dataset, "Modality", path).upper(),
        image_type=words(dataset, "ImageType", path),
        rows=rows,
        columns=columns,
        planes=planes or _planes(dataset, sop_class, path),
        meta={keyword: found for keyword, found in meta.items() if found},
    )


def _planes(dataset: Source, sop_class: UID, path: Path) -> Planes:
    return projection_planes(dataset, path) if sop_class in PROJECTIONS else single_plane(dataset, path)


def _parse_stacks(dataset: Dataset, path: Path) -> tuple[Header, ...]:
    """One header for each even stack of frames of an enhanced image."""
    check_kind(dataset, known_uid(text(dataset, "SOPClassUID", path)), path)
    stacks = enhanced_stacks(dataset, words(dataset, "ImageType", path), path)
    first = _parse(dataset, path, stacks[0].planes)
    return tuple(
        replace(first, planes=stack.planes, frames=stack.frames, image_type=stack.image_type) for stack in stacks
    )


def _check_length(dataset: Source, syntax: UID, have: int, path: Path) -> None:
    """Refuse a file that ends before its uncompressed pixels do, or whose compressed pixels claim an absurd size."""
    pixels = _required_whole(dataset, "Rows", path) * _required_whole(dataset, "Columns", path)
    pixels *= whole(dataset, "NumberOfFrames", path) or 1
    need = pixels * _required_whole(dataset, "BitsAllocated", path) // 8
    if syntax.is_transfer_syntax and syntax.is_encapsulated:
        if is_bomb(max(need, 4 * pixels), max(have, 0)):
            refuse(path, "PixelData", f"{pixels} pixels in {max(have, 0)} bytes (a decompression bomb, or a damaged "
                   "header)", "an image", "export the file again, uncompressed, or remove it",
                   "absurd_size")  # fmt: skip
    elif have < need:
        refuse(path, "PixelData", f"{max(have, 0)} bytes (the file is truncated)", f"{need} bytes",
               "copy or export the file again, or remove it", "truncated")  # fmt: skip


def _required_whole(dataset: Source, keyword: str, path: Path) -> int:
    found = whole(dataset, keyword, path)
    if found is None or found < 1:
        refuse(path, keyword, str(found), "a positive number", "repair or remove the file")
    return found
