"""Records of which none can be changed, lost or added in between without notice, the last one included.

Each record is kept with the hash of itself and of the record before it. What no record can vouch for, where the records
end, stands in a small file beside them: how many there are, and the hash of the last. It is written before the first
record, and after every record that somebody was told is on file:

| killed                                    | the file says | records | so                                         |
|-------------------------------------------|---------------|---------|--------------------------------------------|
| before a record is committed              | n             | n       | nothing was added, nobody was told so      |
| between the commit and the file           | n             | n + 1   | the record counts, nobody was told so      |
| later                                     | n + 1         | n + 1   | from now on, n records are a loss: refused |

It notices accidents and careless hands. Not noticed: a forger who rewrites the database and the file; an older state of
both, put back; both removed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from imgsynth.files import write_json
from imgsynth.types import Fault, InputError

START = "0" * 64


class Broken(InputError):
    """The record of what was spent is not as it was written."""


class End(NamedTuple):
    """Where the records end, as far as anybody was told."""

    records: int
    last: str  # hash of the last of them; START for none


def link(previous: str, number: int, body: str) -> str:
    """The hash of record ``number`` (from 1) with text ``body``, after the record whose hash is ``previous``."""
    return hashlib.sha256(f"{previous}\n{number}\n{body}".encode()).hexdigest()


def verified(rows: Iterable[tuple[int, str, str]], end: End | None, where: Path) -> list[dict[str, Any]]:
    """The records of ``rows`` (number, body, hash), proven to be all that were written; InputError if not."""
    records: list[dict[str, Any]] = []
    previous, at_end = START, START
    for number, body, stored in rows:
        expected = len(records) + 1
        if number != expected:
            raise broken(where, expected, f"none: the next one is {number}")
        if stored != link(previous, number, body):
            raise broken(where, number, "a record that was changed, or does not follow the one before")
        records.append(json.loads(body))
        previous = stored
        if end is not None and number == end.records:
            at_end = stored
    if end is None and records:
        raise broken(where, len(records) + 1, "no file ledger.end beside it: later records may have been lost")
    if end is not None and len(records) < end.records:
        raise broken(where, len(records) + 1, f"lost: {len(records)} records of {end.records}")
    if end is not None and at_end != end.last:
        raise broken(where, end.records, "another record than the one that was written")
    return records


def read_end(path: Path) -> End | None:
    """What ``write_end`` wrote last; None where it never did. InputError for a file that it did not write."""
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        return End(int(value["records"]), str(value["last"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise broken(path, 1, f"no end of a ledger ({error})") from error


def write_end(path: Path, end: End) -> None:
    """On disk for good when this returns."""
    write_json(path, end._asdict())


def broken(where: Path, number: int, got: str) -> Broken:
    return Broken(
        Fault(
            where=f"ledger {where}, record {number}",
            got=got,
            expected="an unbroken record of all that was spent",
            remedy="restore the ledger's folder, whole, from a back-up that has every run; nothing may run with this "
            "ledger until then, as what was spent is not known",
        )
    )
