"""Verify a release offline, from its own files alone. What is checked is what a recipient or custodian relies on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from imgsynth.files import read_json
from imgsynth.release.card import CARD_JSON
from imgsynth.release.folder import check_checksums, list_files
from imgsynth.release.metadata import table_faults
from imgsynth.release.patients import COHORT_JSON, SyntheticPatient, grid_from_json
from imgsynth.release.rounding import at_most
from imgsynth.release.verify_card import card_faults
from imgsynth.release.verify_cohort import cohort_faults
from imgsynth.release.verify_dicom import dicom_faults
from imgsynth.release.verify_masks import mask_faults
from imgsynth.release.verify_nifti import nifti_faults
from imgsynth.types import CheckFailed, Fault, Grid, InputError


def verify_release(folder: Path) -> dict[str, Any]:
    """Check checksums, privacy card (ε recomputed), cohort tables, every DICOM and every NIfTI file of ``folder``.

    Of a release in which nothing is wrong, returns {"patients", "files", "dicom", "nifti", "masks", "epsilon", "delta",
    "unit", "audit"}: counts, the guarantee, and what the card says of an audit.

    Raises:
        InputError: if ``folder`` is no release at all.
        CheckFailed: with every fault found; also where all files are sound but the card says NOT RELEASABLE.
    """
    folder = Path(folder)
    if not (folder / CARD_JSON).is_file():
        raise InputError(
            Fault(str(folder), f"no {CARD_JSON}", "the folder of a release", "imgsynth verify RUN/release")
        )
    faults = check_checksums(folder)
    card, unreadable = _parsed(folder / CARD_JSON)
    cohort, unreadable_too = _parsed(folder / COHORT_JSON)
    faults += unreadable + unreadable_too
    if card is not None:
        faults += _guarded(CARD_JSON, lambda: card_faults(folder, card))
    if cohort is not None:
        burned_in = None if card is None else card.get("burned_in_annotation")
        faults += _guarded(COHORT_JSON, lambda: list(_content_faults(folder, cohort, burned_in)))
    if cohort is not None and card is not None:
        faults += _guarded(COHORT_JSON, lambda: _table_faults(card, cohort))
    if faults:
        raise CheckFailed(*faults)
    assert card is not None and cohort is not None
    return {
        "patients": len(cohort["patients"]),
        "files": len(list_files(folder)),
        "epsilon": card["guarantee"]["epsilon"],
        "delta": card["guarantee"]["delta"],
        "unit": card["unit"],
        "dicom": sum(len(patient["dicom"]) for patient in cohort["patients"]),
        "nifti": sum(len(patient["nifti"]) for patient in cohort["patients"]),
        "masks": sum(len(patient.get("masks", ())) for patient in cohort["patients"]),
        "audit": card["audit"]["verdict"] or card["audit"]["status"],
    }


def checked(found: dict[str, Any]) -> list[str]:
    """What was checked, in lines for the terminal: each check by name, with how much it looked at."""
    whole = f"ε = {at_most(found['epsilon'])} at δ = {found['delta']:g}"
    checks = [
        ("checksums", f"{found['files']} files, each as it was written, and no others"),
        ("privacy card", f"{whole} for each {found['unit']}, computed again from the plan; nothing stands against it"),
        ("cohort tables", f"{found['patients']} synthetic patients, each with its files"),
        ("DICOM", f"{found['dicom']} files: marked synthetic, nobody's, unique, in place and in range"),
        ("NIfTI", f"{found['nifti']} files: headers, geometry and range"),
        ("masks", f"{found['masks']} files: declared values on their images' voxels, the same in every format"),
        ("audit", f"{found['audit']}: as the card says; the audit itself is not in a release"),
    ]
    shown = [(name, said) for name, said in checks if found.get(name.lower(), 1)]
    return ["Checked, and nothing is wrong:", *(f"  {name:<15}{said}" for name, said in shown)]


def _content_faults(folder: Path, cohort: dict[str, Any], burned_in: str | None) -> Iterator[Fault]:
    grid: Grid = grid_from_json(cohort["grid"])
    patients = [SyntheticPatient.from_json(entry) for entry in cohort["patients"]]
    yield from cohort_faults(folder, patients, cohort["classes"], grid.structures)
    yield from dicom_faults(folder, patients, grid, burned_in)
    yield from nifti_faults(folder, patients, grid)
    yield from mask_faults(folder, patients, grid)


def _table_faults(card: dict[str, Any], cohort: dict[str, Any]) -> list[Fault]:
    patients = cohort["patients"]
    rows = [patient.get("facts", {}) for patient in patients]
    return table_faults(card.get("released_metadata"), rows, [patient["label"] for patient in patients])


def _parsed(path: Path) -> tuple[dict[str, Any] | None, list[Fault]]:
    try:
        value = read_json(path)
        if isinstance(value, dict):
            return value, []
        reason = "JSON that is no object"
    except (OSError, ValueError) as error:
        reason = str(error)
    return None, [Fault(path.name, reason, "a JSON object", "get the release again")]


def _guarded(name: str, check: Callable[[], list[Fault]]) -> list[Fault]:
    """The faults of ``check``; a file whose fields are missing or of another kind is one fault, not a crash."""
    try:
        return check()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return [
            Fault(name, f"{type(error).__name__}: {error}", "the fields that imgsynth writes", "get the release again")
        ]
