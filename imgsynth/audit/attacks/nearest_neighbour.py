"""Full black-box attack by nearest neighbour (GAN-Leaks FBB: Chen et al. 2020, arXiv:1909.03935, section 4.2).

An image's score is −min over synthetic samples of its distance; a patient's score is the maximum over the patient's
images, a rule fixed beforehand (one copied image is a leak about the patient).
"""

from __future__ import annotations

import numpy as np

from imgsynth.audit.attacks.attack import Released, Tools, highest_by_patient
from imgsynth.audit.spaces import Embed, fit_space
from imgsynth.measure.distances import nearest
from imgsynth.measure.images import Images


class NearestNeighbour:
    """FBB in any space of ``spaces.NAMES``."""

    name = "nearest_neighbour"
    access = "samples"

    def __init__(self, space: str, tools: Tools):
        self.space = space
        self.encoder = tools.encoder
        self._embed: Embed
        self._synthetic_MD: np.ndarray

    def prepare(self, released: Released) -> None:
        self._embed = fit_space(self.space, released.samples.x_NC, self.encoder)
        self._synthetic_MD = self._embed(released.samples.x_NC)

    def scores(self, patients: Images) -> np.ndarray:
        distance_N, _ = nearest(self._embed(patients.x_NC), self._synthetic_MD)
        return highest_by_patient(-distance_N, patients)
