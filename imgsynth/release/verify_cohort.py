"""Do the tables of the synthetic cohort and the files of the release agree, one to one?"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from imgsynth.release.card import CARD_JSON, CARD_MD
from imgsynth.release.folder import CHECKSUMS, PUBLIC_KEY, SIGNATURE, list_files
from imgsynth.release.patients import COHORT_CSV, COHORT_JSON, SyntheticPatient, cohort_rows, patient_id
from imgsynth.release.provenance import PROVENANCE
from imgsynth.release.sbom import SBOM
from imgsynth.types import Fault

REMEDY = "get the release again from whoever published it"


def cohort_faults(
    folder: Path, patients: Sequence[SyntheticPatient], classes: Sequence[str], documents: set[str],
    zarr: str | None = None,
) -> Iterator[Fault]:  # fmt: skip
    """Faults between ``synthetic_cohort.json`` (``patients``, ``classes``), its .csv, and the images in ``folder``.

    ``documents`` are the release's own files that no table lists; ``zarr`` is the store of all images, if there is one.
    """
    ids = [patient.id for patient in patients]
    expected = [patient_id(number) for number in range(1, len(ids) + 1)]
    if not ids or ids != expected:
        yield Fault(COHORT_JSON, f"{len(ids)} ids, {ids[:3]}…", f"{patient_id(1)} and so on, each once", REMEDY)
    for patient in patients:
        if patient.label not in (classes if len(classes) > 1 else [None]):
            yield Fault(f"{COHORT_JSON}: {patient.id}", f"label {patient.label!r}", f"one of {list(classes)}", REMEDY)
        if not patient.dicom and not patient.nifti and zarr is None:
            yield Fault(f"{COHORT_JSON}: {patient.id}", "no file", "an image", REMEDY)
    listed = Counter(name for patient in patients for name in (*patient.dicom, *patient.nifti, *patient.masks))
    present = {name for name in list_files(folder) if name.endswith((".dcm", ".nii", ".nii.gz"))}
    for name in sorted(set(listed) - present):
        yield Fault(name, "no such image", f"the image that {COHORT_JSON} lists", REMEDY)
    for name in sorted(present - set(listed)):
        yield Fault(name, "an image of no synthetic patient", f"only images that {COHORT_JSON} lists", REMEDY)
    for name in sorted(name for name, count in listed.items() if count > 1):
        yield Fault(name, "listed more than once", "one synthetic patient for each image", REMEDY)
    store = {name for name in list_files(folder) if zarr is not None and name.startswith(f"{zarr}/")}  # verify_zarr
    for name in sorted(set(list_files(folder)) - listed.keys() - present - store - documents - _own(patients)):
        yield Fault(name, "a file that imgsynth does not write", "nothing beside the release's own files", REMEDY)
    yield from _csv_faults(folder, patients, zarr)


def _own(patients: Sequence[SyntheticPatient]) -> set[str]:
    """Every file of a release that is neither image nor document."""
    own = {PROVENANCE, SBOM, CARD_JSON, CARD_MD, COHORT_CSV, COHORT_JSON, CHECKSUMS, SIGNATURE, PUBLIC_KEY}
    return own | {name for patient in patients for name in patient.files}


def _csv_faults(folder: Path, patients: Sequence[SyntheticPatient], zarr: str | None) -> Iterator[Fault]:
    path = folder / COHORT_CSV
    if not path.is_file():
        yield Fault(COHORT_CSV, "no such file", "one row for each synthetic patient", REMEDY)
        return
    with path.open(newline="", encoding="utf-8") as handle:
        if list(csv.reader(handle)) != cohort_rows(patients, zarr):
            yield Fault(
                COHORT_CSV, f"rows that differ from {COHORT_JSON}", "the same patients, labels and files", REMEDY
            )
