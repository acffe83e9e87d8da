"""The files and folders that a table names: DICOM series, NIfTI files and pictures, of one folder."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path, PurePosixPath

from imgsynth.cohort.build_dicom import scan_of
from imgsynth.cohort.build_images import SUFFIXES as PICTURES
from imgsynth.cohort.build_nifti import nifti_scan
from imgsynth.cohort.build_probe import probe_all
from imgsynth.cohort.build_scan import Found, Scan, names_of
from imgsynth.cohort.build_table import USUAL, Table, read_table
from imgsynth.cohort.load import digest_of, is_nifti
from imgsynth.schema import DataConfig
from imgsynth.types import Fault, InputError
from imgsynth.volumes.dicom_index import Series, index_files

PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path")
SHOWN = 20  # names in a message; the fault has them all
Rows = dict[str, Path]  # what a cell says, and the path relative to the root


def listed_source(data: DataConfig) -> DataConfig:
    """The same configuration with ``data.key``, the column of paths, settled."""
    if data.table is None:
        raise InputError(Fault("data.table", "nothing", "the csv or tsv that names the images", "data.table=FILE"))
    table = read_table(Path(data.table))
    lower = {column.lower(): column for column in reversed(table.columns)}
    key = data.key or next((lower[name] for name in PATH_COLUMNS if name in lower), None)
    if key not in table.columns:
        raise InputError(
            Fault("data.key", str(data.key), f"the column of {table.path} with paths below data.root: "
                  f"{', '.join(table.columns)}", "data.key=<column>")
        )  # fmt: skip
    return dataclasses.replace(data, key=key)


def find_listed(data: DataConfig) -> Found:
    """One image per row: a folder or file of one DICOM series, a NIfTI file or a picture, each below ``data.root``.

    Where the table has a column of patients, that and no header says whose an image is.

    Raises:
        InputError: with every row whose path is empty, leads out of the root, is absent or is there twice, and every
            DICOM row that is not one series.
    """
    root, table = Path(str(data.root)), read_table(Path(str(data.table)))
    rows = _rows(root, table, str(data.key))
    found = Found(root)
    for cell, name in rows.items():
        if (root / name).is_file() and is_nifti(name):
            found.scans.append(_named(nifti_scan(name, data.modality), cell))
        elif (root / name).is_file() and name.name.lower().endswith(PICTURES):
            scan = Scan(
                names_of(name), (name.as_posix(),), data.modality, study=name.as_posix(), series=name.as_posix()
            )
            found.scans.append(_named(scan, cell))
    dicom = {cell: name for cell, name in rows.items() if cell not in {scan.names[0] for scan in found.scans}}
    found = probe_all(found)
    _add_series(found, dicom, data)
    if data.patient is not None or any(column.lower() in USUAL["patient"] for column in table.columns):
        for scan in found.scans:
            scan.patient = None
    return found


def _rows(root: Path, table: Table, column: str) -> Rows:
    cells = [row[column] for row in table.rows]
    paths = {cell: Path(PurePosixPath(cell)) for cell in cells}
    outside = [cell for cell, path in paths.items() if cell and not _is_below(root, path)]
    absent = [cell for cell in paths if cell and cell not in outside and not (root / cell).exists()]
    times = Counter(paths[cell] for cell in cells if cell)
    places = {path: path.parts for path in times}
    inside = [
        str(path) for path, parts in places.items() if any(Path(*parts[:n]) in times for n in range(1, len(parts)))
    ]
    faults = [
        *_fault(table, column, [f"row {n}" for n, cell in enumerate(cells, 2) if not cell], "without a path", "a path"),
        *_fault(table, column, outside, "that lead out of data.root", "paths below data.root, relative to it"),
        *_fault(table, column, absent, f"that are not there, below {root}", "files and folders that exist"),
        *_fault(table, column, [str(p) for p, n in times.items() if n > 1], "in more than one row", "one row an image"),
        *_fault(table, column, inside, "inside the folder of another row", "folders of their own"),
    ]
    if faults:
        raise InputError(*faults)
    return paths


def _is_below(root: Path, path: Path) -> bool:
    """Neither by its text nor through a link does ``path`` leave the root."""
    if path.is_absolute() or ".." in path.parts or "\0" in str(path):
        return False
    return (root / path).resolve().is_relative_to(root.resolve())


def _fault(table: Table, column: str, cells: list[str], what: str, expected: str) -> list[Fault]:
    if not cells:
        return []
    shown = ", ".join(cells[:SHOWN]) + (", …" if len(cells) > SHOWN else "")
    return [Fault(f"{table.path}, column {column}", f"{len(cells)} {what}: {shown}", expected, "correct the table",
                  "incomplete_table")]  # fmt: skip


def _named(scan: Scan, cell: str) -> Scan:
    return dataclasses.replace(scan, names=(cell, *scan.names))


def _add_series(found: Found, rows: Rows, data: DataConfig) -> None:
    """The one series of each of ``rows``, all headers read in one pass; InputError names the rows that are not one."""
    root = found.root
    owner = {path: cell for cell, name in rows.items() for path in _files(root, name)}
    index = index_files(sorted(owner))
    found.skipped += index.faults
    series: dict[str, list[Series]] = {cell: [] for cell in rows}
    for one in index.series:
        if data.modality in (None, one.modality):
            series[owner[one.files[0]]].append(one)
    faults = []
    for cell, own in series.items():
        if len(own) != 1:
            told = ", ".join(sorted({f"{one.modality} {one.uid}" for one in own}))
            faults.append(
                Fault(f"{data.table}, {cell}", f"{len(own)} series of images{f': {told}' if told else ''}",
                      "the folder or file of one DICOM series, a NIfTI file or a picture",
                      "a row and a folder for each series, or data.modality", "incomplete_table")
            )  # fmt: skip
    if faults:
        raise InputError(*faults, *index.faults)
    for cell, (one,) in series.items():
        scan = _named(scan_of(one, root, data), cell)
        found.scans.append(dataclasses.replace(scan, digest=digest_of(root, scan.files)))


def _files(root: Path, name: Path) -> list[Path]:
    if (root / name).is_file():
        return [root / name]
    return [
        path
        for path in sorted((root / name).rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root / name).parts)
    ]
