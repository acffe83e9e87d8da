"""What a BIDS dataset's tables say of its images: participants.tsv, phenotype/*.tsv and sessions.tsv as one table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from imgsynth.cohort.build_scan import Found, Scan
from imgsynth.cohort.build_table import Row, Table, read_table
from imgsynth.types import Fault, InputError

KEY = "image"  # the table's own column: the path of the image
_Rows = dict[tuple[str, str | None], Row]  # by subject and session; session None: of all


def participants(found: Found) -> Table | None:
    """A row for each image, with what the tables say of its subject, and of its session where they tell sessions apart.

    Where several tables have a column, what is told of the session goes before what is told of the subject (an age,
    say), and participants.tsv before phenotype/. None where there is no table. Participants without an image are told
    in ``found.skipped``.

    Raises:
        InputError: if a table cannot be read, lacks its column of ids or has two rows for one of them.
    """
    root = found.root
    tables = {path: _by_id(read_table(path), _subject_of(path)) for path in tables_beside(root)}
    if not tables:
        return None
    rows = [{**_told(scan, list(tables.values())), KEY: scan.names[0]} for scan in found.scans]
    columns = tuple(dict.fromkeys([KEY, *(column for row in rows for column in row)]))
    _without_image(found, tables.get(root / "participants.tsv", {}))
    path = next(iter(tables))
    return Table(path, columns, [{column: row.get(column, "") for column in columns} for row in rows])


def tables_beside(root: Path) -> list[Path]:
    """The tables that lie in a source, in the order in which they are asked."""
    phenotype, sessions = sorted(root.glob("phenotype/*.tsv")), sorted(root.glob("sub-*/sub-*_sessions.tsv"))
    paths = [root / "participants.tsv", *phenotype, *sessions, root / "sessions.tsv"]
    return [path for path in paths if path.is_file()]


def _subject_of(path: Path) -> str | None:
    """Whose sessions.tsv it is; None for tables of all subjects."""
    return path.parent.name if path.parent.name.startswith("sub-") else None


def _by_id(table: Table, subject: str | None) -> _Rows:
    """Rows by subject and session; ``subject`` is whose sessions.tsv it is."""
    needed = "participant_id" if subject is None else "session_id"
    if needed not in table.columns:
        raise InputError(
            Fault(
                str(table.path), f"columns {', '.join(table.columns)}", f"a column {needed}", "name the column of ids"
            )
        )
    found: _Rows = {}
    for row in table.rows:
        session = row.get("session_id") or None
        key = (subject or _prefixed("sub-", row["participant_id"]), session and _prefixed("ses-", session))
        if key in found:
            who = " ".join(part for part in key if part)
            raise InputError(Fault(str(table.path), f"two rows for {who}", "one row each", "remove one of them"))
        found[key] = {column: value for column, value in row.items() if value}
    return found


def _told(scan: Scan, tables: list[_Rows]) -> Row:
    told: Row = {}
    for key in _keys(scan):
        for rows in tables:
            told = {**rows.get(key, {}), **told}
    return told


def _keys(scan: Scan) -> Iterator[tuple[str, str | None]]:
    yield str(scan.patient), scan.study
    yield str(scan.patient), None


def _without_image(found: Found, rows: _Rows) -> None:
    without = sorted({subject for subject, _ in rows} - {str(scan.patient) for scan in found.scans})
    if without:
        shown = ", ".join(without[:5]) + (", …" if len(without) > 5 else "")
        found.skipped.append(
            Fault(
                str(found.root / "participants.tsv"),
                f"{len(without)} rows without an image: {shown}",
                "a row per subject with images",
                "nothing, if these images were left out on purpose",
                "rows_without_image",
            )
        )


def _prefixed(prefix: str, label: str) -> str:
    return label if re.match(prefix, label) else prefix + label
