"""Single-frame CT objects, fast: pydicom writes one slice of a series, the others are patched copies of its bytes.

What differs between the slices of a series (SOP Instance UID, Instance Number, position, rescale, pixels) is written
with a fixed length, so that each value has the same offset in every file of the series.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from imgsynth.cohort.phantom_scanner import HU_MIN

PADDING = -2000  # stored value outside the round field of view
_SEQUENCE_END = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"  # closes encapsulated Pixel Data, PS3.5 A.4
_VARYING = (
    "SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "SliceLocation", "RescaleIntercept", "RescaleSlope",
)  # fmt: skip
_SYNTAXES = {"explicit": ExplicitVRLittleEndian, "implicit": ImplicitVRLittleEndian, "rle": RLELossless}


@dataclass(frozen=True)
class Header:
    """What is the same in all objects of a series."""

    patient: str
    sex: str
    age: int
    site: str
    manufacturer: str
    model: str
    study_uid: str
    series_uid: str
    frame_uid: str
    study_date: str  # YYYYMMDD


@dataclass(frozen=True)
class Storage:
    """How a scanner stores a series: each field is something that real exports do."""

    signed: bool = True  # int16, else 12-bit unsigned with intercept -1024
    mixed_rescale: bool = False  # slope and intercept change from slice to slice
    padding: bool = False  # PADDING outside the round field of view (0 when unsigned)
    feet_first: bool = False  # columns then run toward the patient's right
    syntax: str = "explicit"  # explicit | implicit | rle


@dataclass(frozen=True)
class Slice:
    """One object to write."""

    uid: str
    number: int  # Instance Number
    corner: tuple[float, float, float]  # Image Position (Patient), LPS mm
    slope: float
    intercept: float
    stored_RC: np.ndarray  # int16 or uint16 [rows, columns]


def slices_of(
    hu_ijk: np.ndarray, spacing: float, storage: Storage, uids: Sequence[str], numbers: Sequence[int]
) -> list[Slice]:
    """The slices, feet to head, of a volume [right, anterior, superior] centred on the isocentre. Exact in HU."""
    n = hu_ijk.shape[0]
    edge = (n - 1) / 2 * spacing
    frames_KRC = hu_ijk.transpose(2, 1, 0)[:, ::-1, :: 1 if storage.feet_first else -1].astype(np.int32)
    outside_RC = ~round_field(n) if storage.padding else None
    x = edge if storage.feet_first else -edge
    slices = []
    for k, (frame_RC, uid, number) in enumerate(zip(frames_KRC, uids, numbers, strict=True)):
        slope, intercept = _rescale(storage, k)
        stored_RC = np.rint((frame_RC - intercept) / slope)
        if outside_RC is not None:
            stored_RC[outside_RC] = PADDING if storage.signed else 0
        dtype = np.int16 if storage.signed else np.uint16
        slices.append(Slice(uid, number, (x, -edge, k * spacing - edge), slope, intercept, stored_RC.astype(dtype)))
    return slices


def round_field(n: int) -> np.ndarray:
    """Pixels [n, n] inside the circle that a scanner reconstructs."""
    offset = np.arange(n) - (n - 1) / 2
    return offset[:, None] ** 2 + offset[None, :] ** 2 <= (n / 2) ** 2


def encode_series(header: Header, spacing: float, storage: Storage, slices: Sequence[Slice]) -> list[bytes]:
    """Each slice as a DICOM file. All must have the same shape."""
    dataset = _dataset(header, spacing, storage, slices[0])
    template, offsets = _template(dataset)
    files = []
    for s in slices:
        file = bytearray(template)
        for keyword, text in _varying(s).items():
            for offset, length in offsets[keyword]:
                value = text.encode("ascii")
                assert len(value) == length, f"{keyword}: {text!r} is not {length} bytes"
                file[offset : offset + length] = value
        files.append(bytes(file) + _pixels(s, storage))
    return files


def encode_localizer(header: Header, spacing: float, uid: str, hu_ijk: np.ndarray) -> bytes:
    """A scout: the mean along the patient's depth as a coronal image, in the CT series as some scanners store it."""
    edge = (hu_ijk.shape[0] - 1) / 2 * spacing
    stored_RC = np.rint(hu_ijk.mean(axis=1)).astype(np.int16).T[::-1, ::-1]
    scout = Slice(uid, 0, (-edge, 0.0, edge), 1.0, 0.0, np.ascontiguousarray(stored_RC))
    dataset = _dataset(header, spacing, Storage(), scout)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    template, _ = _template(dataset)
    return template + _pixels(scout, Storage())


def _rescale(storage: Storage, k: int) -> tuple[float, float]:
    """(slope, intercept) under which every whole HU is a whole stored value, in range."""
    if not storage.signed:
        return 1.0, float(HU_MIN)
    return ((1.0, 0.0), (1.0, -1024.0), (0.5, -1000.0))[k % 3] if storage.mixed_rescale else (1.0, 0.0)


