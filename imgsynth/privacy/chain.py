"""A file of JSON lines that only grows, in which a line that was changed or lost is noticed, the last one too.

Each line carries the hash of the line before it. What no line can vouch for, the end of the file, stands in the *head*
beside it: how many lines there are, the hash of the last, and that of the line about to be added. A line is added in
three steps, each a whole file flushed to disk and renamed into place, under the caller's lock:

| step                                  | head: lines, last, next | file     | killed after it                         |
|---------------------------------------|-------------------------|----------|-----------------------------------------|
| 1. the intention                      | n, h(n), h(n+1)         | n        | nothing was added, nobody was told so   |
| 2. the line                           | n, h(n), h(n+1)         | n + 1    | the line counts, nobody was told so     |
| 3. the confirmation; then the caller  | n + 1, h(n+1), none     | n + 1    | from now on n lines are a loss, refused |

Whoever finds the line after a kill confirms it (``recover``) before he relies on it. It notices accidents and careless
hands; a forger who rewrites both files, or removes both, is not noticed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from imgsynth.files import write_json, write_text
from imgsynth.types import Fault, InputError

_START = "0" * 64


def read_lines(path: Path) -> list[str]:
    """The file's lines, proven to be all that were written; InputError at the first that is not as it was.

    Takes no lock: read again while somebody is adding, until the head is the same before and after.
    """
    while True:
        head, text = _text(head_path(path)), _text(path)
        if _text(head_path(path)) == head:
            break
    lines = _linked(path, text or "")
    _check_end(path, lines, _head(path, head))
    return lines


def recover(path: Path) -> list[str]:
    """``read_lines`` for the lock's holder: a last line that a killed process left unconfirmed is confirmed."""
    lines = read_lines(path)
    head = _head(path, _text(head_path(path)))
    if head is not None and lines and head["next"] == _hash(lines[-1]):
        _write_head(path, len(lines), _hash(lines[-1]), None)
    return lines


def append(path: Path, lines: list[str], record: dict[str, Any]) -> None:
    """Add ``record`` after ``lines``, which are all that is there; on disk for good when this returns."""
    last = _hash(lines[-1]) if lines else _START
    line = json.dumps({**record, "previous": last}, ensure_ascii=False, allow_nan=False)
    _write_head(path, len(lines), last, _hash(line))
    write_text(path, "".join(f"{each}\n" for each in [*lines, line]))
    _write_head(path, len(lines) + 1, _hash(line), None)


def head_path(path: Path) -> Path:
    return path.with_suffix(".head")


def _linked(path: Path, text: str) -> list[str]:
    lines = text.split("\n")[:-1]
    if text and not text.endswith("\n"):
        raise _unreadable(path, len(lines) + 1, "a line that was cut off")
    previous = _START
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise _unreadable(path, number, str(error)) from error
        if not isinstance(record, dict) or record.get("previous") != previous:
            raise _unreadable(path, number, "a line that does not follow the one before")
        previous = _hash(line)
    return lines


def _check_end(path: Path, lines: list[str], head: dict[str, Any] | None) -> None:
    """The lines must end where the head says, or one further, at the line that it announces."""
    count, last = len(lines), _hash(lines[-1]) if lines else _START
    if head is None:
        if lines:
            raise _unreadable(path, count + 1, f"no {head_path(path).name} beside it: the end may have been lost")
    elif (count, last) not in ((head["lines"], head["last"]), (head["lines"] + 1, head["next"])):
        got = f"lost: {count} lines of {head['lines']}" if count < head["lines"] else "another end than was written"
        raise _unreadable(path, count + 1 if count < head["lines"] else count, got)


def _head(path: Path, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        head = json.loads(text)
    except json.JSONDecodeError as error:
        raise _unreadable(head_path(path), 1, str(error)) from error
    if not isinstance(head, dict) or head.keys() != {"lines", "last", "next"} or not isinstance(head["lines"], int):
        raise _unreadable(head_path(path), 1, "not a head of a ledger")
    return head


def _write_head(path: Path, count: int, last: str, following: str | None) -> None:
    write_json(head_path(path), {"lines": count, "last": last, "next": following})


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


def _unreadable(path: Path, number: int, got: str) -> InputError:
    return InputError(
        Fault(
            where=f"ledger {path}, line {number}",
            got=got,
            expected="an unbroken record of all that was spent",
            remedy="restore the file from a back-up that has every run, with the .head beside it; nothing may run on "
            "this cohort until then, as what was spent is not known",
        )
    )
