"""Many single-frame files that share a header: the shared part is encoded once, so a file takes a fraction of a ms."""

from __future__ import annotations

import os
import shutil
import struct
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from imgsynth.volumes.uids import NewUid

IMPLEMENTATION_UID = UID("2.25.285071494632346163297441254139640530945")  # imgsynth's own, fixed

# What differs from file to file, in the order of tags.
SOP_INSTANCE, INSTANCE_NUMBER, POSITION, PIXELS = 0x00080018, 0x00200013, 0x00200032, 0x7FE00010


def write_frames(
    dataset: Dataset, frames_KRC: np.ndarray, positions_K3: np.ndarray | None, folder: Path, new_uid: NewUid
) -> list[Path]:
    """Write one file per frame, ``dataset`` being what they have in common; the folder appears by one rename.

    ``frames_KRC`` [K, rows, columns] are stored values of 16 bits, ``positions_K3`` [K, 3] Image Positions (LPS+ mm)
    or None for projection images. Each file gets its own SOP Instance UID (of ``new_uid``) and Instance Number,
    and is named by the latter. Explicit VR little endian, part 10 format.
    """
    fixed = _fixed_parts(dataset)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        names = []
        for number, (frame, position) in enumerate(zip(frames_KRC, _rows(positions_K3), strict=False), start=1):
            names.append(f"{number:06d}.dcm")
            (partial / names[-1]).write_bytes(
                _encode_file(dataset.SOPClassUID, new_uid(), fixed, number, frame, position)
            )
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [folder / name for name in names]


def decimals(values: Any) -> list[str]:
    """Decimal strings of at most 16 bytes (VR DS, PS3.5 6.2), as near to the values as those allow."""
    return [format_number_as_ds(float(value) + 0.0) for value in values]


def _rows(positions_K3: np.ndarray | None) -> Any:
    return repeat(None) if positions_K3 is None else positions_K3


def _fixed_parts(dataset: Dataset) -> list[bytes]:
    """The encoded elements before, between and after those that differ."""
    edges = [0, SOP_INSTANCE, INSTANCE_NUMBER, POSITION, PIXELS]
    return [_encode(dataset[start + (start > 0) : stop]) for start, stop in pairwise(edges)]


def _encode_file(
    sop_class: UID, instance: str, fixed: list[bytes], number: int, frame: np.ndarray, position: Any
) -> bytes:
    pixels = np.ascontiguousarray(frame, dtype=frame.dtype.newbyteorder("<")).tobytes()
    return b"".join(
        (
            _file_meta(sop_class, instance),
            fixed[0],
            _element(SOP_INSTANCE, b"UI", instance.encode()),
            fixed[1],
            _element(INSTANCE_NUMBER, b"IS", str(number).encode()),
            fixed[2],
            b"" if position is None else _element(POSITION, b"DS", "\\".join(decimals(position)).encode()),
            fixed[3],
            _element(PIXELS, b"OW", pixels),
        )
    )


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    """A data element with explicit VR in little endian, its value padded to even length (PS3.5 7.1.2, 6.2)."""
    value += (b"\0" if vr in (b"UI", b"OB", b"OW") else b" ") * (len(value) % 2)
    length = struct.pack("<2xI", len(value)) if vr in (b"OB", b"OW") else struct.pack("<H", len(value))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr + length + value


def _file_meta(sop_class: UID, instance: str) -> bytes:
    """Preamble, prefix and File Meta Information (PS3.10 7.1)."""
    meta = b"".join(
        (
            _element(0x00020001, b"OB", b"\0\1"),
            _element(0x00020002, b"UI", sop_class.encode()),
            _element(0x00020003, b"UI", instance.encode()),
            _element(0x00020010, b"UI", ExplicitVRLittleEndian.encode()),
            _element(0x00020012, b"UI", IMPLEMENTATION_UID.encode()),
            _element(0x00020013, b"SH", b"IMGSYNTH"),
        )
    )
    return bytes(128) + b"DICM" + _element(0x00020000, b"UL", struct.pack("<I", len(meta))) + meta


def _encode(dataset: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())
