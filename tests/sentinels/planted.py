"""Sources whose every text, number and name is a sentinel that nothing else says, and a search for them.

The search is the tests' own: it shares no code with the one that imgsynth ships.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.datadict import DicomDictionary
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from imgsynth.volumes.dicom_header import _KEYWORDS as ALLOWED

WORD = "ZQXJVK"
ROOT = "1.2.826.0.1.3680043.7319."
PIXELS = {
    "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "ModalityLUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelValueTransformationSequence",
    "PlanarConfiguration", "SpecificCharacterSet", "LengthToEnd",
}  # fmt: skip
TEXT = ("AE", "CS", "SH", "LO", "ST", "LT", "UT", "UC", "PN", "UR")
BINARY = ("US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "AT")
BYTES = ("OB", "OW", "OF", "OD", "OL", "OV", "UN")


@dataclass
class Planted:
    """What was planted: how many sentinels, where (a VR or a place), and the numbers among them as text."""

    count: dict[str, int] = field(default_factory=dict)
    numbers: set[bytes] = field(default_factory=set)
    last: int = 0

    def number(self, where: str) -> int:
        self.count[where] = self.count.get(where, 0) + 1
        self.last += 1
        return self.last

    def text(self, where: str) -> str:
        return f"{WORD}{self.number(where):05d}"

    def digits(self, where: str, form: str) -> str:
        said = form.format(self.number(where))
        self.numbers.add(said.encode())
        return said

    def value(self, vr: str) -> object:
        """A sentinel as a value of ``vr``; None where none fits (an age)."""
        if vr in TEXT:
            return ("http://" if vr == "UR" else "") + self.text(vr) + ("^Jane" if vr == "PN" else "")
        if vr in BINARY:
            raw = WORD.encode() + self.number(vr).to_bytes(2, "little")
            kind = {"US": "<u2", "SS": "<i2", "UL": "<u4", "SL": "<i4", "UV": "<u8", "SV": "<i8", "FL": "<f4",
                    "FD": "<f8", "AT": "<u4"}[vr]  # fmt: skip
            numbers = np.frombuffer(raw, kind).tolist()
            self.numbers |= {repr(one).encode() for one in numbers if len(repr(one)) > 8}
            return numbers
        if vr in BYTES:
            return f"{self.text(vr)}-bytes".encode()
        digits = {"TM": "235959.{:06d}", "DT": "18420101123456.{:06d}", "DS": "7319{:05d}.25",
                  "IS": "1319{:05d}"}  # fmt: skip
        if vr == "DA":  # a day of the eighteenth century
            day = (date(1701, 1, 1) + timedelta(days=self.number(vr))).strftime("%Y%m%d")
            self.numbers.add(day.encode())
            return day
        if vr in digits:
            return self.digits(vr, digits[vr])
        return f"{ROOT}{self.number(vr)}" if vr == "UI" else None

    def item(self) -> pydicom.Dataset:
        inner = pydicom.Dataset()
        inner.PatientComments = self.text("SQ")
        inner.private_block(0x0011, self.text("private creator"), create=True).add_new(0x01, "LT", self.text("private"))
        return inner


def write_dicom(folder: Path, planted: Planted, patients: int, slices: int = 8) -> None:
    """CT series 8×8×slices. Every element of the dictionary that imgsynth does not need is in one of the files."""
    random = np.random.default_rng(0)
    others = [
        (tag, vr.split(" or ")[0])
        for tag, (vr, _, _, _, keyword) in sorted(DicomDictionary.items())
        if keyword not in PIXELS | set(ALLOWED) and 0x0008 <= tag >> 16 < 0x7F00 and tag & 0xFFFF and vr != "NONE"
    ]
    for patient in range(patients):
        series = folder / planted.text("folder") / planted.text("folder")
        series.mkdir(parents=True)
        common = {"StudyInstanceUID": f"{ROOT}{planted.number('UI')}", "FrameOfReferenceUID": generate_uid(),
                  "SeriesInstanceUID": f"{ROOT}{planted.number('UI')}", "PatientID": planted.text("id"),
                  "InstitutionName": planted.text("site")}  # fmt: skip
        for k in range(slices):
            d = pydicom.Dataset()
            for tag, vr in others[patient * slices + k :: patients * slices]:
                value = [planted.item()] if vr == "SQ" else planted.value(vr)
                if value is not None:
                    d.add_new(tag, vr, value)
            block = d.private_block(0x0009, planted.text("private creator"), create=True)
            for offset, vr in enumerate((*TEXT, *BINARY, *BYTES), 1):
                block.add_new(offset, vr, planted.value(vr))
            _image(d, common, k, random)
            d.save_as(series / f"{planted.text('file')}.dcm", enforce_file_format=True)


def _image(d: pydicom.Dataset, common: dict[str, str], k: int, random: np.random.Generator) -> None:
    """What makes the data set slice ``k`` of a sound CT series."""
    for keyword, value in common.items():
        setattr(d, keyword, value)
    d.SOPClassUID, d.SOPInstanceUID, d.Modality = CTImageStorage, generate_uid(), "CT"
    d.PatientSex, d.PatientAge, d.ImageType = "F", "055Y", ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.ImageOrientationPatient, d.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 10 * k]
    d.PixelSpacing, d.SliceThickness = [10, 10], 10
    d.Rows = d.Columns = 8
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated = d.BitsStored = 16
    d.HighBit, d.PixelRepresentation, d.RescaleSlope, d.RescaleIntercept = 15, 1, 1, -1000
    d.PixelData = random.integers(0, 1600, (8, 8)).astype("<i2").tobytes()
    d.file_meta = pydicom.dataset.FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def write_nifti(folder: Path, planted: Planted, patients: int) -> Path:
    """MR volumes with sentinels in names, text fields, extensions and sidecars; the csv table of their ids."""
    random, rows = np.random.default_rng(1), []
    for _ in range(patients):
        case = planted.text("file")
        path = folder / planted.text("folder") / f"{case}.nii.gz"
        path.parent.mkdir(parents=True)
        image = nib.Nifti1Image(random.uniform(0, 900, (8, 8, 8)).astype(np.float32), np.diag([2, 2, 2, 1]))
        for name in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
            image.header[name] = planted.text(f"NIfTI {name}")[: image.header[name].dtype.itemsize].encode()
        for code in (4, 6, 44):
            image.header.extensions.append(nib.nifti1.Nifti1Extension(code, planted.text("NIfTI extension").encode()))
        nib.save(image, path)
        sidecar = {planted.text("JSON key"): planted.text("JSON"), "deep": [{"PatientName": planted.text("JSON")}]}
        path.with_name(f"{case}.json").write_text(json.dumps(sidecar))
        rows.append((case, planted.text("id"), planted.text("table")))
    return _table(folder / "table.csv", planted, rows)


def write_npz(path: Path, planted: Planted, patients: int) -> Path:
    """Radiographs, with sentinels in names of arrays and in arrays of text; a table with more."""
    path.parent.mkdir(parents=True)
    random = np.random.default_rng(2)
    ids = np.array([planted.text("id") for _ in range(patients)])
    arrays = {"images": random.integers(0, 256, (patients, 16, 16)).astype(np.uint8), "ids": ids,
              planted.text("npz name"): np.array([planted.text("npz") for _ in range(patients)])}  # fmt: skip
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return _table(path.with_name("table.csv"), planted, [("", one, planted.text("table")) for one in ids.tolist()])


def _table(path: Path, planted: Planted, rows: list[tuple[str, str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(["file", "who", "hospital", planted.text("column")])
        table.writerows([(*row, planted.text("table")) for row in rows])
    return path


def found_in(data: bytes, planted: Planted) -> set[str]:
    """What of ``planted`` is in ``data``: as text in UTF-8, 16 and 32, in base64, as a number, inside gzip and zip."""
    lower = data.lower()
    patterns = {name: WORD.lower().encode(name).rstrip(b"\0") for name in ("utf-8", "utf-16-le", "utf-32-le")}
    found = {f"{name} at {at}" for name, pattern in patterns.items() if (at := lower.find(pattern)) >= 0}
    found |= {f"base64 at {at}" for pattern in _base64() if (at := data.find(pattern)) >= 0}
    found |= {"a UID"} if ROOT.encode() in data else set()
    numbers = set(re.findall(rb"(?<![\w.+-])-?[\d.]{8,25}(?:e[+-]?\d+)?(?![\w.])", lower))
    found |= {f"number {one.decode()}" for one in numbers & planted.numbers}
    for name, inner in _inside(data):
        found |= {f"{name}: {one}" for one in found_in(inner, planted)}
    return found


def _inside(data: bytes) -> Iterator[tuple[str, bytes]]:
    if data[:2] == b"\x1f\x8b":
        yield "gzip", gzip.decompress(data)
    if data[:4] == b"PK\3\4":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield f"zip {name}", name.encode() + b"\n" + archive.read(name)


def _base64() -> Iterator[bytes]:
    """The letters of base64 that follow from WORD alone, wherever it begins among groups of three bytes."""
    for word in (WORD.encode(), WORD.lower().encode()):
        for before in range(3):
            encoded = base64.b64encode(b"\0" * before + word)
            yield encoded[-(-8 * before // 6) : 8 * (before + len(word)) // 6]
