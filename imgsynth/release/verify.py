"""Verify a release offline, from its own files alone. What is checked is what a recipient or custodian relies on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from imgsynth import __version__
from imgsynth.files import read_json, sha256
from imgsynth.release.card import CARD_JSON
from imgsynth.release.documents import documents
from imgsynth.release.facts import Facts, facts_of
from imgsynth.release.folder import CHECKSUMS, check_checksums, list_files
from imgsynth.release.metadata import table_faults
from imgsynth.release.patients import COHORT_JSON
from imgsynth.release.provenance import PROVENANCE
from imgsynth.release.rounding import at_most
from imgsynth.release.sign import public_key, signature_faults, signed_by
from imgsynth.release.verify_card import card_faults
from imgsynth.release.verify_cohort import cohort_faults
from imgsynth.release.verify_dicom import dicom_faults
from imgsynth.release.verify_documents import document_faults
from imgsynth.release.verify_forbidden import forbidden_faults
from imgsynth.release.verify_masks import mask_faults
from imgsynth.release.verify_nifti import nifti_faults
from imgsynth.release.verify_provenance import provenance_faults
from imgsynth.release.verify_watermark import watermark_faults
from imgsynth.release.verify_zarr import zarr_faults
from imgsynth.types import CheckFailed, Fault, InputError

FORMAT = "imgsynth-verify-1"
GET_AGAIN = "get the release again"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: ``said`` is how much of it, in words."""

    name: str
    said: str
    faults: tuple[Fault, ...] = ()


@dataclass
class Examined:
    """Every check that was made of a release, and what it says of itself: ``facts``, empty where that is unreadable."""

    release: str | None  # SHA-256 of checksums.sha256: which release this is about
    checks: list[Check] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def faults(self) -> list[Fault]:
        return [fault for check in self.checks for fault in check.faults]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "imgsynth": __version__,
            "release_sha256": self.release,
            "passed": not self.faults,
            "facts": self.facts,
            "checks": [
                {"name": one.name, "passed": not one.faults, "said": one.said,
                 "faults": [asdict(fault) for fault in one.faults]}
                for one in self.checks
            ],
        }  # fmt: skip


def examine(folder: Path, key: Path | None = None) -> Examined:
    """Make every check of the release in ``folder``; ``key`` is the public key of whoever is to have signed it.

    Raises InputError if ``folder`` is no release at all, or ``key`` no key.
    """
    folder = Path(folder)
    if not (folder / CARD_JSON).is_file():
        raise InputError(
            Fault(str(folder), f"no {CARD_JSON}", "the folder of a release", "imgsynth verify RUN/release")
        )
    if key is not None:
        public_key(key)
    sums = folder / CHECKSUMS
    found = Examined(sha256(sums) if sums.is_file() else None)
    files = list_files(folder)
    found.checks += [
        _check("checksums", f"{len(files)} files, each as it was written, and no others",
               lambda: check_checksums(folder)),
        _check("signature", signed_by(folder, key), lambda: signature_faults(folder, key)),
    ]  # fmt: skip
    parsed = {name: _parsed(folder / name) for name in (CARD_JSON, COHORT_JSON, PROVENANCE)}
    unreadable = [fault for _, faults in parsed.values() for fault in faults]
    card = parsed[CARD_JSON][0]
    if unreadable:
        found.checks.append(Check("JSON", "the files that all else is checked against", tuple(unreadable)))
    if card is not None:
        said = "computed again from the plan; nothing stands against it"
        found.checks.append(_check("privacy card", said, lambda: card_faults(folder, card)))
    if not unreadable:
        found.checks += _content(folder, files, found)
    return found


