"""The interface of a membership attack, and what an attacker may hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from imgsynth.audit.references import Reference
from imgsynth.audit.tables import Tables
from imgsynth.measure.encoders import Encoder
from imgsynth.measure.images import Images
from imgsynth.models.base import GenerativeModel
from imgsynth.schema import AuditConfig
from imgsynth.training.run import Run

ACCESS = ("samples", "samples+reference", "white box", "recipe")


class NotApplicable(Exception):
    """This attack cannot be run on this release. Its text is the reason, for the audit's list of what was not done."""


@dataclass(frozen=True, eq=False)
class Released:
    """What an attacker holds.

    ``samples`` is what left the house. ``reference`` are patients of the same population that are neither members nor
    tested. ``model`` is there for white-box attacks, with its ``run``; ``references`` are models trained by its recipe,
    for recipe attacks.
    """

    samples: Images
    reference: Images | None = None
    model: GenerativeModel | None = None
    run: Run | None = None
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True, eq=False)
class Tools:
    """What every attack of one audit is built with."""

    encoder: Encoder
    settings: AuditConfig
    tables: Tables = field(init=False)  # distances that the attacks share

    def __post_init__(self) -> None:
        object.__setattr__(self, "tables", Tables(self.encoder))


class Attack(Protocol):
    """Scores patients: the higher, the more likely the patient was trained on.

    Built as ``Attack(space, tools)``; ``space`` is "" for an attack that measures no distances. ``access`` is one of
    ACCESS, and says which fields of ``Released`` the attack needs. How the scores of a patient's images become the
    patient's is fixed beforehand and said in the attack's docstring.
    """

    name: str
    space: str
    access: str

    def prepare(self, released: Released) -> None:
        """Look at what the attacker holds. Raises NotApplicable where that is too little for this attack."""

    def scores(self, patients: Images) -> np.ndarray:
        """[P] one score per patient, in the order of ``patients.names_P``."""


def the_reference(released: Released, at_least: int = 2) -> Images:
    """The reference patients. Raises NotApplicable where there are fewer images of them than ``at_least``."""
    n = len(released.reference) if released.reference else 0
    if released.reference is None or n < at_least:
        raise NotApplicable(f"{n} images of reference patients (the test split); it takes {at_least}")
    return released.reference


def full_name(attack: Attack) -> str:
    """ "name/space", or the name alone where there is no space: what audit.attacks and audit.primary say."""
    return f"{attack.name}/{attack.space}" if attack.space else attack.name


def highest_by_patient(score_N: np.ndarray, images: Images) -> np.ndarray:
    """[P] the maximum over each patient's images: one copied image is a leak about the patient."""
    score_P = np.full(images.n_patients, -np.inf)
    np.maximum.at(score_P, images.owner_N, score_N)
    return score_P


def mean_by_patient(score_N: np.ndarray, images: Images) -> np.ndarray:
    """[P] the mean over each patient's images: training takes all of them alike."""
    owner_N = images.owner_N
    return np.asarray(np.bincount(owner_N, weights=score_N) / np.bincount(owner_N))
