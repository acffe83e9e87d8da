"""Every string of a cohort's source: headers, tables, arrays, names of files and folders, the manifest's own ids."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataelem import RawDataElement

from imgsynth.audit.leakage.names import ID, mark, mark_element
from imgsynth.audit.leakage.sought import Sought
from imgsynth.cohort.bids_tables import tables_beside
from imgsynth.cohort.manifest import Manifest
from imgsynth.schema import DataConfig
from imgsynth.volumes.dicom_element import BROKEN as DICOM_BROKEN
from imgsynth.volumes.nifti import BROKEN as NIFTI_BROKEN
from imgsynth.volumes.nifti import sidecar_path

Found = Iterator[tuple[str, str]]  # (a string, where it stands)
Known = set[tuple[int, str | None, bytes, bool, bool, str]]  # elements of DICOM files, by their bytes

LARGEST_BINARY = 1 << 16  # bytes of a binary element in which text is looked for
_LARGEST_KNOWN = 1 << 10  # bytes of an element that is remembered, to be passed over when it comes again
_MOST_KNOWN = 1 << 20  # such elements: some 300 MB
_PRINTABLE = re.compile(rb"[\x20-\x7e\x80-\xff]{6,}")
BROKEN = (*DICOM_BROKEN, *NIFTI_BROKEN, zipfile.BadZipFile, zlib.error, csv.Error)


def collect(sought: Sought, manifest: Manifest, data: DataConfig) -> list[str]:
    """Put every string of the source into ``sought``; what could not be read, in words without the strings themselves.

    Every file of the cohort is opened for its header: a millisecond for each DICOM slice.
    """
    known: Known = set()
    for text, origin in _known(manifest, data):
        sought.add(text, origin)
    files = image_files(manifest)
    unread = 0
    for name, path in files.items():
        for text, origin in _of_name(name):
            sought.add(text, origin)
        try:
            for text, origin in strings_of(path, known):
                sought.add(text, origin)
        except BROKEN:
            unread += 1
    tables = table_files(manifest, data)
    for table in tables:
        try:
            for text, origin in strings_of(table):
                sought.add(text, origin)
        except BROKEN:
            unread += 1
    return [f"{unread} of {len(files) + len(tables)} source files could not be read"] if unread else []


def image_files(manifest: Manifest) -> dict[str, Path]:
    """Where each file of images and masks is, by its name in the manifest."""
    names = [name for item in manifest.items for name in (*item.files, *([item.mask] if item.mask else []))]
    root = Path(manifest.root)
    return {name: root / name if root.is_dir() else root for name in names}


def table_files(manifest: Manifest, data: DataConfig) -> list[Path]:
    named = [Path(name) for name in (data.table, data.dicomweb.patients) if name]
    return named + tables_beside(Path(manifest.root))


def read_from(manifest: Manifest, data: DataConfig) -> set[Path]:
    """Every file that ``collect`` opens or would open if it were there, sidecars included."""
    images = set(image_files(manifest).values())
    sidecars = {
        sidecar_path(path) for path in images if path.name.lower().endswith((".nii", ".nii.gz", ".hdr", ".img"))
    }
    return images | sidecars | set(table_files(manifest, data))


def strings_of(path: Path, known: Known | None = None) -> Found:
    """The strings in one source file, by its kind. Raises what its reader raises.

    With ``known``, elements of DICOM files whose strings came before are passed over and new ones put into it.
    """
    name = path.name.lower()
    kinds: tuple[tuple[tuple[str, ...], Callable[[Path], Found]], ...] = (
        ((".nii", ".nii.gz", ".hdr", ".img"), nifti_strings),
        ((".npz", ".npy"), npz_strings),
        ((".csv", ".tsv", ".txt"), table_strings),
        ((".json",), json_strings),
        ((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"), picture_strings),
    )
    read = next((read for suffixes, read in kinds if name.endswith(suffixes)), None)
    yield from read(path) if read else dicom_strings(path, set() if known is None else known)


def dicom_strings(path: Path, known: Known) -> Found:
    """Every element outside the pixels, of nested items and private groups too, and the preamble."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        for text in _printable(getattr(dataset, "preamble", None) or b""):
            yield text, "DICOM preamble"
        for part in (getattr(dataset, "file_meta", pydicom.Dataset()), dataset):
            for element in _elements(part, known):
                origin = f"DICOM {element.tag}" + ("" if element.tag.is_private else f" {element.keyword}")
                origin += mark_element(element.VR, element.keyword)
                for text in _of_element(element):
                    yield text, origin


def _elements(dataset: pydicom.Dataset, known: Known) -> Iterator[pydicom.DataElement]:
    """The elements of ``dataset`` and, after each sequence, of its items, but for those that came before.

    Most of a slice's header is that of the slice before it, and to make values of bytes takes most of the time. Bytes
    say which strings they are where the file states the VR itself; the character set is part of it.
    """
    charset = str(dataset.original_character_set)
    for tag in sorted(dataset.keys()):
        raw, same = dataset.get_item(tag), None
        if isinstance(raw, RawDataElement) and raw.VR not in (None, "UN") and len(raw.value or b"") <= _LARGEST_KNOWN:
            same = int(raw.tag), raw.VR, raw.value or b"", raw.is_little_endian, raw.is_implicit_VR, charset
            if same in known:
                continue
        element = dataset[tag]
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from _elements(item, known)
        # Not before: a value that cannot be read has given no strings.
        if same is not None and len(known) < _MOST_KNOWN:
            known.add(same)


