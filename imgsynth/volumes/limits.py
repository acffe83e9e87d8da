"""What is too much for a file: sizes that a few bytes claim, and that no image has.

A thousandfold gain is what deflate makes of nothing but zeros. Images gain two to four; segmentations and blank frames
more, but then they are not large.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import BinaryIO

from imgsynth.types import Fault, InputError

ROOM = 256 << 20  # bytes that may be claimed by however few
RATIO = 200  # beyond, how many bytes each byte of the file may become
_BLOCK = 1 << 16


def is_bomb(claimed: int, packed: int) -> bool:
    """Whether ``claimed`` bytes are too many to be made of ``packed`` bytes."""
    return claimed > max(ROOM, RATIO * packed)


def check_deflated(file: BinaryIO, start: int | None, path: Path) -> None:
    """Refuse a deflated data set, beginning at ``start``, that would fill the memory."""
    if start is None:
        return
    file.seek(start)
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    packed = unpacked = 0
    while block := unpack.unconsumed_tail or file.read(_BLOCK):
        packed = file.tell() - start
        unpacked += len(unpack.decompress(block, _BLOCK))
        if is_bomb(unpacked, packed):
            raise InputError(Fault(str(path), f"{packed} bytes that inflate to more than {ROOM >> 20} MiB (a "
                                   "decompression bomb)", "a deflated image", "remove the file", "absurd_size",
                                   (str(path),)))  # fmt: skip
