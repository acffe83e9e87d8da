"""What a NIfTI header may claim: checked before anything of that size is read or allocated."""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import nibabel as nib
from nibabel.batteryrunners import BatteryRunner

from imgsynth.types import Fault, InputError
from imgsynth.volumes.limits import ROOM, is_bomb

_MOST_GAIN = 1032  # deflate makes no byte into more than that
_MOST_EXTENSIONS = 1000
_DOUBTFUL = 30  # nibabel's level of problems that it mends, from here on by a guess


def check_reach(path: Path, shape: Sequence[int], itemsize: int, offset: int) -> None:
    """Refuse an image that its file cannot hold, or that a few bytes would blow up to fill the memory.

    ``shape`` is of voxels of ``itemsize`` bytes, which begin ``offset`` bytes into the (unpacked) file.
    """
    size = path.stat().st_size
    voxels = math.prod(max(int(n), 0) for n in shape)
    reach = offset + voxels * itemsize
    packed = path.suffix.lower() == ".gz"
    if reach > (size * _MOST_GAIN if packed else size):
        raise _fault(
            path, f"{size} bytes for dim {tuple(map(int, shape))} (cut short, or a damaged header)", "truncated"
        )
    if offset > ROOM:
        raise _fault(path, f"data that begin at byte {offset}", "absurd_size")
    if packed and is_bomb(max(reach, 2 * voxels), size):
        raise _fault(path, f"{size} bytes that unpack to {reach} (a decompression bomb)", "absurd_size")


def check_header(path: Path) -> None:
    """Refuse a header that nibabel would mend by guessing, or whose extensions do not fit before the data.

    A guessed form code or voxel size can turn an image over without a word. An offset that is no multiple of 16 is
    borne: old programs wrote such, and nothing is guessed.
    """
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        start = file.read(544)
        form = next((form for form in (nib.Nifti1Header, nib.Nifti2Header) if form.may_contain_header(start)), None)
        if form is None:
            return  # what it is then, nibabel says
        header = form(start[: form.sizeof_hdr], check=False)
        for report in BatteryRunner(form._get_checks()).check_only(header):
            if report.problem_level >= _DOUBTFUL and "divisible" not in report.problem_msg:
                raise _fault(path, f"a header with {report.problem_msg}", "unreadable")
        if not float(header["vox_offset"]).is_integer():
            raise _fault(path, f"data that begin at byte {header['vox_offset']}", "unreadable")
        if start[form.sizeof_hdr : form.sizeof_hdr + 1] not in (b"", b"\0"):
            _check_extensions(cast(BinaryIO, file), header, path)


def _check_extensions(file: BinaryIO, header: nib.Nifti1Header, path: Path) -> None:
    """nibabel would read as many bytes as an extension claims to have."""
    offset = header.get_data_offset()
    check_reach(path, (0,), 0, offset)
    place = header.sizeof_hdr + 4
    for _ in range(_MOST_EXTENSIONS):
        if place + 16 > offset:
            return
        file.seek(place)
        definition = file.read(8)
        size = struct.unpack(f"{header.endianness}i", definition[:4])[0] if len(definition) == 8 else 0
        if not 8 < size <= offset - place:
            raise _fault(path, f"a header extension of {size} bytes, {offset - place} before the data", "unreadable")
        place += size
    raise _fault(path, f"more than {_MOST_EXTENSIONS} header extensions", "unreadable")


def _fault(path: Path, got: str, code: str) -> InputError:
    return InputError(Fault(str(path), got, "a whole image", "export it again, or remove it", code, (str(path),)))
