"""The synthetic cohort: its patients, and the tables that list them."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgsynth.files import write_json, write_text
from imgsynth.types import Grid

COHORT_CSV = "synthetic_cohort.csv"
COHORT_JSON = "synthetic_cohort.json"


@dataclass(frozen=True)
class SyntheticPatient:
    """One synthetic patient; ``dicom`` and ``nifti`` are the files of its one image, relative to the release."""

    id: str  # SYN-000001
    label: str | None  # a public class name; None where the cohort has no labels
    dicom: tuple[str, ...] = ()
    nifti: tuple[str, ...] = ()


def patient_id(number: int) -> str:
    """PatientID (0010,0020) of synthetic patient ``number``, counted from 1."""
    return f"SYN-{number:06d}"


def bids_subject(number: int) -> str:
    """BIDS subject label of synthetic patient ``number``: letters and digits only."""
    return f"syn{number:04d}"


def write_cohort(folder: Path, patients: Sequence[SyntheticPatient], grid: Grid, classes: Sequence[str]) -> None:
    """Write ``synthetic_cohort.csv`` (one row a patient) and ``.json`` (with the grid and every file)."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", "label", "files"])
    for patient in patients:
        table.writerow([patient.id, patient.label or "", ";".join([*_folders(patient.dicom), *patient.nifti])])
    write_text(folder / COHORT_CSV, text.getvalue())
    write_json(folder / COHORT_JSON, _cohort_json(patients, grid, classes))


def _cohort_json(patients: Sequence[SyntheticPatient], grid: Grid, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "description": "Synthetic patients: no row is a person.",
        "grid": dataclasses.asdict(grid),
        "classes": list(classes),
        "patients": [dataclasses.asdict(patient) for patient in patients],
    }


def _folders(files: Sequence[str]) -> list[str]:
    """A DICOM series is named by its folder."""
    return sorted({Path(name).parent.as_posix() for name in files})
