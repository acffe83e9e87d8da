"""The size that a compressed frame states of itself, which a decoder believes before all that the header says."""

from __future__ import annotations

import struct
from pathlib import Path

from pydicom import Dataset
from pydicom.encaps import generate_frames

from imgsynth.volumes.dicom_element import refuse, whole

_MOST_TILES = 65535  # of JPEG 2000 (ISO 15444-1 A.4.2: Isot has 16 bits)


def check_frame_sizes(dataset: Dataset, path: Path) -> None:
    """Refuse encapsulated pixel data of which a frame is not Rows by Columns, before a decoder makes room for it."""
    rows, columns = whole(dataset, "Rows", path), whole(dataset, "Columns", path)
    count = whole(dataset, "NumberOfFrames", path) or 1
    for frame in generate_frames(dataset.PixelData, number_of_frames=count):
        stated = jpeg2000_size(frame) if b"\xff\x4f\xff\x51" in frame[:1024] else jpeg_size(frame)
        if stated is not None and stated != (rows, columns):
            refuse(path, "PixelData", f"a frame of {stated[0]}×{stated[1]} pixels", f"{rows}×{columns}, as the header "
                   "says", "export the file again, uncompressed, or remove it", "broken_pixels")  # fmt: skip


def jpeg2000_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns of a codestream's SIZ segment (ISO 15444-1 A.5.1), (0, 0) where its tiles are too many."""
    at = frame.find(b"\xff\x4f\xff\x51")
    right, lower, left, upper, wide, high, tile_left, tile_upper = struct.unpack_from(">8I", frame, at + 8)
    if not (wide and high):
        return 0, 0
    tiles = -(-(right - tile_left) // wide) * -(-(lower - tile_upper) // high)
    return (lower - upper, right - left) if 0 < tiles <= _MOST_TILES else (0, 0)


def jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns of the frame header of JPEG or JPEG-LS (ISO 10918-1 B.2.2); None where there is none."""
    if frame[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns = struct.unpack_from(">2H", frame, at + 5)
            return rows, columns
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
