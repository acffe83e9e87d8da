"""A folder of DICOM files, or a zip of one, as series: one pass over the headers, every fault collected."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from imgsynth.types import Fault, InputError
from imgsynth.volumes.archives import on_disk
from imgsynth.volumes.dicom_directory import comparable, missing_files
from imgsynth.volumes.dicom_element import quietly
from imgsynth.volumes.dicom_entry import found_from_text, index_from_text, text_from_found, text_from_index
from imgsynth.volumes.dicom_header import Found, read_header
from imgsynth.volumes.dicom_series import DicomIndex, Series, Slice, build_series
from imgsynth.volumes.file_index import FileIndex
from imgsynth.volumes.file_tree import FileTree, list_files

__all__ = ["DicomIndex", "Series", "Slice", "index_files", "read_dicom_folder"]


def read_dicom_folder(root: Path) -> DicomIndex:
    """Index every DICOM file under ``root``, a folder or a zip, and in zips under it; see ``read_dicom_tree``."""
    return read_dicom_tree(list_files(Path(root)))


@contextmanager
def _uncollected() -> Iterator[None]:
    """All that is made here stays: a garbage collection would walk through the whole program for nothing."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@_uncollected()
def read_dicom_tree(tree: FileTree, index: FileIndex | None = None) -> DicomIndex:
    """Index the files of ``tree`` (what is not DICOM is passed over); those that ``index`` knows are not read again.

    Two series in a folder come out as two; stacks of different orientation, matrix or pixel size under one Series
    Instance UID are separated, and so are stacks and time points of one enhanced file; a localizer is set aside. A
    stack with a hole, repeated positions, uneven steps or a tilt, and files that are damaged or of another kind, are
    left out, each with its fault, and so is what a DICOMDIR lists and is not there.
    """
    if index is None:
        texts = [_read_text(tree.root, name) for name in tree.files]
        return _built(tree, texts)
    if (known := index.whole(tree)) is not None:
        return index_from_text(known, tree.root)
    built = _built(tree, index.entries(tree, _read_text, "Reading DICOM headers"))
    index.remember_whole(tree, text_from_index(built, tree.root))
    return built


def index_files(paths: Sequence[Path]) -> DicomIndex:
    """Index these files; see ``read_dicom_folder``."""
    found = [read_header(on_disk(path), path) for path in paths]
    with quietly():
        series, faults = build_series(header for one in found for header in one.headers)
    return _collected(found, series, faults)


def _read_text(root: Path, name: str) -> str:
    path = root / name
    try:
        return text_from_found(read_header(on_disk(path), path))
    except InputError as error:
        return text_from_found(Found(faults=error.faults))


def _built(tree: FileTree, texts: Sequence[str]) -> DicomIndex:
    found = {name: found_from_text(text, tree.root / name) for name, text in zip(tree.files, texts, strict=True)}
    with quietly():
        series, faults = build_series(header for one in found.values() for header in one.headers)
    present = {comparable(name) for name in tree.files}
    for name, one in found.items():
        if one.listed is not None:
            faults += missing_files(tree.root, name, one.listed, present)
    index = _collected(found.values(), series, [*tree.faults, *faults])
    passed = tuple(tree.root / name for name, one in found.items() if not one.headers and not one.faults)
    return DicomIndex(index.series, index.faults, passed)


def _collected(found: Iterable[Found], series: list[Series], faults: list[Fault]) -> DicomIndex:
    of_files = [fault for one in found for fault in one.faults]
    remarks = [fault for one in series for fault in one.faults]
    return DicomIndex(series, [*of_files, *faults, *remarks])