def _of_element(element: pydicom.DataElement) -> Iterator[str]:
    if element.VR == "SQ" or element.value is None:
        return
    if isinstance(element.value, bytes):
        yield from _printable(element.value[:LARGEST_BINARY])
        return
    several = (
        element.value if isinstance(element.value, (list, tuple, pydicom.multival.MultiValue)) else [element.value]
    )
    for value in several:
        yield str(value)
        if element.VR == "PN":
            yield from re.split(r"[\^=]", str(value))


def nifti_strings(path: Path) -> Found:
    """The header's text fields, its extensions, what gzip says of the file, and the JSON beside it."""
    image = nib.load(path)
    assert isinstance(image, nib.Nifti1Pair)
    for name in image.header:
        value = image.header[name]
        if value.dtype.kind == "S":
            yield value.item().decode("latin-1"), f"NIfTI {name}"
    for extension in image.header.extensions:
        content = extension.get_content()
        raw = content if isinstance(content, bytes) else str(content).encode()
        for text in _printable(raw):
            yield text, "NIfTI extension"
    if path.suffix == ".gz":
        yield gzip_name(path), "gzip header"
    if (beside := sidecar_path(path)).is_file():
        yield from json_strings(beside)


def gzip_name(path: Path) -> str:
    """The file name in a gzip header (RFC 1952 2.3), "" without one."""
    with path.open("rb") as file:
        start = file.read(1024)
    if start[:2] != b"\x1f\x8b" or not start[3] & 8:
        return ""
    at = 10 + (2 + int.from_bytes(start[10:12], "little") if start[3] & 4 else 0)
    return start[at:].split(b"\0", 1)[0].decode("latin-1")


def npz_strings(path: Path) -> Found:
    """Names of arrays, arrays of text, and whole numbers in short arrays (ids). Pickled arrays are not opened."""
    arrays = np.load(path, allow_pickle=False)
    for name in getattr(arrays, "files", [""]):
        yield name, "npz name"
        try:
            array = arrays[name] if name else arrays
        except ValueError:  # pickled objects
            continue
        if array.dtype.kind in "US" or (array.dtype.kind in "iu" and array.ndim == 1):
            for value in np.unique(array).tolist():
                yield (
                    value.decode("latin-1") if isinstance(value, bytes) else str(value),
                    f"npz array {name}" + mark(name),
                )


def table_strings(path: Path) -> Found:
    """Every cell of a csv or tsv file, heads of columns included."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    separator = "\t" if path.suffix.lower() == ".tsv" else ";" if text.split("\n", 1)[0].count(";") > 1 else ","
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    head = next(rows, [])
    for name in head:
        yield name, "table, a column's name"
    marks = [mark(name) for name in head]
    for row in rows:
        for number, cell in enumerate(row):
            yield cell, f"table, column {number + 1}" + (marks[number] if number < len(marks) else "")


def json_strings(path: Path) -> Found:
    def walk(value: Any, key: str) -> Found:
        if isinstance(value, dict):
            for name, one in value.items():
                yield from walk(one, name)
        elif isinstance(value, list):
            for one in value:
                yield from walk(one, key)
        elif isinstance(value, str):
            yield value, "JSON beside the image" + mark(key)

    yield from walk(json.loads(path.read_text(encoding="utf-8")), "")


def picture_strings(path: Path) -> Found:
    """Text chunks, comments and EXIF of PNG, JPEG and TIFF."""
    with Image.open(path) as image:
        values = [*image.info.values(), *image.getexif().values()]
    for value in values:
        if isinstance(value, str):
            yield value, "picture's text"
        elif isinstance(value, bytes):
            for text in _printable(value[:LARGEST_BINARY]):
                yield text, "picture's text"


def _printable(raw: bytes) -> Iterator[str]:
    for run in _PRINTABLE.findall(raw):
        yield run.decode("latin-1")


def _of_name(name: str) -> Found:
    """A relative path whole, its folders, the file's name and the name without its suffixes."""
    *folders, last = Path(name).parts
    yield name, "path"
    yield last, "file name"
    yield last.split(".", 1)[0], "file name"
    for folder in folders:
        yield folder, "folder"


def _known(manifest: Manifest, data: DataConfig) -> Found:
    """What imgsynth itself noted: ids, hashes of content, where the source is and what it is called."""
    yield manifest.fingerprint, "manifest, fingerprint"
    for item in manifest.items:
        for name in ("patient", "study", "series", "site", "digest"):
            yield str(getattr(item, name) or ""), f"manifest, {name}" + (ID if name != "site" else "")
    for path in (manifest.root, data.root, data.table):
        if path:
            yield str(path), "path of the source"
            for part in Path(path).parts:
                yield part, "folder of the source"
                yield part.split(".", 1)[0], "folder of the source"
    for text, name in ((data.cohort, "cohort"), (data.issuer, "issuer")):
        yield text or "", f"data.{name}"
