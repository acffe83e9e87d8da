"""The source's strings in what a run has made: each file that leaves, or must hold nothing of the source, is searched.

A finding names the file, the place in it and the kind of string, and the string only by a keyed hash: audit.json may be
quoted. The key and the strings are in ``local/leakage.json``.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgsynth.audit.leakage.matcher import Matcher
from imgsynth.audit.leakage.names import touched
from imgsynth.audit.leakage.public import declared, program_text
from imgsynth.audit.leakage.sought import Sought, stands_alone
from imgsynth.audit.leakage.sources import collect, read_from
from imgsynth.audit.leakage.unpack import Unreadable, layers
from imgsynth.cohort.manifest import Manifest
from imgsynth.files import write_json
from imgsynth.release.folder import list_files
from imgsynth.schema import Config

# What holds ids, paths or measurements of patients by design, and stays (docs/privacy.md). All else is searched.
LOCAL = ("manifest.json", "config.json", "config.yaml", "evaluation.json", "audit.json", "report.html", "inspect.json",
         "inspect.html", "excluded.csv")  # fmt: skip
LOCAL_FOLDERS = ("local",)
SHOWN = 100  # findings in audit.json; the local file has them all
TEXT_SHOWN = "looked for in UTF-8, Latin-1, UTF-16 and UTF-32, whatever the case"

_LAST: dict[tuple[str, str, str, int], tuple[Sought, list[str]]] = {}


@dataclass(frozen=True)
class Finding:
    """A string of the source in a file. ``where`` is the layer of the file, ``offset`` the first of ``times`` bytes."""

    file: str
    where: str
    offset: int
    times: int
    text: str
    origin: str


@dataclass
class Scan:
    """What was searched and found."""

    findings: list[Finding] = field(default_factory=list)
    files: int = 0
    size: int = 0  # bytes, unpacked
    not_read: list[str] = field(default_factory=list)


def search(root: Path, names: Iterable[str], sought: Sought) -> Scan:
    """Look for every string of ``sought`` in the files ``names`` under ``root``, and in these names."""
    spellings = sought.spellings()
    matcher = Matcher(sorted(spellings))
    result = Scan()
    for name in names:
        result.files += 1
        _search_layer(result, matcher, spellings, sought, name, "file name", name.encode())
        if (root / name).is_symlink():
            result.not_read.append(f"{name}: a link")
            continue
        try:
            for where, data in layers(root / name):
                result.size += len(data)
                _search_layer(result, matcher, spellings, sought, name, where, data)
        except (Unreadable, OSError) as error:
            result.not_read.append(f"{name}: {error if isinstance(error, Unreadable) else type(error).__name__}")
    return result


def _search_layer(
    result: Scan, matcher: Matcher, spellings: dict[bytes, str], sought: Sought, name: str, where: str, data: bytes
) -> None:
    seen: dict[str, tuple[int, int]] = {}  # the string: first offset, times
    for offset, index in matcher.find(data):
        pattern = matcher.patterns[index]
        text = spellings[pattern]
        if text.isdigit() and not stands_alone(data, offset, len(pattern)):
            continue
        if text in sought.whole and touched(data, offset, len(pattern)):
            continue
        first, times = seen.get(text, (offset, 0))
        seen[text] = min(first, offset), times + 1
    result.findings += [
        Finding(name, where, offset, times, text, sought.origin[text]) for text, (offset, times) in seen.items()
    ]


def source_strings(manifest: Manifest, config: Config) -> tuple[Sought, list[str]]:
    """All that is to be looked for, and what of the source could not be read.

    Reading the headers of ten thousand DICOM slices takes some six seconds of one core. What was read last is
    kept for the process, so that ``imgsynth run``, whose audit and report both ask, reads once, unless a file that is
    read was changed, added or removed meanwhile. It is not kept on disk: that would be every name, id and date of
    birth of the cohort in plain text in one more place, and the run's ``local/`` holds no more of the source's strings
    than were found where they must not be.
    """
    key = (manifest.root, manifest.fingerprint, repr(config), _states(manifest, config))
    if key not in _LAST:
        sought = Sought(declared(config) | set(manifest.classes))
        unread = collect(sought, manifest, config.data)
        sought.leave_out_public(program_text())
        _LAST.clear()
        _LAST[key] = sought, unread
    return _LAST[key]


def _states(manifest: Manifest, config: Config) -> int:
    """Changes when a file of the source is changed, added or gone. The time of the inode's last change is part of it,
    since tools that copy or edit can set back the time of the content's."""
    return hash(tuple(sorted((str(path), *_state(path)) for path in read_from(manifest, config.data))))


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def scan_run(run_dir: Path, sought: Sought, unread_sources: list[str]) -> dict[str, Any]:
    """Search the run folder's release and every file that must hold nothing of the source; JSON-able, without a string.

    Writes ``local/leakage.json`` with the strings that were found and where they come from.
    """
    began = time.monotonic()
    names = searched_files(run_dir)
    found = search(run_dir, names, sought)
    key = write_findings(run_dir / "local" / "leakage.json", found)
    left_out = set(list_files(run_dir)) - set(names)
    return {
        "clean": not found.findings,
        "strings": {"sought": len(sought.origin), "left_out": sought.counts(), "how": TEXT_SHOWN},
        "release_searched": any(name.startswith("release/") for name in names),
        "files": found.files,
        "bytes": found.size,
        "findings": [_public(finding, found.findings, key) for finding in found.findings[:SHOWN]],
        "n_findings": len(found.findings),
        "local_files": sorted(name for name in left_out if not name.startswith(LOCAL_FOLDERS)),
        "not_read": [_without(text, found.findings, key) for text in [*unread_sources, *found.not_read]],
        "seconds": round(time.monotonic() - began, 1),
    }


def searched_files(run_dir: Path) -> list[str]:
    """All files of the run but those that hold ids or paths by design and stay."""
    return [
        name for name in list_files(run_dir) if name not in LOCAL and name.split("/", 1)[0] not in LOCAL_FOLDERS
    ]  # fmt: skip


def token(text: str, key: bytes) -> str:
    """A string's keyed hash: equal strings have equal tokens, and without the key no guess can be confirmed."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:16]


def _public(finding: Finding, others: list[Finding], key: bytes) -> dict[str, Any]:
    """A finding without the string, in its file's name neither."""
    return {
        "file": _without(finding.file, others, key),
        "where": finding.where,
        "offset": finding.offset,
        "times": finding.times,
        "string": token(finding.text, key),
        "of": finding.origin,
    }


def _without(text: str, findings: list[Finding], key: bytes) -> str:
    """``text`` with every string that was found in a file's name replaced by its token."""
    for finding in sorted(findings, key=lambda one: -len(one.text)):
        if finding.where == "file name" and (at := text.lower().find(finding.text.lower())) >= 0:
            text = f"{text[:at]}[{token(finding.text, key)}]{text[at + len(finding.text) :]}"
    return text


def write_findings(path: Path, found: Scan) -> bytes:
    """Write the strings that were found and where they come from. LOCAL ONLY. Returns the key of their tokens."""
    key = secrets.token_bytes(32)
    findings = [{**vars(finding), "token": token(finding.text, key)} for finding in found.findings]
    write_json(path, {"local_only": True, "key": key.hex(), "findings": findings})
    return key
