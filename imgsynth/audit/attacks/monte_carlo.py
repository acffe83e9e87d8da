"""Monte Carlo attack (Hilprecht, Härterich and Bernau 2019, PoPETs 2019(4):232, section 4.1).

An image scores the share of samples that lie within ε of it, an estimate of how much probability the generator puts
there. Of the paper's two rules for ε,

    median       median over images of the distance to the nearest sample
    percentile   the 0.1 % quantile of all distances between images and samples

both are taken over reference patients rather than over the candidates themselves, so that a patient's score does not
depend on who else is tested. A patient's score is the maximum over the patient's images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from imgsynth.audit.attacks.attack import Released, Tools, highest_by_patient, the_reference
from imgsynth.audit.spaces import Space
from imgsynth.measure.images import Images

PERCENTILE = 0.001


class _MonteCarlo(ABC):
    name: str
    access = "samples+reference"

    def __init__(self, space: str, tools: Tools):
        self.space = space
        self._tables = tools.tables
        self._samples: Images
        self._fitted: Space
        self.radius: float

    def prepare(self, released: Released) -> None:
        self._samples = released.samples
        self._fitted = self._tables.space(self.space, released.samples)
        reference = the_reference(released)
        self.radius = self._radius(self._tables.distances(self._fitted, reference, released.samples))

    def scores(self, patients: Images) -> np.ndarray:
        within_NM = self._tables.distances(self._fitted, patients, self._samples) <= self.radius
        return highest_by_patient(within_NM.mean(1), patients)

    @abstractmethod
    def _radius(self, reference_NM: np.ndarray) -> float:
        """ε from the distances of reference images to samples."""


class MonteCarloMedian(_MonteCarlo):
    """ε by the median rule, in any space of ``spaces.NAMES``."""

    name = "monte_carlo_median"

    def _radius(self, reference_NM: np.ndarray) -> float:
        return float(np.median(reference_NM.min(1)))


class MonteCarloPercentile(_MonteCarlo):
    """ε by the percentile rule, in any space of ``spaces.NAMES``."""

    name = "monte_carlo_percentile"

    def _radius(self, reference_NM: np.ndarray) -> float:
        return float(np.quantile(reference_NM, PERCENTILE))
