"""The facts of a release, as its own files state them: all that its documents are made of, and checked against."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from imgsynth.files import read_json, sha256
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.release.bids import bids_suffix
from imgsynth.release.card import CARD_JSON
from imgsynth.release.images import asked_of, provenance_of
from imgsynth.release.patients import COHORT_CSV, COHORT_JSON, SyntheticPatient, grid_from_json
from imgsynth.release.provenance import PROVENANCE, answers
from imgsynth.schema import ReleaseConfig
from imgsynth.types import Grid
from imgsynth.volumes.provenance import Provenance


@dataclass(frozen=True)
class Facts:
    """Privacy card, provenance and cohort of one release, as JSON; ``table`` is the SHA-256 of the cohort's csv."""

    card: dict[str, Any]
    made: dict[str, Any]
    cohort: dict[str, Any]
    table: str

    @cached_property
    def plan(self) -> PrivacyPlan:
        return PrivacyPlan.from_json(self.card["plan"])

    @cached_property
    def grid(self) -> Grid:
        return grid_from_json(self.cohort["grid"])

    @cached_property
    def patients(self) -> list[SyntheticPatient]:
        return [SyntheticPatient.from_json(entry) for entry in self.cohort["patients"]]

    @property
    def classes(self) -> list[str]:
        """The public list of labels; none where the cohort has no labels."""
        classes: list[str] = self.cohort["classes"]
        return classes if len(classes) > 1 else []

    @property
    def formats(self) -> list[str]:
        formats: list[str] = self.made["config"]["sample"]["formats"]
        return formats

    @property
    def edits(self) -> list[dict[str, Any]]:
        """What was done to masks (``sample.edits``)."""
        edits: list[dict[str, Any]] = self.made["config"]["sample"].get("edits", [])
        return edits

    @property
    def answers(self) -> ReleaseConfig:
        return answers(self.made)

    @property
    def title(self) -> str:
        return self.answers.title or f"Synthetic {self.grid.modality} images"

    @property
    def suffix(self) -> str | None:
        """Of the NIfTI files in a BIDS dataset; None where they are in none."""
        return bids_suffix(self.grid, self.made["config"]["sample"]["bids_suffix"])

    @property
    def watermark(self) -> float | None:
        """The strength of the watermark that the card speaks of; None where there is none."""
        said = self.card.get("watermark")
        return None if said is None else float(said["strength"])

    @property
    def asked(self) -> str:
        """What the cohort was asked once beside training."""
        return asked_of(self.plan)

    @property
    def phantoms(self) -> bool:
        """Whether the cohort was made by imgsynth itself, so that nobody is behind it."""
        return bool(self.made["config"]["data"]["kind"] == "phantom")

    @cached_property
    def provenance(self) -> Provenance:
        """What every image's header says of its making."""
        return provenance_of(self.plan, self.made["model"]["name"], self.card["burned_in_annotation"], self.watermark)


def facts_of(folder: Path) -> Facts:
    """Raises OSError or ValueError for files that are not there or are no JSON."""
    card, made, cohort = (read_json(folder / name) for name in (CARD_JSON, PROVENANCE, COHORT_JSON))
    return Facts(card, made, cohort, sha256(folder / COHORT_CSV))
