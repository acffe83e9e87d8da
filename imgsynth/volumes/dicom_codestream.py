"""What a compressed frame states of itself: its size, which a decoder believes before all that the header says, and its
end, of which decoders make grey where it is missing."""

from __future__ import annotations

import struct
from pathlib import Path

from pydicom import Dataset
from pydicom.encaps import generate_frames

from imgsynth.volumes.dicom_element import refuse, whole

_JPEG2000 = b"\xff\x4f\xff\x51"  # start of codestream, image and tile size
_START_OF_TILE, _END = 0xFF90, b"\xff\xd9"
_MOST_TILES = 65535  # ISO 15444-1 A.4.2: Isot has 16 bits


def check_frames(dataset: Dataset, path: Path) -> None:
    """Refuse encapsulated pixels of which a frame is not Rows by Columns, or not whole, before they are decoded."""
    size = whole(dataset, "Rows", path), whole(dataset, "Columns", path)
    count = whole(dataset, "NumberOfFrames", path) or 1
    for frame in generate_frames(dataset.PixelData, number_of_frames=count):
        is_2000 = _JPEG2000 in frame[:1024]
        stated = jpeg2000_size(frame) if is_2000 else jpeg_size(frame)
        if stated is None:
            continue  # run lengths, which end where their segments do
        if stated != size:
            refuse(path, "PixelData", f"a frame of {stated[0]}×{stated[1]} pixels",
                   f"{size[0]}×{size[1]}, as the header says", "export the file again, uncompressed, or remove it",
                   "broken_pixels")  # fmt: skip
        if not (jpeg2000_is_whole(frame) if is_2000 else frame.rstrip(b"\0\xff").endswith(_END)):
            refuse(path, "PixelData", "a frame that is cut short", "a whole frame",
                   "copy or export the file again, or remove it", "broken_pixels")  # fmt: skip


def jpeg2000_size(frame: bytes) -> tuple[int, int]:
    """Rows and columns of a codestream's SIZ segment (ISO 15444-1 A.5.1)."""
    right, lower, left, upper = struct.unpack_from(">4I", frame, frame.find(_JPEG2000) + 8)
    return lower - upper, right - left


def jpeg2000_is_whole(frame: bytes) -> bool:
    """Whether every tile has a part, all parts lie within the codestream, and it is ended (ISO 15444-1 A.4)."""
    start = frame.find(_JPEG2000)
    right, lower, _, _, wide, high, left, upper = struct.unpack_from(">8I", frame, start + 8)
    tiles = -(-(right - left) // wide) * -(-(lower - upper) // high) if wide and high else 0
    if not 0 < tiles <= _MOST_TILES:
        return False
    end = frame.rfind(_END)
    at, seen = start + 2, set()
    while at + 12 <= end:
        marker, length = struct.unpack_from(">2H", frame, at)
        if marker == _START_OF_TILE:
            tile, length = struct.unpack_from(">HI", frame, at + 4)
            seen.add(tile)
            at += length or end - at  # 0: to the end
        elif not seen and marker >> 8 == 0xFF:  # of the main header
            at += 2 + length
        else:
            return False
    return at == end and len(seen) == tiles


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
