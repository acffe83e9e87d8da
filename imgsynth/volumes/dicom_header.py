"""One pass over a file's header, without its pixels: what the file is, and where its frames lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from pydicom import Dataset, dcmread, uid
from pydicom.tag import Tag
from pydicom.uid import UID

from imgsynth.types import Fault, InputError
from imgsynth.volumes.dicom_element import BROKEN, refuse, text, value, whole, words
from imgsynth.volumes.dicom_planes import Planes, enhanced_planes, projection_planes, single_plane
from imgsynth.volumes.volume import ALLOWED_META

SLICES = (uid.CTImageStorage, uid.MRImageStorage)
ENHANCED = (uid.EnhancedCTImageStorage, uid.EnhancedMRImageStorage,
            uid.LegacyConvertedEnhancedCTImageStorage, uid.LegacyConvertedEnhancedMRImageStorage)  # fmt: skip
PROJECTIONS = (uid.ComputedRadiographyImageStorage,
               uid.DigitalXRayImageStorageForPresentation, uid.DigitalXRayImageStorageForProcessing,
               uid.DigitalMammographyXRayImageStorageForPresentation,
               uid.DigitalMammographyXRayImageStorageForProcessing,
               uid.UltrasoundImageStorage, uid.SecondaryCaptureImageStorage)  # fmt: skip

_KEYWORDS = (*ALLOWED_META, "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "Rows", "Columns",
             "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
             "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing",
             "NominalScannedPixelSpacing", "SliceThickness", "SpacingBetweenSlices", "PatientOrientation",
             "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PixelPresentation")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Header:
    """What the index needs of one file."""

    path: Path
    sop_class: UID
    sop_instance: str
    modality: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    planes: Planes
    meta: dict[str, str]


def read_header(path: Path) -> Header | None:
    """The header of an image that imgsynth can read; None for a file that is not DICOM (or a DICOMDIR).

    Raises InputError, naming file and tag, for DICOM that cannot be read or is another kind of object.
    """
    try:
        with path.open("rb") as file:
            if not _looks_like_dicom(path, file.read(132)):
                return None
            file.seek(0)
            dataset = dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(_KEYWORDS))
            end = file.tell()
            if text(dataset.file_meta, "MediaStorageSOPClassUID", path) == uid.MediaStorageDirectoryStorage:
                return None
            header = _parse(dataset, path)
            _check_pixels(dataset, file, end, path)
            return header
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(Fault(str(path), f"unreadable DICOM ({type(error).__name__}: {error})", "a whole DICOM file",
                               "copy or export the file again, or remove it", "unreadable",
                               (str(path),))) from error  # fmt: skip


def _looks_like_dicom(path: Path, start: bytes) -> bool:
    """Part 10 files say DICM after 128 bytes; bare data sets begin with group 0002 or 0008 in either byte order."""
    bare = start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08")
    return start[128:] == b"DICM" or bare or path.suffix.lower() in (".dcm", ".ima")


def _parse(dataset: Dataset, path: Path) -> Header:
    sop_class = UID(text(dataset, "SOPClassUID", path))
    _check_kind(dataset, sop_class, path)
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
        planes=_planes(dataset, sop_class, path),
        meta={keyword: found for keyword, found in meta.items() if found},
    )


def _planes(dataset: Dataset, sop_class: UID, path: Path) -> Planes:
    if sop_class in PROJECTIONS:
        return projection_planes(dataset, path)
    return enhanced_planes(dataset, path) if sop_class in ENHANCED else single_plane(dataset, path)


def _check_kind(dataset: Dataset, sop_class: UID, path: Path) -> None:
    """Refuse by name what is not one grayscale image, or a stack of them."""
    known = SLICES + ENHANCED + PROJECTIONS
    if sop_class not in known:
        got = f"{sop_class.name} {sop_class}" if sop_class else "nothing"
        refuse(path, "SOPClassUID", got, "CT, MR, enhanced CT or MR, CR, DX, MG, US or SC image", "leave the file out",
               "other_object")  # fmt: skip
    modality = text(dataset, "Modality", path).upper()
    if sop_class == uid.SecondaryCaptureImageStorage and modality in ("CT", "MR"):
        refuse(path, "SOPClassUID", f"{sop_class.name} of modality {modality}", "an image as it was measured",
               "leave the screen capture out", "secondary_capture")  # fmt: skip
    colour = text(dataset, "PhotometricInterpretation", path)
    if colour not in ("MONOCHROME1", "MONOCHROME2"):
        refuse(path, "PhotometricInterpretation", colour or "nothing", "MONOCHROME1 or MONOCHROME2",
               "leave colour images out", "colour_image")  # fmt: skip
    if sop_class in ENHANCED:
        if text(dataset, "PixelPresentation", path).upper() == "COLOR":
            refuse(path, "PixelPresentation", "COLOR (a supplemental palette)", "MONOCHROME", "leave colour maps out",
                   "colour_image")  # fmt: skip
    elif (frames := whole(dataset, "NumberOfFrames", path) or 1) != 1:
        refuse(path, "NumberOfFrames", f"{frames} in {sop_class.name}", "1, or an enhanced CT or MR image",
               "export single frames", "multiframe")  # fmt: skip


def _required_whole(dataset: Dataset, keyword: str, path: Path) -> int:
    found = whole(dataset, keyword, path)
    if found is None or found < 1:
        refuse(path, keyword, str(found), "a positive number", "repair or remove the file")
    return found


def _check_pixels(dataset: Dataset, file: BinaryIO, end: int, path: Path) -> None:
    """Refuse a file that has no pixel data, or that ends before uncompressed pixel data do.

    ``end`` is where the header pass stopped: before the element of the pixel data.
    """
    syntax = value(dataset.file_meta, "TransferSyntaxUID", path)
    if syntax is not None and UID(syntax) == uid.DeflatedExplicitVRLittleEndian:
        return
    file.seek(end)
    little = dataset.original_encoding[1]
    tag = file.read(4)
    order: Literal["little", "big"] = "little" if little else "big"
    if len(tag) < 4 or Tag(int.from_bytes(tag[:2], order), int.from_bytes(tag[2:], order)) != 0x7FE00010:
        refuse(path, "PixelData", "nothing", "pixels", "copy or export the file again, or remove it", "no_pixels")
    if syntax is not None and UID(syntax).is_encapsulated:
        return
    pixels = _required_whole(dataset, "Rows", path) * _required_whole(dataset, "Columns", path)
    need = pixels * (whole(dataset, "NumberOfFrames", path) or 1) * _required_whole(dataset, "BitsAllocated", path) // 8
    have = path.stat().st_size - end - (8 if dataset.original_encoding[0] else 12)
    if have < need:
        refuse(path, "PixelData", f"{max(have, 0)} bytes (the file is truncated)", f"{need} bytes",
               "copy or export the file again, or remove it", "truncated")  # fmt: skip
