"""The synthetic cohort: its patients, and the tables that list them."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgsynth.cohort.facts import SEXES
from imgsynth.files import write_json, write_text
from imgsynth.types import Grid, Structure
from imgsynth.volumes.nifti import sidecar_path

COHORT_CSV = "synthetic_cohort.csv"
COHORT_JSON = "synthetic_cohort.json"
STORE = "zarr/cohort.zarr"


@dataclass(frozen=True)
class SyntheticPatient:
    """One synthetic patient; ``dicom`` and ``nifti`` are the files of its one image, ``masks`` those of the mask
    of it (a DICOM segmentation, a NIfTI file), relative to the release."""

    id: str  # SYN-000001
    label: str | None  # a public class name; None where the cohort has no labels
    dicom: tuple[str, ...] = ()
    nifti: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)  # age_band, sex, site, as far as they are released
    masks: tuple[str, ...] = ()
    edited_from: str | None = None  # the synthetic patient whose mask was edited to make this one's

    @property
    def segmentations(self) -> tuple[str, ...]:
        """The DICOM files of its mask."""
        return tuple(name for name in self.masks if name.endswith(".dcm"))

    @property
    def nifti_masks(self) -> tuple[str, ...]:
        return tuple(name for name in self.masks if not name.endswith(".dcm"))

    @property
    def files(self) -> tuple[str, ...]:
        """All files that are of this patient alone, sidecars included, relative to the release."""
        described = (*self.nifti, *self.nifti_masks)
        return (*self.dicom, *self.nifti, *self.masks, *(sidecar_path(Path(name)).as_posix() for name in described))

    @staticmethod
    def from_json(value: dict[str, Any]) -> SyntheticPatient:
        files = tuple(value["dicom"]), tuple(value["nifti"])
        facts, masks = dict(value.get("facts", {})), tuple(value.get("masks", ()))
        return SyntheticPatient(value["id"], value["label"], *files, facts, masks, value.get("edited_from"))


def patient_id(number: int) -> str:
    """PatientID (0010,0020) of synthetic patient ``number``, counted from 1."""
    return f"SYN-{number:06d}"


def bids_subject(number: int) -> str:
    """BIDS subject label of synthetic patient ``number``: letters and digits only."""
    return f"syn{number:04d}"


def write_cohort(
    folder: Path, patients: Sequence[SyntheticPatient], grid: Grid, classes: Sequence[str], formats: Sequence[str]
) -> None:
    """Write ``synthetic_cohort.csv`` (one row a patient) and ``.json`` (with the grid and every file)."""
    text = io.StringIO()
    store = STORE if "zarr" in formats else None
    csv.writer(text, lineterminator="\n").writerows(cohort_rows(patients, store))
    write_text(folder / COHORT_CSV, text.getvalue())
    write_json(folder / COHORT_JSON, _cohort_json(patients, grid, classes, store))


def cohort_rows(patients: Sequence[SyntheticPatient], store: str | None = None) -> list[list[str]]:
    """The rows of ``synthetic_cohort.csv``, its heading first; several files are parted by semicolons.

    ``store`` is the Zarr store of all images, if there is one; a patient's image is at the patient's number - 1.
    """
    also = [store] if store else []
    facts = list(patients[0].facts) if patients else []
    rows = [[p.id, p.label or "", *p.facts.values(), ";".join([*_folders(p.dicom), *p.nifti, *also])] for p in patients]
    if not any(p.masks for p in patients):
        return [["id", "label", *facts, "files"], *rows]
    masks = [[";".join([*_folders(p.segmentations), *p.nifti_masks])] for p in patients]
    rows = [["id", "label", *facts, "files", "masks"], *(row + mask for row, mask in zip(rows, masks, strict=True))]
    if not any(p.edited_from for p in patients):
        return rows
    edited = ["edited_from", *(p.edited_from or "" for p in patients)]
    return [[*row, said] for row, said in zip(rows, edited, strict=True)]


def dicom_sex(facts: Mapping[str, str]) -> str:
    """Patient's Sex (0010,0040) of a synthetic patient with these facts; "" where none of its values is said."""
    return facts["sex"] if facts.get("sex") in SEXES else ""


def grid_from_json(value: dict[str, Any]) -> Grid:
    """The grid that ``synthetic_cohort.json`` states."""
    structures = tuple(Structure.from_json(entry) for entry in value.get("structures", ()))
    lists = {"shape": tuple(value["shape"]), "spacing": tuple(value["spacing"]), "structures": structures}
    return Grid(**{**value, **lists})


def _cohort_json(
    patients: Sequence[SyntheticPatient], grid: Grid, classes: Sequence[str], store: str | None
) -> dict[str, Any]:
    return {
        "description": "Synthetic patients: no row is a person.",
        "grid": dataclasses.asdict(grid),
        "classes": list(classes),
        "zarr": store,  # every patient's image, in this order
        "patients": [dataclasses.asdict(patient) for patient in patients],
    }


def _folders(files: Sequence[str]) -> list[str]:
    """A DICOM series is named by its folder."""
    return sorted({Path(name).parent.as_posix() for name in files})
