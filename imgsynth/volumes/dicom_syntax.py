"""Stored values as Pixel Data in a transfer syntax; every one of them keeps each bit (PS3.5 8, A.4)."""

from __future__ import annotations

import struct

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

SYNTAXES: dict[str, UID] = {
    "explicit_little_endian": ExplicitVRLittleEndian,
    "jpeg2000_lossless": JPEG2000Lossless,
    "rle_lossless": RLELossless,
}

SMALLEST_JPEG2000 = 32  # pixels along a side: the encoder halves the image five times
UNDEFINED = 0xFFFFFFFF  # length of an element that a delimiter ends (PS3.5 7.5.1)


def pixel_element(frames_FRC: np.ndarray, syntax: UID) -> bytes:
    """The whole element Pixel Data (7FE0,0010), tag to delimiter, of frames [F, rows, columns] of 16 bits."""
    if not syntax.is_encapsulated:
        pixels = np.ascontiguousarray(frames_FRC, dtype=frames_FRC.dtype.newbyteorder("<")).tobytes()
        return struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OW", len(pixels)) + pixels
    encapsulated = encapsulate([_compress(frame_RC, syntax) for frame_RC in frames_FRC])
    delimiter = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OB", UNDEFINED) + encapsulated + delimiter


def _compress(frame_RC: np.ndarray, syntax: UID) -> bytes:
    return get_encoder(syntax).encode(
        np.ascontiguousarray(frame_RC),
        rows=frame_RC.shape[0],
        columns=frame_RC.shape[1],
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=16,
        bits_stored=16,
        pixel_representation=int(frame_RC.dtype.kind == "i"),
        photometric_interpretation="MONOCHROME2",
    )
