"""A folder that appears whole or not at all, and its SHA-256 sums."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgsynth.files import sha256, write_text
from imgsynth.types import Fault, InputError

CHECKSUMS = "checksums.sha256"


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``final``; when the block ends well, put it in ``final``'s place.

    A directory cannot be renamed over another one that is not empty, so that an older ``final`` steps aside first and
    is removed last; a process killed between the two renames is repaired by the next call. When the block raises,
    what was written is removed and the older ``final`` is as it was. An ``OSError`` (disk full, read-only folder)
    becomes an InputError that names the folder.
    """
    partial = final.with_name(f".{final.name}.partial")
    aside = final.with_name(f".{final.name}.old")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        if aside.exists() and not final.exists():
            aside.rename(final)
        for leftover in (aside, partial):
            if leftover.exists():
                shutil.rmtree(leftover)
        partial.mkdir()
        yield partial
        if final.exists():
            final.rename(aside)
        partial.rename(final)
    except OSError as error:
        raise InputError(_fault(final, error)) from error
    finally:
        if aside.exists() and not final.exists():
            aside.rename(final)
        for leftover in (aside, partial):
            shutil.rmtree(leftover, ignore_errors=True)


def _fault(final: Path, error: OSError) -> Fault:
    reason = error.strerror or str(error)
    return Fault(
        where=str(final),
        got=f"'{reason}' while writing ({Path(error.filename).name})"
        if error.filename
        else f"'{reason}' while writing",
        expected="a folder that can be written, on a disk with room; nothing was changed",
        remedy="free space or choose another output folder (output=DIR), then run the same command again",
    )


def list_files(folder: Path) -> list[str]:
    """All files and links under ``folder`` as POSIX paths relative to it, sorted; links are not followed."""
    found: list[Path] = []
    for here, folders, names in os.walk(folder):
        found += [Path(here) / name for name in names]
        found += [Path(here) / name for name in folders if (Path(here) / name).is_symlink()]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def write_checksums(folder: Path) -> Path:
    """Write ``checksums.sha256`` over every other file of ``folder``, in the format that ``sha256sum -c`` reads."""
    names = [name for name in list_files(folder) if name != CHECKSUMS]
    return write_text(folder / CHECKSUMS, "".join(f"{sha256(folder / name)}  {name}\n" for name in names))


def check_checksums(folder: Path) -> list[Fault]:
    """Faults of ``folder`` against its checksums: changed, missing and unlisted files."""
    path = folder / CHECKSUMS
    remedy = "get the release again from whoever published it; do not use this copy"
    if not path.is_file():
        return [Fault(CHECKSUMS, "no such file", "one line for each file of the release", remedy)]
    listed: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64 or not name or name in listed:
            return [Fault(CHECKSUMS, f"the line '{line[:80]}'", "'<64 hex digits>  <path>', each path once", remedy)]
        listed[name] = digest
    present = set(list_files(folder)) - {CHECKSUMS}
    faults = [Fault(name, "no such file", "the file that the checksums list", remedy) for name in set(listed) - present]
    faults += [
        Fault(name, "a file", "no file that the checksums do not list", remedy) for name in present - set(listed)
    ]
    for name in sorted(present & set(listed)):
        if (folder / name).is_symlink():
            faults.append(Fault(name, "a symbolic link", "a file", remedy))
        elif sha256(folder / name) != listed[name]:
            faults.append(Fault(name, "other contents", f"SHA-256 {listed[name]}", remedy))
    return sorted(faults, key=lambda fault: fault.where)
