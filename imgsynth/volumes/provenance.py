"""Who a synthetic image is said to be, and how it came about: all that a writer may put into a header."""

from __future__ import annotations

import math
import re
import uuid
from dataclasses import dataclass, field
from typing import Literal


def fresh_uid() -> str:
    """A UID under 2.25 from the operating system's entropy (PS3.5 B.2); nothing of any source goes into it."""
    return f"2.25.{uuid.uuid4().int}"


@dataclass(frozen=True)
class SyntheticIdentity:
    """A person who does not exist. ``patient_id`` must read SYN-…; the UIDs are fresh unless given.

    Give the same ``study_uid`` (and ``frame_of_reference_uid``) to the series of one synthetic study.
    """

    patient_id: str
    study_uid: str = field(default_factory=fresh_uid)
    series_uid: str = field(default_factory=fresh_uid)
    frame_of_reference_uid: str = field(default_factory=fresh_uid)
    series_number: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(r"SYN-[A-Za-z0-9_-]{1,60}", self.patient_id):
            raise ValueError(f"Expected a patient id such as SYN-000001, got {self.patient_id!r}.")


@dataclass(frozen=True)
class Provenance:
    """How an image was made, and what was judged of it.

    ``epsilon`` and ``delta`` are the proven (ε, δ) of differential privacy, with ``unit`` what they protect: "case"
    where the source has case ids but no patient ids. ``epsilon`` is infinite where there is no guarantee, or none
    against whoever knows the seed (``seeded``). ``burned_in`` is Burned In Annotation (0028,0301) as it was judged, and
    ``recognizable`` Recognizable Visual Features (0028,0302); each None where nobody judged it.
    """

    method: str  # "conditional VAE trained by DP-SGD", say
    model: str  # name of the model
    version: str  # version of imgsynth
    epsilon: float
    delta: float
    unit: Literal["patient", "case", "image"]
    burned_in: Literal["YES", "NO"] | None
    recognizable: Literal["YES", "NO"] | None = None
    seeded: bool = False

    def __post_init__(self) -> None:
        if self.seeded and math.isfinite(self.epsilon):
            raise ValueError("Expected epsilon = infinity: noise from a known seed protects from nobody who knows it.")
        if not (self.epsilon >= 0 and 0 <= self.delta < 1):
            raise ValueError(f"Expected epsilon >= 0 and 0 <= delta < 1, got {self.epsilon} and {self.delta}.")
        if not "".join((self.method, self.model, self.version)).isascii():
            raise ValueError("Expected method, model and version in ASCII, as no character set is declared for them.")

    @property
    def derivation(self) -> str:
        """The text of Derivation Description (0008,2111)."""
        made = f"Synthetic image, not for diagnostic use. Sampled from a generative model: {self.method}."
        if self.seeded:
            return f"{made} Not differentially private for whoever knows the seed; not releasable."
        if math.isinf(self.epsilon):
            return f"{made} No differential privacy guarantee (epsilon = infinity); not releasable."
        unit = "case (the source has case ids, not patient ids)" if self.unit == "case" else self.unit
        bound = f"epsilon = {self.epsilon}, delta = {self.delta}, unit = {unit}"  # unrounded: a bound must hold
        return f"{made} Differential privacy: {bound}."
