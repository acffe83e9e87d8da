"""The few elements that an index wants, from a file's first bytes: several times as fast as reading all of a header.

Only what is laid out by the book is read here: part 10, little endian, tags in ascending order, plain ASCII, each
wanted element in the representation that the dictionary gives it. Of anything else ``scan`` makes nothing, and pydicom
reads the file instead; what both can read, they read alike (tests/volumes/test_dicom_scan.py).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydicom import config, uid
from pydicom.datadict import dictionary_VR

PREAMBLE = 132
PIXEL_DATA = 0x7FE00010
_SYNTAX, _MEDIA_CLASS = 0x00020010, 0x00020002
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_OPEN = 0xFFFFFFFF  # the length of a sequence or item that ends with a delimiter
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # lengths of four bytes (PS3.5 7.1.2)
_PLAIN = frozenset((b"AS", b"CS", b"DS", b"IS", b"LO", b"SH", b"UI"))  # text; values are separated by a backslash
_DEPTH = 16
_explicit = struct.Struct("<HH2sH").unpack_from
_implicit = struct.Struct("<HHI").unpack_from
_long = struct.Struct("<I").unpack_from


class _Unusual(Exception):
    """Not by the book, or longer than the bytes at hand."""


@dataclass(slots=True)
class Elements:
    """Wanted elements as text values (a list where there are several; an int for US), as ``dicom_element.value``
    gives them; absent and empty ones are missing. ``end`` is where the element of the pixel data begins."""

    syntax: uid.UID
    end: int = 0
    values: dict[int, str | list[str] | int] = field(default_factory=dict)


def scan(start: bytes, wanted: frozenset[int]) -> Elements | None:
    """The ``wanted`` tags of the data set whose file begins with ``start``, or None where pydicom must look."""
    try:
        return _scan(start, wanted)
    except (_Unusual, struct.error, UnicodeDecodeError):
        return None


@functools.lru_cache(maxsize=1024)
def known_uid(text: str) -> uid.UID:
    """A UID, unchecked: a few classes and transfer syntaxes occur over and over, and others are refused by name."""
    return uid.UID(text, validation_mode=config.IGNORE)


def deflated_from(start: bytes) -> int | None:
    """Where the deflated data set of a file begins; None where it is not deflated."""
    try:
        at, syntax, _ = _meta(start)
    except (_Unusual, struct.error, UnicodeDecodeError):
        return None
    return at if syntax == uid.DeflatedExplicitVRLittleEndian else None


def _meta(start: bytes) -> tuple[int, uid.UID, uid.UID]:
    """Where File Meta Information ends, its transfer syntax and the class of what follows (PS3.10 7.1)."""
    if start[128:PREAMBLE] != b"DICM":
        raise _Unusual
    found: dict[int, tuple[bytes, bytes]] = {}
    at = _walk(start, PREAMBLE, False, frozenset((_SYNTAX, _MEDIA_CLASS)), found, stop=0x00030000)
    names = (found.get(tag, (b"", b""))[1].rstrip(b" \0").decode("ascii") for tag in (_SYNTAX, _MEDIA_CLASS))
    syntax, media_class = map(known_uid, names)
    return at, syntax, media_class


def _scan(start: bytes, wanted: frozenset[int]) -> Elements:
    at, syntax, media_class = _meta(start)
    odd = syntax in (uid.DeflatedExplicitVRLittleEndian, uid.ExplicitVRBigEndian) or not syntax.is_transfer_syntax
    if odd or media_class == uid.MediaStorageDirectoryStorage:
        raise _Unusual
    implicit = syntax == uid.ImplicitVRLittleEndian
    if implicit == (start[at + 4 : at + 6] in _SHORT | _LONG):  # not encoded as the transfer syntax says
        raise _Unusual
    found: dict[int, tuple[bytes, bytes]] = {}
    elements = Elements(syntax, _walk(start, at, implicit, wanted, found, stop=PIXEL_DATA))
    for tag, (vr, data) in found.items():
        if (decoded := _decoded(tag, vr, data)) not in (None, ""):
            elements.values[tag] = decoded  # type: ignore[assignment]
    return elements


def _walk(
    data: bytes, at: int, implicit: bool, wanted: frozenset[int], found: dict[int, tuple[bytes, bytes]], stop: int
) -> int:
    """Step over the elements from ``at`` on, keep the wanted ones, and say where the first from ``stop`` on begins."""
    last = -1
    while True:
        if implicit:
            group, number, length = _implicit(data, at)
            vr, value_at = b"", at + 8
        else:
            group, number, vr, length = _explicit(data, at)
            value_at = at + 8
        tag = group << 16 | number
        if tag >= stop:
            if tag != stop and stop == PIXEL_DATA:  # float pixels, or none
                raise _Unusual
            return at
        if tag <= last:
            raise _Unusual
        last = tag
        if not implicit and vr not in _SHORT:
            if vr not in _LONG:
                raise _Unusual
            (length,) = _long(data, value_at)
            value_at += 4
        if length == _OPEN:
            if tag in wanted or not (implicit or vr == b"SQ"):
                raise _Unusual
            at = _after_sequence(data, value_at, implicit, _DEPTH)
            continue
        at = value_at + length
        if at > len(data):
            raise _Unusual
        if tag in wanted:
            found[tag] = (vr, data[value_at:at])


def _after_sequence(data: bytes, at: int, implicit: bool, depth: int) -> int:
    """Where a sequence of open length ends, its first item being at ``at``."""
    if depth == 0:
        raise _Unusual
    while True:
        group, number, length = _implicit(data, at)
        tag = group << 16 | number
        at += 8
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise _Unusual
        at = at + length if length != _OPEN else _after_item(data, at, implicit, depth)


def _after_item(data: bytes, at: int, implicit: bool, depth: int) -> int:
    while True:
        group, number, length = _implicit(data, at)
        if (group << 16 | number) == _ITEM_END:
            return at + 8
        value_at = at + 8
        is_sequence = implicit
        if not implicit:
            vr = data[at + 4 : at + 6]
            if vr in _SHORT:
                length >>= 16
            elif vr in _LONG:
                (length,) = _long(data, value_at)
                value_at += 4
                is_sequence = vr == b"SQ"
            else:
                raise _Unusual
        if length == _OPEN:
            if not is_sequence:
                raise _Unusual
            at = _after_sequence(data, value_at, implicit, depth - 1)
        else:
            at = value_at + length


def _decoded(tag: int, vr: bytes, data: bytes) -> str | Sequence[str] | int | None:
    known = _representation(tag)
    if vr not in (b"", known):
        raise _Unusual
    if known == b"US" and len(data) == 2:
        return int.from_bytes(data, "little")
    if known not in _PLAIN or b"\x1b" in data:
        raise _Unusual
    text = data.decode("ascii")
    if "\\" not in text:
        return text.strip(" \0")
    return [part.strip(" \0") for part in text.split("\\")]


_representations: dict[int, bytes] = {}


def _representation(tag: int) -> bytes:
    if tag not in _representations:
        _representations[tag] = dictionary_VR(tag).encode()
    return _representations[tag]
