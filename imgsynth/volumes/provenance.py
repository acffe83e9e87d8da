"""Who a synthetic image is said to be, and how it came about: all that a writer may put into a header."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from imgsynth.volumes.uids import NewUid, RandomUids


@dataclass(frozen=True)
class SyntheticIdentity:
    """A person who does not exist. ``patient_id`` must read SYN-…; UIDs that are not given are drawn from ``new_uid``.

    Give the same ``study_uid`` (and ``frame_of_reference_uid``) to the series of one synthetic study. ``new_uid`` also
    gives the SOP Instance UIDs of the images; where it draws from a seeded generator, all of them follow from the seed.
    """

    patient_id: str
    new_uid: NewUid = field(default_factory=RandomUids, repr=False, compare=False)
    study_uid: str = ""
    series_uid: str = ""
    frame_of_reference_uid: str = ""
    series_number: int = 1
    sex: str = ""  # Patient's Sex (0010,0040): M, F, O, or "" where a release does not say

    def __post_init__(self) -> None:
        if not re.fullmatch(r"SYN-[A-Za-z0-9_-]{1,60}", self.patient_id):
            raise ValueError(f"Expected a patient id such as SYN-000001, got {self.patient_id!r}.")
        for name in ("study_uid", "series_uid", "frame_of_reference_uid"):
            if not getattr(self, name):
                object.__setattr__(self, name, self.new_uid())


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
    watermark: float | None = None  # its strength, in standard deviations of the noise; None: there is none

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
        if self.watermark is not None:
            made += f" An invisible watermark is in the voxels (strength {self.watermark:g})."
        if self.seeded:
            return f"{made} Not differentially private for whoever knows the seed; not releasable."
        if math.isinf(self.epsilon):
            return f"{made} No differential privacy guarantee (epsilon = infinity); not releasable."
        unit = "case (the source has case ids, not patient ids)" if self.unit == "case" else self.unit
        bound = f"epsilon = {self.epsilon}, delta = {self.delta}, unit = {unit}"  # unrounded: a bound must hold
        return f"{made} Differential privacy: {bound}."
