"""Full black-box attack by nearest neighbour, plain and calibrated (GAN-Leaks: Chen et al. 2020, arXiv:1909.03935).

With d(x, S) = min over s in S of the distance of x to s, an image scores

    plain (section 4.2)        −d(x, samples)
    calibrated (section 4.5)   d(x, reference) − d(x, samples)

where the reference, patients that are neither members nor tested, tells how far from anybody an image of its kind is.
A patient's score is the maximum over the patient's images, a rule fixed beforehand (one copied image is a leak about
the patient).
"""

from __future__ import annotations

import numpy as np

from imgsynth.audit.attacks.attack import Released, Tools, highest_by_patient, the_reference
from imgsynth.audit.spaces import Space
from imgsynth.measure.images import Images


class NearestNeighbour:
    """The plain attack, in any space of ``spaces.NAMES``."""

    name = "nearest_neighbour"
    access = "samples"

    def __init__(self, space: str, tools: Tools):
        self.space = space
        self._tables = tools.tables
        self._samples: Images
        self._fitted: Space

    def prepare(self, released: Released) -> None:
        self._samples = released.samples
        self._fitted = self._tables.space(self.space, released.samples)

    def scores(self, patients: Images) -> np.ndarray:
        return highest_by_patient(-self._tables.distances(self._fitted, patients, self._samples).min(1), patients)


class CalibratedNearestNeighbour:
    """The calibrated attack, in any space of ``spaces.NAMES``."""

    name = "calibrated_nearest_neighbour"
    access = "samples+reference"

    def __init__(self, space: str, tools: Tools):
        self.space = space
        self._tables = tools.tables
        self._released: Released
        self._reference: Images
        self._fitted: Space

    def prepare(self, released: Released) -> None:
        self._released, self._reference = released, the_reference(released)
        self._fitted = self._tables.space(self.space, released.samples)

    def scores(self, patients: Images) -> np.ndarray:
        to_samples = self._tables.distances(self._fitted, patients, self._released.samples).min(1)
        to_reference = self._tables.distances(self._fitted, patients, self._reference).min(1)
        return highest_by_patient(to_reference - to_samples, patients)
