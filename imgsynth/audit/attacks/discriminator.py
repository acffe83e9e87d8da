"""White-box attack on the discriminator (LOGAN: Hayes et al. 2019, arXiv:1705.07663, section 4.2).

An image's score is D(x | y), its label given: a discriminator that knows its training images by heart takes them, and
not others, for real. A patient's score is the mean over the patient's images, a rule fixed beforehand (training takes
all of them alike).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from imgsynth.audit.attacks.attack import NotApplicable, Released, Tools, mean_by_patient
from imgsynth.audit.attacks.model_parts import parts_as_trained, per_image
from imgsynth.measure.images import Images


class Discriminator:
    """LOGAN's white-box attack, for models whose ``white_box`` has a discriminator."""

    name = "logan"
    access = "white box"

    def __init__(self, space: str, tools: Tools):
        self.space = space
        self._logit: Callable[[Tensor, Tensor], Tensor]

    def prepare(self, released: Released) -> None:
        logit = parts_as_trained(released).discriminator
        if logit is None:
            raise NotApplicable("the model has no discriminator")
        self._logit = logit

    @torch.no_grad()
    def scores(self, patients: Images) -> np.ndarray:
        return mean_by_patient(per_image(self._logit, patients), patients)
