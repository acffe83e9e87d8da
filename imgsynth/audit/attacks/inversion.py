"""White-box attack by latent inversion (GAN-Leaks: Chen et al. 2020, arXiv:1909.03935, sections 4.3 and 4.4).

How well can the generator make this very image? An image's score is

    −min_z ‖x − G(z, y)‖² / voxels + λ (‖z‖² − L)²,

the second term keeping z where the prior N(0, 1) has it (‖z‖² ≈ L). A patient's score is the maximum over the patient's
images, a rule fixed beforehand (one image that the generator can make is a leak about the patient).

The minimum is sought from the best of many draws from the prior (all that query access without gradients would allow
for: the paper's partial black box), by Adam on several of them at once. There is no perceptual term: LPIPS wants a
pretrained network, and a random one's features that keep the place of things say little more than voxels do.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from imgsynth.audit.attacks.attack import NotApplicable, Released, Tools, highest_by_patient
from imgsynth.audit.attacks.model_parts import VOXELS_AT_ONCE, parts_as_sampled, per_image
from imgsynth.measure.distances import distances
from imgsynth.measure.images import Images
from imgsynth.models.white_box import LatentMap

REGULARISER = 1e-3  # λ, GAN-Leaks' own
CANDIDATES = 256  # draws from the prior for each class, the same for all images
RESTARTS = 4  # of these, the nearest to the image, that Adam starts from
STEPS = 100
LEARNING_RATE = 0.05


class LatentInversion:
    """GAN-Leaks' white box, for models whose ``white_box`` has a latent map."""

    name = "latent_inversion"
    access = "white box"

    def __init__(self, space: str, tools: Tools):
        self.space = space
        self._seed = tools.settings.seed
        self._latent: LatentMap

    def prepare(self, released: Released) -> None:
        latent = parts_as_sampled(released).latent
        if latent is None:
            raise NotApplicable("the model has no map from latent vectors to images")
        self._latent = latent

    def scores(self, patients: Images) -> np.ndarray:
        z_ML = torch.randn(CANDIDATES, self._latent.size, generator=torch.Generator().manual_seed(self._seed))
        z_NRL = nearest_starts(self._latent, patients, z_ML, RESTARTS)

        def ask(x_BC: Tensor, y_B: Tensor, z_BRL: Tensor) -> Tensor:
            return invert(self._latent, x_BC, y_B, z_BRL, STEPS)

        return highest_by_patient(-per_image(ask, patients, z_NRL, copies=RESTARTS), patients)


def objective(x_BC: Tensor, image_BC: Tensor, z_BL: Tensor) -> Tensor:
    """[B] mean squared voxel error + λ (‖z‖² − L)²."""
    error_B = (x_BC - image_BC).square().flatten(1).mean(1)
    return error_B + REGULARISER * (z_BL.square().sum(1) - z_BL.shape[1]).square()


@torch.no_grad()
def nearest_starts(latent: LatentMap, images: Images, z_ML: Tensor, restarts: int) -> Tensor:
    """[N, R, L]: for each image, the ``restarts`` latent vectors of ``z_ML`` with the smallest objective."""
    penalty_M = REGULARISER * (z_ML.square().sum(1) - latent.size).square().numpy()
    whole_NC = images.whole_NC
    voxels = math.prod(whole_NC.shape[1:])
    at_once = max(1, VOXELS_AT_ONCE // voxels)
    chosen_NR = np.empty((len(images), restarts), dtype=np.int64)
    for label in np.unique(images.y_N):
        mine = np.flatnonzero(images.y_N == label)
        costs = []
        for start in range(0, len(z_ML), at_once):
            z_BL = z_ML[start : start + at_once]
            image_BD = latent.image(z_BL, torch.full((len(z_BL),), int(label))).flatten(1).numpy()
            costs.append(distances(whole_NC[mine].reshape(len(mine), -1), image_BD) ** 2 / voxels)
        cost_NM = np.concatenate(costs, axis=1) + penalty_M
        chosen_NR[mine] = np.argsort(cost_NM, axis=1, kind="stable")[:, :restarts]
    return z_ML[torch.from_numpy(chosen_NR)]


def invert(latent: LatentMap, x_BC: Tensor, y_B: Tensor, z_BRL: Tensor, steps: int) -> Tensor:
    """[B] the smallest objective met on the way of Adam from any of an image's starts. Images do not meet: the sum of
    their objectives has for each its own gradient, and Adam treats every coordinate by itself."""
    restarts = z_BRL.shape[1]
    x_NC, y_N = x_BC.repeat_interleave(restarts, 0), y_B.repeat_interleave(restarts, 0)
    z_NL = z_BRL.flatten(0, 1).clone().requires_grad_()
    adam = torch.optim.Adam([z_NL], lr=LEARNING_RATE)
    best_N = torch.full((len(x_NC),), torch.inf)
    for _ in range(steps + 1):
        cost_N = objective(x_NC, latent.image(z_NL, y_N), z_NL)
        best_N = torch.minimum(best_N, cost_N.detach())
        (z_NL.grad,) = torch.autograd.grad(cost_N.sum(), [z_NL])
        adam.step()
    return best_N.unflatten(0, (-1, restarts)).amin(1)
