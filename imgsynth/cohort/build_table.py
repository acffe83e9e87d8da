"""Tables beside the images: which row speaks of which image, and what it says."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from imgsynth.cohort.build_scan import Found, Scan
from imgsynth.cohort.ids import clean_id
from imgsynth.schema import DataConfig
from imgsynth.types import Fault, InputError

Row = dict[str, str]

# Column names that mean the same everywhere; looked for without regard to case when the configuration names none.
USUAL = {
    "patient": ("patient_id", "patientid", "patient", "participant_id", "participant", "subject_id", "subject"),
    "sex": ("sex", "gender", "patientsex"),
    "age": ("age", "patientage"),
}
_MISSING = ("", "n/a", "na", "nan", "none", "null")


@dataclass(frozen=True)
class Table:
    path: Path
    columns: tuple[str, ...]
    rows: list[Row]


def read_table(path: Path) -> Table:
    """Read a csv (comma or semicolon) or tsv with a header line. Cells that say "n/a" or the like are empty.

    Raises:
        InputError: if it is not UTF-8 text, has no rows, or a row has another number of cells than the header.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Fault(str(path), str(error), "a readable csv or tsv in UTF-8", "data.table=PATH")) from error
    header = text.partition("\n")[0]
    delimiter = "\t" if "\t" in header else ";" if header.count(";") > header.count(",") else ","
    lines = [line for line in csv.reader(text.splitlines(), delimiter=delimiter) if line]
    if len(lines) < 2:
        raise InputError(Fault(str(path), "no rows", "a header line and a row per image or patient", "fill the table"))
    columns = tuple(name.strip() for name in lines[0])
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise InputError(
            Fault(f"{path}, header", f"columns {', '.join(twice)} more than once", "a name for each", "rename one")
        )
    ragged = [number for number, line in enumerate(lines[1:], start=2) if len(line) != len(columns)]
    if ragged:
        raise InputError(
            Fault(
                f"{path}, row {ragged[0]}",
                f"{len(ragged)} rows of another length than the header",
                f"{len(columns)} cells",
                "quote cells that hold the delimiter",
            )
        )
    rows = [
        {c: "" if v.strip().lower() in _MISSING else v.strip() for c, v in zip(columns, line, strict=True)}
        for line in lines[1:]
    ]
    return Table(path, columns, rows)


def join_table(found: Found, table: Table, data: DataConfig, required: bool = True) -> list[Fault]:
    """Write what the table says into the scans of ``found``, and return what makes the cohort unusable.

    Rows are matched by ``data.key`` or, without it, by the column whose values name most images or patients; rows of
    an npz are taken in order unless a key is given. A usual patient column wins over case ids (``Found.ids``), unless
    it is the column that rows are matched by: names of cases say nothing about persons. With ``required=False`` (a
    participants.tsv that was found, not asked for) images without a row are no fault unless their label is wanted
    from the table.
    """
    wanted, faults = _columns(found, table, data)
    if faults:
        return faults
    matched, faults = _match(found, table, data, tuple(wanted.values()))
    if faults:
        return faults
    if "patient" in wanted:
        found.ids = "source"
    missing: dict[str, list[str]] = {}
    for scan, row in zip(found.scans, matched, strict=True):
        for name, column in wanted.items():
            if row is not None and row[column]:
                setattr(scan, name, row[column])
            elif name in ("patient", "label") or (row is None and required):
                missing.setdefault(column if row is not None else "", []).append(scan.patient or scan.names[0])
    for column, who in missing.items():
        people = sorted(set(who))
        shown = ", ".join(people[:5]) + (", …" if len(people) > 5 else "")
        what = f"no {column} for" if column else "no row for"
        faults.append(
            Fault(
                str(table.path),
                f"{what} {len(people)} of {_patients(found)} patients or images: {shown}",
                "a row with a value for each",
                "complete the table, or take their images out of data.root, or name the right column with data.key",
                "incomplete_table",
            )
        )
    return faults


