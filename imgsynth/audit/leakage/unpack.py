"""Every byte of a file that could hold text: as it lies on disk, and what compression and base64 hide in it."""

from __future__ import annotations

import base64
import binascii
import bz2
import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pydicom

DEPTH = 4  # containers within containers
LARGEST = 1 << 31  # bytes of one unpacked layer: more is no text of a header

_BASE64 = re.compile(rb"base64,\s*([A-Za-z0-9+/=\s]{16,})")
BROKEN = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, binascii.Error, struct.error,
          RuntimeError, NotImplementedError)  # fmt: skip


class Unreadable(Exception):
    """A layer that looks packed and cannot be unpacked: what is in it was not searched."""


def layers(path: Path) -> Iterator[tuple[str, bytes]]:
    """(where in the file, bytes): the file itself (""), then gzip, zip (npz, .pt), bzip2 and xz streams, compressed
    text of PNG, base64 in HTML and JSON, deflated DICOM, and what is in these. Raises Unreadable after the layers that
    it could read, OSError for the file itself."""
    yield from _layers("", path.read_bytes(), DEPTH)


def _layers(where: str, data: bytes, depth: int) -> Iterator[tuple[str, bytes]]:
    yield where, data
    if depth == 0:
        return
    broken = []
    try:
        for name, inner in _inside(data):
            try:
                yield from _layers(f"{where}/{name}" if where else name, inner, depth - 1)
            except Unreadable as error:
                broken.append(str(error))
    except BROKEN as error:
        broken.append(f"{where or 'file'}: {type(error).__name__}")
    if broken:
        raise Unreadable("; ".join(broken))


def _inside(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of what is packed in ``data``, one level down."""
    if data.startswith(b"\x1f\x8b"):
        yield "gzip", _inflate(data, 31)
    elif data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for number, entry in enumerate(archive.infolist()):
                yield f"zip[{number}] name", entry.filename.encode()
                yield f"zip[{number}]", archive.read(entry)
    elif data.startswith(b"BZh"):
        yield "bzip2", bz2.decompress(data)
    elif data.startswith(b"\xfd7zXZ\x00"):
        yield "xz", lzma.decompress(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        yield from _png_texts(data)
    elif data[128:132] == b"DICM":
        dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        if dataset.file_meta.TransferSyntaxUID == pydicom.uid.DeflatedExplicitVRLittleEndian:
            yield "deflated", dataset.to_json().encode()
    else:
        for number, found in enumerate(_BASE64.finditer(data)):
            yield f"base64[{number}]", base64.b64decode(found.group(1))


def _inflate(data: bytes, window: int) -> bytes:
    """All members of a gzip stream; trailing zeros are padding."""
    parts = []
    while data.rstrip(b"\0"):
        unpacker = zlib.decompressobj(window)
        parts.append(unpacker.decompress(data, LARGEST))
        if not unpacker.eof:
            raise ValueError("a stream that does not end")
        data = unpacker.unused_data
    return b"".join(parts)


def _png_texts(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Compressed text and profiles (zTXt, iTXt, iCCP); what is not compressed lies open in the file."""
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if kind in (b"zTXt", b"iCCP"):
            yield kind.decode(), zlib.decompress(body.split(b"\0", 1)[1][1:])
        elif kind == b"iTXt" and body.split(b"\0", 1)[1][:1] == b"\1":
            yield "iTXt", zlib.decompress(body.split(b"\0", 1)[1][2:].split(b"\0", 2)[2])
        at += 12 + length
