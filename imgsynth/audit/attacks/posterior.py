"""White-box attacks by a VAE's own errors (Hilprecht, Härterich and Bernau 2019, "Monte Carlo and Reconstruction
Membership Inference Attacks against Generative Models", PoPETs 2019(4), section 3.3; the ELBO likewise).

An image's score is minus the mean, over draws from its posterior, of the error of its reconstruction, or of its
negative ELBO. Of a diffusion model it is the error of denoising the image, over random noise levels. A patient's score
is the mean over the patient's images, a rule fixed beforehand (training takes all of them alike). The draws are seeded
and the same for all images, so that no image's score follows the others.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from imgsynth.audit.attacks.attack import NotApplicable, Released, Tools, mean_by_patient
from imgsynth.audit.attacks.model_parts import parts_as_trained, per_image
from imgsynth.measure.images import Images
from imgsynth.models import white_box

STATISTICS = ("reconstruction", "elbo")
DRAWS = 16


class Posterior:
    """The attack by one of STATISTICS, for models whose ``white_box`` has a posterior."""

    name = "posterior"
    access = "white box"

    def __init__(self, space: str, tools: Tools):
        self.space = space
        self._column = STATISTICS.index(space)
        self._seed = tools.settings.seed
        self._posterior: white_box.Posterior

    def prepare(self, released: Released) -> None:
        posterior = parts_as_trained(released).posterior
        if posterior is None:
            raise NotApplicable("the model has no posterior")
        self._posterior = posterior

    def scores(self, patients: Images) -> np.ndarray:
        error_N = mean_errors(self._posterior, patients, DRAWS, self._seed)[:, self._column]
        return mean_by_patient(-error_N, patients)


@torch.no_grad()
def mean_errors(posterior: white_box.Posterior, images: Images, draws: int, seed: int) -> np.ndarray:
    """[N, 2] reconstruction error and negative ELBO, means over ``draws`` draws from each image's posterior."""
    drawn_S = posterior.draw(draws, torch.Generator().manual_seed(seed))

    def ask(x_BC: Tensor, y_B: Tensor) -> Tensor:
        total_B2 = torch.zeros(len(x_BC), 2)
        for s in range(draws):
            drawn_B = (d[s].expand(len(x_BC), *d.shape[1:]) for d in drawn_S)
            total_B2 += torch.stack(posterior.errors(x_BC, y_B, *drawn_B), dim=1)
        return total_B2 / draws

    return per_image(ask, images).reshape(-1, 2)
