"""DICOM files from a data set and its frames; what single-frame files share is encoded once, in a fraction of a ms."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID
from pydicom.valuerep import format_number_as_ds

from imgsynth.volumes.dicom_syntax import pixel_element
from imgsynth.volumes.uids import NewUid

IMPLEMENTATION_UID = UID("2.25.285071494632346163297441254139640530945")  # imgsynth's own, fixed
IMPLEMENTATION_NAME = "IMGSYNTH"

# What differs from file to file, in the order of tags.
SOP_INSTANCE, INSTANCE_NUMBER, POSITION, PIXELS = 0x00080018, 0x00200013, 0x00200032, 0x7FE00010


def write_files(files: Iterable[bytes], folder: Path) -> list[Path]:
    """Write ``files`` under numbers that begin with 1 into the new folder ``folder``, which appears by one rename."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        names = []
        for number, content in enumerate(files, start=1):
            names.append(f"{number:06d}.dcm")
            (partial / names[-1]).write_bytes(content)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [folder / name for name in names]


def single_frames(
    dataset: Dataset, frames_KRC: np.ndarray, positions_K3: np.ndarray | None, syntax: UID, new_uid: NewUid
) -> Iterator[bytes]:
    """One file per frame, ``dataset`` being what they have in common.

    ``frames_KRC`` [K, rows, columns] are stored values of 16 bits, ``positions_K3`` [K, 3] Image Positions (LPS+ mm)
    or None for projection images. Each file gets its own SOP Instance UID (of ``new_uid``) and Instance Number.
    """
    fixed = _fixed_parts(dataset)
    positions = repeat(None) if positions_K3 is None else positions_K3
    for number, (frame_RC, position) in enumerate(zip(frames_KRC, positions, strict=False), start=1):
        instance = new_uid()
        yield b"".join(
            (
                _file_meta(dataset.SOPClassUID, instance, syntax),
                fixed[0],
                _element(SOP_INSTANCE, b"UI", instance.encode()),
                fixed[1],
                _element(INSTANCE_NUMBER, b"IS", str(number).encode()),
                fixed[2],
                b"" if position is None else _element(POSITION, b"DS", "\\".join(decimals(position)).encode()),
                fixed[3],
                pixel_element(frame_RC[None], syntax),
            )
        )


def multi_frame(dataset: Dataset, frames_FRC: np.ndarray, syntax: UID) -> bytes:
    """One file of all frames, ``dataset`` being everything but the pixels."""
    meta = _file_meta(dataset.SOPClassUID, dataset.SOPInstanceUID, syntax)
    return meta + _encode(dataset) + pixel_element(frames_FRC, syntax)


def decimals(values: Any) -> list[str]:
    """Decimal strings of at most 16 bytes (VR DS, PS3.5 6.2), as near to the values as those allow."""
    return [format_number_as_ds(float(value) + 0.0) for value in values]


def _fixed_parts(dataset: Dataset) -> list[bytes]:
    """The encoded elements before, between and after those that differ."""
    edges = [0, SOP_INSTANCE, INSTANCE_NUMBER, POSITION, PIXELS]
    return [_encode(dataset[start + (start > 0) : stop]) for start, stop in pairwise(edges)]


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    """A data element with explicit VR in little endian, its value padded to even length (PS3.5 7.1.2, 6.2)."""
    value += (b"\0" if vr in (b"UI", b"OB") else b" ") * (len(value) % 2)
    length = struct.pack("<2xI", len(value)) if vr == b"OB" else struct.pack("<H", len(value))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr + length + value


def _file_meta(sop_class: UID, instance: str, syntax: UID) -> bytes:
    """Preamble, prefix and File Meta Information (PS3.10 7.1)."""
    meta = b"".join(
        (
            _element(0x00020001, b"OB", b"\0\1"),
            _element(0x00020002, b"UI", sop_class.encode()),
            _element(0x00020003, b"UI", instance.encode()),
            _element(0x00020010, b"UI", syntax.encode()),
            _element(0x00020012, b"UI", IMPLEMENTATION_UID.encode()),
            _element(0x00020013, b"SH", IMPLEMENTATION_NAME.encode()),
        )
    )
    return bytes(128) + b"DICM" + _element(0x00020000, b"UL", struct.pack("<I", len(meta))) + meta


def _encode(dataset: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())
