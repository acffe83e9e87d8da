"""White-box attack on a released mean (the score of Dwork et al. 2015, "Robust Traceability from Trace Amounts").

Of a model that learned from one noised mean w of vectors f(x, y), an image's score is <w, f(x, y)>: a patient who is in
the mean has added his own vector to it. A patient's score is the mean over his images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from imgsynth.audit.attacks.attack import NotApplicable, Released, Tools, mean_by_patient
from imgsynth.audit.attacks.model_parts import parts_as_trained, per_image
from imgsynth.measure.images import Images


class ReleasedMean:
    """The attack on what was released, for models whose ``white_box`` has it."""

    name = "released_mean"
    access = "white box"

    def __init__(self, space: str, tools: Tools):
        self.space = space
        self._score: Callable[[Tensor, Tensor], Tensor]

    def prepare(self, released: Released) -> None:
        score = parts_as_trained(released).released
        if score is None:
            raise NotApplicable("the model learned from no released mean")
        self._score = score

    @torch.no_grad()
    def scores(self, patients: Images) -> np.ndarray:
        return mean_by_patient(per_image(self._score, patients), patients)
