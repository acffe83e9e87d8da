"""Every file of the source accounted for: used, or left out with the reason. LOCAL ONLY."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from imgsynth.cohort.build_scan import Found
from imgsynth.cohort.findings import KINDS, UNKNOWN, Finding, below, finding
from imgsynth.cohort.load import archive
from imgsynth.files import write_text
from imgsynth.schema import DataConfig
from imgsynth.types import Fault
from imgsynth.volumes.archives import on_disk
from imgsynth.volumes.file_tree import list_files

_DICOM = ("dicom", "dicomweb", "phantom")
_IMAGES = (".nii", ".nii.gz", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_DESCRIBING = ("dataset.json", "dataset_description.json")  # what names and labels are read from


@dataclass(frozen=True)
class Excluded:
    """A file that is not used, and why: a code of ``findings.KINDS``, and the words of the fault."""

    file: str
    code: str
    why: str


@dataclass(frozen=True)
class Account:
    """``read`` files (or rows of an npz) are the ``used`` and the ``excluded`` ones, each once.

    Of those that are left out, ``said`` are in the faults of the source; nothing was heard of ``unsaid`` before.
    """

    read: tuple[str, ...]
    used: tuple[str, ...]
    said: tuple[Excluded, ...]
    unsaid: tuple[Excluded, ...]

    @property
    def excluded(self) -> tuple[Excluded, ...]:
        return _sorted([*self.said, *self.unsaid])

    def findings(self) -> list[Finding]:
        """What no fault has said: files that are no images."""
        places: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for row in self.unsaid:
            places[row.code].append((row.file, row.why))
        found = [one for code, where in places.items() for one in finding(code, where)]
        return [replace(one, excludes=one.where) for one in found]


def account(found: Found, data: DataConfig) -> Account:
    """What became of each file under the root; of an npz, of each row."""
    root = Path(str(data.root))
    if data.kind in ("npz", "medmnist"):
        names = set(_rows(root, data))
        used = {scan.names[0] for scan in found.scans}
    else:
        names = _files(found, data.kind)
        used = {name for scan in found.scans for name in (*scan.files, *([scan.mask] if scan.mask else []))}
        table = below(str(data.table), str(found.root)) if data.table else "participants.tsv"
        used |= {table, *_DESCRIBING}
    reasons = _reasons(found.skipped, str(found.root))
    said = [Excluded(name, *reasons[name]) for name in names - used if name in reasons]
    unsaid = [Excluded(name, *_unsaid(found.root, name, data.kind)) for name in names - used if name not in reasons]
    return Account(tuple(sorted(names)), tuple(sorted(used & names)), _sorted(said), _sorted(unsaid))


def write_excluded(path: Path, excluded: Iterable[Excluded]) -> Path:
    """The csv: file, code, severity, why, what it does, remedy."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "code", "severity", "why", "effect", "remedy"])
    for row in excluded:
        kind = KINDS[row.code]
        writer.writerow([row.file, row.code, kind.severity, row.why, kind.effect, kind.remedy])
    return write_text(path, table.getvalue())


def _sorted(rows: list[Excluded]) -> tuple[Excluded, ...]:
    return tuple(sorted(rows, key=lambda row: row.file))


def _files(found: Found, kind: str) -> set[str]:
    """Names below the root; for DICOM those that a zip has too, and those that no tool could open."""
    hidden_or_all = {
        path.relative_to(found.root).as_posix().encode("utf-8", "backslashreplace").decode()
        for path in (found.root.rglob("*") if found.root.is_dir() else ())
        if path.is_file() and (kind not in _DICOM or _hidden(path.relative_to(found.root).as_posix()))
    }
    if kind not in _DICOM:
        return hidden_or_all
    refused = {below(name, str(found.root)) for fault in found.skipped for name in fault.files}
    return hidden_or_all | set(list_files(found.root).files) | refused


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)


def _rows(path: Path, data: DataConfig) -> list[str]:
    source = archive(path)
    arrays = [data.images] if data.kind == "npz" else [f"{part}_images" for part in source.medmnist()]
    return [f"{path.name}[{name}][{row}]" for name in arrays for row in range(len(source.array(name)))]


def _reasons(faults: Iterable[Fault], root: str) -> dict[str, tuple[str, str]]:
    """The first fault that leaves a file out, by the file's name."""
    found: dict[str, tuple[str, str]] = {}
    for fault in faults:
        code = fault.code if fault.code in KINDS else UNKNOWN
        for name in fault.files:
            found.setdefault(
                below(name, root), (code, f"got {fault.got}; expected {fault.expected} ({below(fault.where, root)})")
            )
    return found


def _unsaid(root: Path, name: str, kind: str) -> tuple[str, str]:
    """Why a file that no fault names is not used. A DICOM object here would be a mistake of the index."""
    if _hidden(name):
        return "hidden_file", "hidden"
    if kind not in _DICOM:
        known = name.lower().endswith(_IMAGES)
        return ("other_image", "not of the cohort") if known else ("not_an_image", "of another type")
    with on_disk(root / name).open("rb") as file:
        start = file.read(132)
    is_directory = Path(name).name.upper() == "DICOMDIR"
    return ("unaccounted", "neither used nor refused") if start[128:] == b"DICM" and not is_directory else (
        "not_an_image", "a DICOM directory" if is_directory else "no DICOM object")  # fmt: skip
