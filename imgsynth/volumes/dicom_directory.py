"""DICOMDIR, the table of contents of an exported medium: files are found without it; what it lists must be there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from pydicom import Dataset

from imgsynth.types import Fault
from imgsynth.volumes.dicom_element import items, value


def listed_files(dataset: Dataset, path: Path) -> tuple[str, ...]:
    """Every Referenced File ID (0004,1500) of a DICOMDIR, as a path relative to it (PS3.3 F.3)."""
    found = []
    for record in items(dataset, "DirectoryRecordSequence", path):
        parts = value(record, "ReferencedFileID", path)
        if parts:
            found.append("/".join([parts] if isinstance(parts, str) else map(str, parts)))
    return tuple(found)


def missing_files(root: Path, directory: str, listed: Sequence[str], present: Collection[str]) -> list[Fault]:
    """One fault for a DICOMDIR that lists files which are not there.

    ``directory`` is its path relative to the root, ``present`` all relative paths under the root, ``comparable``: media
    write names in capitals, copies of them often do not.
    """
    beside = PurePosixPath(directory).parent
    missing = [name for name in listed if comparable((beside / name).as_posix()) not in present]
    if not missing:
        return []
    shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
    return [
        Fault(
            str(root / directory),
            f"a DICOMDIR that lists {len(missing)} of {len(listed)} files that are not there: {shown}",
            "the whole export",
            "copy the medium again, whole; if the files were removed on purpose, remove the DICOMDIR too",
            "missing_listed",
        )
    ]


def comparable(name: str) -> str:
    """A relative path as names on media are compared: without case, ISO 9660 version (";1") and final dot."""
    return name.lower().removesuffix(";1").removesuffix(".")
