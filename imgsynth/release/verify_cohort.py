"""Do the tables of the synthetic cohort and the files of the release agree, one to one?"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from imgsynth.release.bids import BIDS_FILES, structures_table
from imgsynth.release.card import CARD_JSON, CARD_MD
from imgsynth.release.documents import PROVENANCE, README
from imgsynth.release.folder import CHECKSUMS, list_files
from imgsynth.release.patients import COHORT_CSV, COHORT_JSON, SyntheticPatient, cohort_rows, patient_id
from imgsynth.types import Fault, Structure

REMEDY = "get the release again from whoever published it"


def cohort_faults(
    folder: Path, patients: Sequence[SyntheticPatient], classes: Sequence[str], structures: Sequence[Structure] = ()
) -> Iterator[Fault]:
    """Faults between ``synthetic_cohort.json`` (``patients``, ``classes``), its .csv, and the images in ``folder``."""
    tables = [f"nifti/{name}" for name, _ in _tables(patients, structures)]
    ids = [patient.id for patient in patients]
    expected = [patient_id(number) for number in range(1, len(ids) + 1)]
    if not ids or ids != expected:
        yield Fault(COHORT_JSON, f"{len(ids)} ids, {ids[:3]}…", f"{patient_id(1)} and so on, each once", REMEDY)
    for patient in patients:
        if patient.label not in (classes if len(classes) > 1 else [None]):
            yield Fault(f"{COHORT_JSON}: {patient.id}", f"label {patient.label!r}", f"one of {list(classes)}", REMEDY)
        if not patient.dicom and not patient.nifti:
            yield Fault(f"{COHORT_JSON}: {patient.id}", "no file", "an image", REMEDY)
    listed = Counter(name for patient in patients for name in (*patient.dicom, *patient.nifti, *patient.masks))
    present = {name for name in list_files(folder) if name.endswith((".dcm", ".nii", ".nii.gz"))}
    for name in sorted(set(listed) - present):
        yield Fault(name, "no such image", f"the image that {COHORT_JSON} lists", REMEDY)
    for name in sorted(present - set(listed)):
        yield Fault(name, "an image of no synthetic patient", f"only images that {COHORT_JSON} lists", REMEDY)
    for name in sorted(name for name, count in listed.items() if count > 1):
        yield Fault(name, "listed more than once", "one synthetic patient for each image", REMEDY)
    for name in sorted(set(list_files(folder)) - listed.keys() - present - _documents(patients) - set(tables)):
        yield Fault(name, "a file that imgsynth does not write", "nothing beside the release's own files", REMEDY)
    for name, text in _tables(patients, structures):
        path = folder / "nifti" / name
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            yield Fault(
                f"nifti/{name}", "another table of the masks' values, or none", "the declared structures", REMEDY
            )
    yield from _csv_faults(folder, patients)


def _tables(patients: Sequence[SyntheticPatient], structures: Sequence[Structure]) -> list[tuple[str, str]]:
    """The table of the masks' values, beside NIfTI masks; by its name and text."""
    names = [name for patient in patients for name in patient.nifti_masks]
    if not names:
        return []
    return [structures_table(structures, "BIDS" if "/sub-" in names[0] else None)]


def _documents(patients: Sequence[SyntheticPatient]) -> set[str]:
    """Every file of a release that is no image."""
    own = {README, PROVENANCE, CARD_JSON, CARD_MD, COHORT_CSV, COHORT_JSON, CHECKSUMS}
    return own | {name for patient in patients for name in patient.files} | {f"nifti/{name}" for name in BIDS_FILES}


def _csv_faults(folder: Path, patients: Sequence[SyntheticPatient]) -> Iterator[Fault]:
    path = folder / COHORT_CSV
    if not path.is_file():
        yield Fault(COHORT_CSV, "no such file", "one row for each synthetic patient", REMEDY)
        return
    with path.open(newline="", encoding="utf-8") as handle:
        if list(csv.reader(handle)) != cohort_rows(patients):
            yield Fault(
                COHORT_CSV, f"rows that differ from {COHORT_JSON}", "the same patients, labels and files", REMEDY
            )
