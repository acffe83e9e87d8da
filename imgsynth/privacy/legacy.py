"""The ledgers of versions up to 0.1: one file of JSON lines a cohort, with a ``.head`` that knows its end. Read once.

A line carries the SHA-256 of the line before it. The head says how many lines there are and the hash of the last, and
announces that of a line about to be added, so that the end may also be that one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imgsynth.privacy.chain import Broken
from imgsynth.types import Fault

_NAME = re.compile(r"[0-9a-f]{24}\.(jsonl|head)")


def pending(folder: Path) -> list[Path]:
    """The files that are still to be imported."""
    return sorted({path.with_suffix(".jsonl") for path in folder.glob("*.*") if _NAME.fullmatch(path.name)})


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep processes of the earlier version out of the file, with the lock that they take (POSIX, as they were)."""
    import fcntl

    with path.with_suffix(".lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def read(path: Path, imported: dict[str, Any] | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Records that are not yet imported, and what to note of the import.

    ``imported`` is what was noted when the file was last imported. Raises Broken for a damaged file.
    """
    lines = _linked(path)
    ends = [_hash(line) for line in lines]
    known = imported["lines"] if imported is not None else 0
    if imported is None or ends[-1:] != [imported["last"]]:  # else killed after the import, and the head may be gone
        _check_end(path, ends)
        if ends[known - 1 : known] != ([imported["last"]] if imported is not None else []):
            known = 0  # another file of the same name, begun anew by the earlier version
    cohort = next((record["cohort"] for record in map(json.loads, lines) if "cohort" in record), None)
    records = [{**json.loads(line), "cohort": cohort} for line in lines[known:]]
    for record in records:
        del record["previous"]
    return records, {"what": "import", "file": path.name, "lines": len(lines), "last": ends[-1] if ends else ""}


def retire(path: Path) -> None:
    """Keep the file under another name. The head goes first: a file without it that was imported is no damage."""
    for old in (path.with_suffix(".head"), path):
        if old.exists():
            aside = old.with_name(f"{old.name}.imported")
            for number in range(2, 1000):
                if not aside.exists():
                    break
                aside = old.with_name(f"{old.name}.{number}.imported")
            old.rename(aside)


def _linked(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = text.split("\n")[:-1]
    if text and not text.endswith("\n"):
        raise _unreadable(path, len(lines) + 1, "a line that was cut off")
    previous = "0" * 64
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise _unreadable(path, number, str(error)) from error
        if not isinstance(record, dict) or record.get("previous") != previous:
            raise _unreadable(path, number, "a line that does not follow the one before")
        previous = _hash(line)
    return lines


def _check_end(path: Path, ends: list[str]) -> None:
    count, last = len(ends), ends[-1] if ends else "0" * 64
    try:
        head = json.loads(path.with_suffix(".head").read_text(encoding="utf-8", errors="replace"))
        told, at, announced = int(head["lines"]), head["last"], head["next"]
    except FileNotFoundError as error:
        raise _unreadable(path, count + 1, "no .head beside it: the end may have been lost") from error
    except (ValueError, TypeError, KeyError) as error:
        raise _unreadable(path.with_suffix(".head"), 1, f"not a head of a ledger ({error})") from error
    if (count, last) not in ((told, at), (told + 1, announced)):
        raise _unreadable(path, count + 1 if count < told else count, f"lost or changed: {count} lines of {told}")


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


def _unreadable(path: Path, number: int, got: str) -> Broken:
    return Broken(
        Fault(
            where=f"ledger of an earlier version {path}, line {number}",
            got=got,
            expected="an unbroken record of all that was spent",
            remedy="restore the file from a back-up that has every run, with the .head beside it; it is imported then, "
            "and nothing may run with this ledger before, as what was spent is not known",
        )
    )
