"""Elements of a DICOM data set, read with suspicion: every error names the file, the element and its tag."""

from __future__ import annotations

import functools
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from pydicom import Dataset
from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException, InvalidDicomError

from imgsynth.types import Fault, InputError
from imgsynth.volumes.dicom_scan import Elements

# What pydicom and its decoders raise over bytes that are not what they say.
BROKEN = (InvalidDicomError, BytesLengthException, OSError, EOFError, ValueError, TypeError, KeyError, IndexError,
          AttributeError, NotImplementedError, AssertionError, RecursionError, MemoryError, OverflowError, RuntimeError,
          struct.error, zlib.error)  # fmt: skip


# Value representations whose bytes are text, values being separated by a backslash (PS3.5 6.2).
TEXT = ("AS", "CS", "DS", "IS", "LO", "SH", "UI")

Source = Dataset | Elements


@functools.cache
def tag_of(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return tag


def element(keyword: str) -> str:
    """An element by name and tag, "Pixel Spacing (0028,0030)"."""
    tag = tag_of(keyword)
    return f"{dictionary_description(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def refuse(
    path: Path | str, keyword: str, got: str, expected: str, remedy: str, code: str = "broken_header"
) -> NoReturn:
    raise InputError(Fault(str(path), f"{element(keyword)} {got}", expected, remedy, code, (str(path),)))


@contextmanager
def quietly() -> Iterator[None]:
    """pydicom warns of values that break their representation; those that we use are checked one by one here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def value(dataset: Source, keyword: str, path: Path) -> Any:
    """The value of an element (a list when there are several), or None when it is absent or empty.

    Plain ASCII is decoded here: pydicom's own conversion would take two thirds of the time to index a folder.
    """
    if isinstance(dataset, Elements):
        return dataset.values.get(tag_of(keyword))
    try:
        raw = dataset.get_item(tag_of(keyword))
        if isinstance(raw, RawDataElement) and _is_plain(raw):
            parts = [part.strip(" \0") for part in (raw.value or b"").decode("ascii").split("\\")]
            return (parts[0] or None) if len(parts) == 1 else parts
        found = dataset.get(keyword)
    except BROKEN as error:
        refuse(path, keyword, f"unreadable ({error})", "a value of its type", "repair or remove the file")
    return None if found is None or found == "" else found


def _is_plain(raw: RawDataElement) -> bool:
    vr = raw.VR if raw.VR not in (None, "UN") else dictionary_VR(raw.tag)
    return vr in TEXT and (raw.value is None or (raw.value.isascii() and b"\x1b" not in raw.value))


def text(dataset: Source, keyword: str, path: Path) -> str:
    found = value(dataset, keyword, path)
    if found is None:
        return ""
    return str(found).strip() if isinstance(found, (str, int, float)) else "\\".join(str(part) for part in found)


def words(dataset: Source, keyword: str, path: Path) -> tuple[str, ...]:
    """The values of a multi-valued element of text, in capitals."""
    found = value(dataset, keyword, path)
    if found is None:
        return ()
    return tuple(str(part).strip().upper() for part in ([found] if isinstance(found, str) else found))


def numbers(dataset: Source, keyword: str, path: Path, count: int) -> np.ndarray | None:
    """``count`` finite numbers, or None when the element is absent or empty."""
    found = value(dataset, keyword, path)
    if found is None:
        return None
    if isinstance(dataset, Elements) and (plain := _floats(found)) is not None and len(plain) == count:
        return np.array(plain)
    try:
        array = np.atleast_1d(np.asarray(found, dtype=float))
    except BROKEN:
        array = np.full(count, np.nan)
    if array.shape != (count,) or not np.isfinite(array).all():
        refuse(path, keyword, f"{found!r}", f"{count} finite number(s)", "repair or remove the file")
    return array


def _floats(found: Any) -> list[float] | None:
    """Finite numbers from what the scan gives, or None; without NumPy, which takes its time over text."""
    try:
        plain = [float(part) for part in (found if isinstance(found, list) else [found])]
    except ValueError:
        return None
    return plain if all(map(math.isfinite, plain)) else None


def number(dataset: Source, keyword: str, path: Path) -> float | None:
    if isinstance(dataset, Elements):
        found = value(dataset, keyword, path)
        if found is None:
            return None
        if (plain := _floats(found)) is not None and len(plain) == 1:
            return plain[0]
    array = numbers(dataset, keyword, path, 1)
    return None if array is None else float(array[0])


def whole(dataset: Source, keyword: str, path: Path) -> int | None:
    """A whole number, or None when the element is absent or empty."""
    found = number(dataset, keyword, path)
    if found is not None and found != int(found):
        refuse(path, keyword, str(found), "a whole number", "repair or remove the file")
    return None if found is None else int(found)


def items(dataset: Source, keyword: str, path: Path) -> list[Dataset]:
    found = value(dataset, keyword, path)
    try:
        return [] if found is None else list(found)
    except BROKEN as error:
        refuse(path, keyword, f"unreadable ({error})", "a sequence of items", "repair or remove the file")
