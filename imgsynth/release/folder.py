"""The files of a release and their SHA-256 sums."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from imgsynth.files import sha256, write_text
from imgsynth.types import Fault

CHECKSUMS = "checksums.sha256"
SIGNATURE = "checksums.sha256.sig"  # of the checksums, and so the one file that they cannot list
PUBLIC_KEY = "signing_key.pub.pem"


def list_files(folder: Path) -> list[str]:
    """All files and links under ``folder`` as POSIX paths relative to it, sorted; links are not followed."""
    found: list[Path] = []
    for here, folders, names in os.walk(folder):
        found += [Path(here) / name for name in names]
        found += [Path(here) / name for name in folders if (Path(here) / name).is_symlink()]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def write_checksums(folder: Path, known: Mapping[str, str] | None = None) -> Path:
    """Write ``checksums.sha256`` over every other file of ``folder``, in the format that ``sha256sum -c`` reads.

    Sums that are ``known``, by relative path, are those that a writer took of its files; the rest is hashed here.
    """
    known = known or {}
    names = [name for name in list_files(folder) if name not in (CHECKSUMS, SIGNATURE)]
    return write_text(
        folder / CHECKSUMS, "".join(f"{known.get(name) or sha256(folder / name)}  {name}\n" for name in names)
    )


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
    present = set(list_files(folder)) - {CHECKSUMS, SIGNATURE}
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