def _content(folder: Path, files: list[str], found: Examined) -> list[Check]:
    """The checks that need card, cohort and provenance."""
    try:
        facts = facts_of(folder)
        listed, plan, burned_in = facts.patients, facts.plan, facts.card["burned_in_annotation"]
        own = set(documents(facts))
        found.facts.update(_facts(facts, files))
    except InputError as error:
        return [Check("facts", "", tuple(Fault(CARD_JSON, f.got, f.expected, GET_AGAIN) for f in error.faults))]
    except (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        return [Check("facts", "", (_missing(f"{CARD_JSON}, {PROVENANCE}, {COHORT_JSON}", error),))]
    counts = found.facts
    assert plan is not None
    return [
        _check("provenance", "settings, card and the ledger's digest agree", lambda: provenance_faults(facts)),
        _check("documents", f"{len(own)}, each as the facts give it", lambda: document_faults(folder, facts)),
        _check("cohort tables", f"{len(listed)} synthetic patients, each with its files",
               lambda: cohort_faults(folder, listed, facts.cohort["classes"], own, facts.cohort.get("zarr"))),
        _check("metadata", "age, sex and site as the card says", lambda: _table_faults(facts)),
        _check("DICOM", f"{counts['dicom']} files: marked synthetic, nobody's, unique, in place and in range",
               lambda: dicom_faults(folder, listed, facts.grid, burned_in)),
        _check("NIfTI", f"{counts['nifti']} files: headers, geometry, range and sidecars",
               lambda: nifti_faults(folder, facts)),
        _check("masks", f"{counts['masks']} files: declared values on their images' voxels, the same in every format",
               lambda: mask_faults(folder, listed, facts.grid)),
        _check("Zarr", f"{counts['zarr']} images in one store: geometry, labels and range",
               lambda: zarr_faults(folder, facts)),
        _check("watermark", "found in the images, as the card says", lambda: watermark_faults(folder, facts)),
        _check("forbidden", "no name, date, address, foreign UID, path or machine; DICOM says what the card says",
               lambda: forbidden_faults(folder, facts)),
    ]  # fmt: skip


def _facts(facts: Facts, files: list[str]) -> dict[str, Any]:
    card = facts.card
    return {
        "patients": len(facts.patients),
        "files": len(files),
        "epsilon": card["guarantee"]["epsilon"],
        "delta": card["guarantee"]["delta"],
        "unit": card["unit"],
        "dicom": sum(len(patient.dicom) for patient in facts.patients),
        "nifti": sum(len(patient.nifti) for patient in facts.patients),
        "masks": sum(len(patient.masks) for patient in facts.patients),
        "zarr": len(facts.patients) if facts.cohort.get("zarr") else 0,
        "watermark": facts.watermark or 0,
        "audit": card["audit"]["verdict"] or card["audit"]["status"],
    }


def verify_release(folder: Path, key: Path | None = None) -> dict[str, Any]:
    """``examine``; of a release in which nothing is wrong, its facts: counts, the guarantee, what the card says of an
    audit.

    Raises:
        InputError: if ``folder`` is no release at all.
        CheckFailed: with every fault found; also where all files are sound but the card says NOT RELEASABLE.
    """
    found = examine(folder, key)
    if found.faults:
        raise CheckFailed(*found.faults)
    return found.facts


def checked(found: Examined) -> list[str]:
    """What was checked, in lines for the terminal: each check by name, with how much it looked at."""
    facts = found.facts
    lines = [f"  {one.name:<15}{one.said}" for one in found.checks if facts.get(one.name.lower(), 1)]
    epsilon = "∞" if facts["epsilon"] is None else at_most(facts["epsilon"])
    whole = f"ε = {epsilon} at δ = {facts['delta']:g} for each {facts['unit']}"
    said = f"{facts['audit']}: as the card says; the audit itself is not in a release"
    return ["Checked, and nothing is wrong:", *lines, f"  {'guarantee':<15}{whole}", f"  {'audit':<15}{said}"]


def _check(name: str, said: str, check: Callable[[], Iterable[Fault]]) -> Check:
    """A file whose fields are missing or of another kind is one fault, not a crash."""
    try:
        return Check(name, said, tuple(check()))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        return Check(name, said, (_missing(name, error),))


def _missing(where: str, error: Exception) -> Fault:
    return Fault(where, f"{type(error).__name__}: {error}", "the fields that imgsynth writes", GET_AGAIN)


def _table_faults(facts: Facts) -> list[Fault]:
    rows = [patient.facts for patient in facts.patients]
    return table_faults(facts.card.get("released_metadata"), rows, [patient.label for patient in facts.patients])


def _parsed(path: Path) -> tuple[dict[str, Any] | None, list[Fault]]:
    try:
        value = read_json(path)
        if isinstance(value, dict):
            return value, []
        reason = "JSON that is no object"
    except (OSError, ValueError) as error:
        reason = str(error)
    return None, [Fault(path.name, reason, "a JSON object", GET_AGAIN)]
