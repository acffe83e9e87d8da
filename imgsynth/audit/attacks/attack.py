"""The interface of a membership attack."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from imgsynth.measure.images import Images


class Attack(Protocol):
    """Scores patients: the higher, the more likely the patient was trained on."""

    name: str
    space: str

    def prepare(self, synthetic: Images) -> None:
        """Look at the released samples. The attacker has these and nothing else."""

    def scores(self, patients: Images) -> np.ndarray:
        """[P] one score per patient, in the order of ``patients.names_P``."""