def _varying(s: Slice) -> dict[str, str]:
    """The values that differ between slices, padded to fixed even lengths."""
    values = (
        s.uid,
        f"{s.number:06d}",
        "\\".join(f"{v + 0.0:015.6f}" for v in s.corner) + " ",  # + 0.0 turns -0.0 into 0.0
        f"{s.corner[2] + 0.0:016.6f}",
        f"{s.intercept:012.3f}",
        f"{s.slope:012.3f}",
    )
    return dict(zip(_VARYING, values, strict=True))


def _dataset(header: Header, spacing: float, storage: Storage, s: Slice) -> Dataset:
    """A CT Image (PS3.3 A.3) as a scanner exports it, with one slice's values in it and without its pixels."""
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = CTImageStorage
    d.file_meta.MediaStorageSOPInstanceUID = UID(s.uid)
    d.file_meta.TransferSyntaxUID = _SYNTAXES[storage.syntax]
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.StudyDate = d.SeriesDate = d.AcquisitionDate = d.ContentDate = header.study_date
    d.StudyTime = d.ContentTime = "120000"
    d.AccessionNumber = d.ReferringPhysicianName = d.StudyID = d.PatientBirthDate = ""
    d.Modality, d.Manufacturer, d.ManufacturerModelName = "CT", header.manufacturer, header.model
    d.InstitutionName, d.StudyDescription, d.SeriesDescription = header.site, "DIGITAL PHANTOM THORAX", "THORAX NATIVE"
    d.PatientName = header.patient.replace("-", "^")
    d.PatientID, d.PatientSex, d.PatientAge = header.patient, header.sex, f"{header.age:03d}Y"
    d.BodyPartExamined, d.KVP, d.ConvolutionKernel = "CHEST", "", "STANDARD"
    d.SliceThickness, d.ReconstructionDiameter = f"{spacing:.6f}", f"{spacing * s.stored_RC.shape[1]:.3f}"
    d.PatientPosition = "FFS" if storage.feet_first else "HFS"
    d.StudyInstanceUID, d.SeriesInstanceUID = header.study_uid, header.series_uid
    d.FrameOfReferenceUID, d.PositionReferenceIndicator = header.frame_uid, ""
    d.SeriesNumber, d.AcquisitionNumber = 2, 1
    d.ImageOrientationPatient = [-1 if storage.feet_first else 1, 0, 0, 0, 1, 0]
    d.PixelSpacing = [f"{spacing:.6f}"] * 2
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.Rows, d.Columns = s.stored_RC.shape
    d.BitsAllocated = 16
    d.BitsStored = 16 if storage.signed else 12
    d.HighBit, d.PixelRepresentation = d.BitsStored - 1, int(storage.signed)
    if storage.padding:
        d.add_new("PixelPaddingValue", *(("SS", PADDING) if storage.signed else ("US", 0)))
    d.WindowCenter, d.WindowWidth, d.RescaleType = "40", "400", "HU"
    for keyword, text in _varying(s).items():
        setattr(d, keyword, text.split("\\") if keyword == "ImagePositionPatient" else text)
    return d


def _template(dataset: Dataset) -> tuple[bytes, dict[str, list[tuple[int, int]]]]:
    """The file up to Pixel Data, and where in it the varying values lie: offset and length in bytes."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    file = buffer.getvalue()
    read = dcmread(BytesIO(file))
    offsets = {keyword: [_place(read, keyword)] for keyword in _VARYING}
    offsets["SOPInstanceUID"].append(_place(read.file_meta, "MediaStorageSOPInstanceUID"))
    return file, offsets


def _place(dataset: Dataset, keyword: str) -> tuple[int, int]:
    raw = dataset.get_item(keyword)
    assert isinstance(raw, RawDataElement), keyword
    return raw.value_tell, raw.length


def _pixels(s: Slice, storage: Storage) -> bytes:
    """The Pixel Data element (7FE0,0010), the last of the file."""
    tag, frame = b"\xe0\x7f\x10\x00", s.stored_RC.tobytes()
    if storage.syntax == "implicit":
        return tag + struct.pack("<I", len(frame)) + frame
    if storage.syntax == "explicit":
        return tag + struct.pack("<2sHI", b"OW", 0, len(frame)) + frame
    encoded = RLELosslessEncoder.encode(
        s.stored_RC,
        encoding_plugin="pydicom",
        rows=s.stored_RC.shape[0],
        columns=s.stored_RC.shape[1],
        number_of_frames=1,
        samples_per_pixel=1,
        bits_allocated=16,
        bits_stored=16 if storage.signed else 12,
        pixel_representation=int(storage.signed),
        photometric_interpretation="MONOCHROME2",
    )
    return tag + struct.pack("<2sHI", b"OB", 0, 0xFFFFFFFF) + encapsulate([encoded]) + _SEQUENCE_END
