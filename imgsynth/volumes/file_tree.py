"""All files under a root and what they look like from outside; the members of zips are files too."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imgsynth.types import Fault, InputError
from imgsynth.volumes.archives import unpacked_members


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells that a file is still the one that was read: size (bytes), and when its content and its inode
    changed (ns since 1970). A file that was replaced by one of the same size and date has another ``changed``."""

    size: int
    modified: int
    changed: int


@dataclass(frozen=True)
class FileTree:
    """``files`` by their path relative to the root, sorted; one in a zip is "export.zip/folder/name"."""

    root: Path
    files: dict[str, Stamp]
    faults: tuple[Fault, ...] = ()


def list_files(root: Path) -> FileTree:
    """List every file under ``root``, a folder or a zip; hidden ones are passed over, zips are unpacked to the cache.

    Links to folders are not followed. A zip that cannot be read safely, and a name that is no text, are faults.
    """
    faults: list[Fault] = []
    if root.is_dir():
        files = {}
        for name, stamp in _walk(str(root), ""):
            if not name.isprintable() and any(0xD800 <= ord(c) < 0xE000 for c in name):
                shown = name.encode("utf-8", "backslashreplace").decode()
                faults.append(Fault(f"{root}/{shown}", "a file name that is not UTF-8", "a readable name", "rename it",
                                    "odd_name", (f"{root}/{shown}",)))  # fmt: skip
            elif name.lower().endswith(".zip") and zipfile.is_zipfile(root / name):
                files.update(_members(root / name, f"{name}/", stamp, faults))
            else:
                files[name] = stamp
    elif root.is_file() and zipfile.is_zipfile(root):
        files = _members(root, "", _stamp(root.stat()), faults)
    else:
        raise InputError(Fault(str(root), "no such folder", "a folder of DICOM files, or a zip of one",
                               "check data.root"))  # fmt: skip
    return FileTree(root, dict(sorted(files.items())), tuple(faults))


def stamped(root: Path, names: Iterable[str]) -> FileTree:
    """These files under ``root``, which must be there."""
    return FileTree(root, {name: _stamp((root / name).stat()) for name in names})


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, Stamp]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield prefix + entry.name, _stamp(entry.stat())


def _members(archive: Path, prefix: str, stamp: Stamp, faults: list[Fault]) -> dict[str, Stamp]:
    try:
        members, odd = unpacked_members(archive)
    except InputError as error:
        faults.extend(error.faults)
        return {}
    faults.extend(odd)
    return {prefix + name: Stamp(size, stamp.modified, stamp.changed) for name, size in members.items()}


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)
