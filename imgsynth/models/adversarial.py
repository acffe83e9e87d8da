"""What pulls a discriminator and a generator apart: three losses, a penalty on slopes, and the discriminator itself.

    loss            discriminator, on a logit l                     generator
    non_saturating  -log sigmoid(l) real, -log(1 - sigmoid(l)) fake  -log sigmoid(l)   Goodfellow et al. 2014, 1406.2661
    hinge           max(0, 1 - l) real, max(0, 1 + l) fake           -l                Lim and Ye 2017, 1705.02894
    wasserstein     -l real, l fake                                  -l                Arjovsky et al. 2017, 1701.07875

All are per image. ``target_B`` is 1 for a real image, 0 for a generated one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad

from imgsynth.models.blocks import halve, one_hot, voxels
from imgsynth.models.lipschitz import ProjectionHead, halve_lipschitz
from imgsynth.types import Fault, InputError

LOSSES = ("non_saturating", "hinge", "wasserstein")
CRITICS = ("plain", "penalty", "lipschitz")


def loss_faults(loss: str, critic: str) -> list[Fault]:
    """What is wrong with this pair of names."""
    faults = []
    for where, got, names in (("model.loss", loss, LOSSES), ("model.critic", critic, CRITICS)):
        if got not in names:
            faults.append(Fault(where, got, f"one of {', '.join(names)}", f"{where}={names[0]}"))
    if loss == "wasserstein" and critic == "plain":
        faults.append(
            Fault("model.critic", "plain, with model.loss=wasserstein", "a critic whose slope is bounded: without, its "
                  "loss has no minimum", "model.critic=lipschitz")
        )  # fmt: skip
    return faults


def discriminator_loss(logit_B: Tensor, target_B: Tensor, loss: str = "non_saturating") -> Tensor:
    """Of each image, [B]."""
    if loss == "wasserstein":
        return (1 - 2 * target_B) * logit_B
    if loss == "hinge":
        return F.relu(1 + (1 - 2 * target_B) * logit_B)
    return F.softplus(logit_B) - target_B * logit_B


def generator_loss(logit_B: Tensor, loss: str = "non_saturating") -> Tensor:
    """Of each generated image, [B]."""
    return F.softplus(-logit_B) if loss == "non_saturating" else -logit_B


def known_as_fake(logit_B: Tensor) -> Tensor:
    """The share of these generated images that a discriminator takes for what they are: a scalar."""
    return (logit_B < 0).to(logit_B.dtype).mean()


class Discriminator(nn.Module):
    """The private network, on images and the ``structures`` of their masks. ``logits(x_BC, y_B)`` are [B];
    ``forward(x_BC, y_B, target_B)`` the losses [B].

    ``lipschitz``: no image's logit is further from another's of its class than the images are (``lipschitz.py``).
    """

    def __init__(
        self,
        grids: list[tuple[int, ...]],
        width: list[int],
        classes: int,
        loss: str = "non_saturating",
        lipschitz: bool = False,
        structures: int = 0,
    ):
        super().__init__()
        dims, ins = len(grids[0]), [1 + structures, *width[:-1]]
        self.classes, self.loss = classes, loss
        block, head = (halve_lipschitz, ProjectionHead) if lipschitz else (halve, nn.Linear)
        self.trunk = nn.Sequential(*(block(dims, i, o) for i, o in zip(ins, width, strict=True)), nn.Flatten())
        self.head = head(width[-1] * voxels(grids[-1]), 1 + classes)

    def logits(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        """Projection (Miyato and Koyama 2018, arXiv:1802.05637): a logit for any image, plus one for an image of this
        class."""
        h_BY = self.head(self.trunk(x_BC))
        return h_BY[:, 0] + (h_BY[:, 1:] * one_hot(y_B, self.classes)).sum(1)

    def forward(self, x_BC: Tensor, y_B: Tensor, target_B: Tensor) -> Tensor:
        return discriminator_loss(self.logits(x_BC, y_B), target_B, self.loss)


class Penalised(nn.Module):
    """A discriminator whose unit is a real image, a generated one and one between them, with one loss: [B].

    ``weight`` is λ of Gulrajani et al. 2017, "Improved Training of Wasserstein GANs" (arXiv:1704.00028), algorithm 1:

        loss(D(x), real) + loss(D(fake), fake) + λ (‖∇ D(x̂)‖ - 1)²,    x̂ = u x + (1 - u) fake,  u ~ U(0, 1).

    x̂ holds the patient's voxels, so the penalty belongs to him, and to his gradient before it is clipped: a penalty on
    a mean over the batch would be nobody's. It is a gradient within the loss, which the functional engine takes.
    """

    def __init__(self, discriminator: Discriminator, weight: float):
        super().__init__()
        self.discriminator, self.weight = discriminator, weight

    def forward(self, x_BC: Tensor, y_B: Tensor, fake_BC: Tensor, fake_y_B: Tensor, u_B: Tensor) -> Tensor:
        d = self.discriminator
        between_BC = fake_BC + u_B.view(-1, *(1 for _ in x_BC.shape[1:])) * (x_BC - fake_BC)
        slope_B = slope(d, between_BC, y_B)
        real_B = discriminator_loss(d.logits(x_BC, y_B), torch.ones_like(u_B), d.loss)
        made_B = discriminator_loss(d.logits(fake_BC, fake_y_B), torch.zeros_like(u_B), d.loss)
        return real_B + made_B + self.weight * (slope_B - 1).square()


def slope(d: Discriminator, x_BC: Tensor, y_B: Tensor) -> Tensor:
    """‖∇ D(x, y)‖ with respect to x, of each image: [B]. The sum over images has each one's own gradient."""
    gradient_BC: Tensor = grad(lambda x: d.logits(x, y_B).sum())(x_BC)
    return (gradient_BC.flatten(1).square().sum(1) + 1e-12).sqrt()  # the root of zero has no derivative


def raise_faults(faults: list[Fault]) -> None:
    """InputError with all of them, if any."""
    if faults:
        raise InputError(*faults)