def _columns(found: Found, table: Table, data: DataConfig) -> tuple[dict[str, str], list[Fault]]:
    """Which column of the table gives which field; a column that was asked for by name must be there."""
    asked = {"patient": data.patient, "label": data.label, "site": data.site, "sex": data.sex, "age": data.age}
    lower = {column.lower(): column for column in table.columns}
    wanted, faults = {}, []
    for name, column in asked.items():
        known = all(getattr(scan, name) for scan in found.scans)
        only_cases = name == "patient" and found.ids == "case"
        if column is not None and column in table.columns:
            wanted[name] = column
        elif column is not None and not (data.kind == "npz" and known):  # an npz has it as an array
            faults.append(_no_column(table, f"data.{name}", column))
        elif column is None and not (name == "patient" and known and not only_cases):
            key = _key(found, table, data) if only_cases else None
            usual = next((lower[u] for u in USUAL.get(name, ()) if u in lower and lower[u] != key), None)
            if name == "label" and data.classes is not None and not known:
                usual = lower.get("label")
            if usual is not None:
                wanted[name] = usual
    if data.key is not None and data.key not in table.columns:
        faults.append(_no_column(table, "data.key", data.key))
    return wanted, faults


def _match(found: Found, table: Table, data: DataConfig, used: tuple[str, ...]) -> tuple[list[Row | None], list[Fault]]:
    """The row of each scan (None where there is none)."""
    in_order = data.key is None and all(scan.row is not None for scan in found.scans)
    if in_order and len(table.rows) != len(found.scans):
        return [None] * len(found.scans), [
            Fault(
                str(table.path),
                f"{len(table.rows)} rows for {len(found.scans)} images",
                "one row per image, in order",
                "data.key=COLUMN, if a column names the image's row number or the patient",
            )
        ]
    if in_order:
        return list(table.rows), []
    names = [_names(scan) for scan in found.scans]
    column = _key(found, table, data)
    rows: dict[str, Row] = {}
    contradictions = set()
    for row in table.rows:
        first = rows.setdefault(clean_id(row[column]), row)
        if any(first[c] != row[c] for c in used):
            contradictions.add(row[column])
    faults = (
        [
            Fault(
                f"{table.path}, column {column}",
                f"{len(contradictions)} keys with rows that contradict each other: "
                f"{', '.join(sorted(contradictions)[:5])}",
                "one row per key, or rows that agree",
                "name the column that tells the images apart with data.key",
                "contradictory_table",
            )
        ]
        if contradictions
        else []
    )
    matched = [next((rows[name] for name in own if name in rows), None) for own in names]
    unused = set(rows) - {clean_id(row[column]) for row in matched if row is not None}
    if unused:
        found.skipped.append(
            Fault(
                f"{table.path}, column {column}",
                f"{len(unused)} rows without an image: {', '.join(sorted(unused)[:5])}",
                "a row per image or patient",
                "nothing, if these images were left out on purpose",
                "rows_without_image",
            )
        )
    return matched, faults


def _names(scan: Scan) -> list[str]:
    """What a key column may call this image, from the most to the least particular."""
    names = [str(scan.row)] if scan.row is not None else list(scan.names)
    if scan.patient:
        bare = scan.patient.removeprefix("sub-")
        names += [scan.patient, bare, f"sub-{bare}"]
    return [clean_id(name) for name in names]


def _key(found: Found, table: Table, data: DataConfig) -> str:
    """The column that rows are matched by: the one asked for, or the one whose values name most images or patients."""
    names = {name for scan in found.scans for name in _names(scan)}
    return data.key or max(table.columns, key=lambda column: len(names & {clean_id(row[column]) for row in table.rows}))


def _patients(found: Found) -> int:
    return len({scan.patient or scan.names[0] for scan in found.scans})


def _no_column(table: Table, setting: str, column: str) -> Fault:
    return Fault(setting, column, f"a column of {table.path}: {', '.join(table.columns)}", f"{setting}=<column>")
