"""A small model of every kind of part, as a later method would bring it: a VAE whose decoder a discriminator judges
(after Larsen et al. 2016, arXiv:1512.09300). And one that can do nothing but sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgsynth.models.base import GenerativeModel, PostProcessing, Private
from imgsynth.models.white_box import LatentMap, Posterior, WhiteBox

LATENT = 3


class Networks(nn.Module):
    """Encoder, decoder and discriminator, clipped together; linear, so that tests know their answers."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        self.shape, self.classes = shape, classes
        voxels = int(torch.tensor(shape).prod())
        self.encoder = nn.Linear(voxels, LATENT)
        self.decoder = nn.Linear(LATENT + classes, voxels)
        self.judge = nn.Linear(voxels, 1)

    def decode(self, z_BL: Tensor, y_B: Tensor) -> Tensor:
        h_BH = torch.cat([z_BL, F.one_hot(y_B, self.classes).float()], dim=1)
        return torch.tanh(self.decoder(h_BH)).unflatten(1, (1, *self.shape))

    def logits(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        return self.judge(x_BC.flatten(1))[:, 0] + y_B

    def errors(self, x_BC: Tensor, y_B: Tensor, eps_BL: Tensor) -> tuple[Tensor, Tensor]:
        mu_BL = self.encoder(x_BC.flatten(1))
        error_B = (x_BC - self.decode(mu_BL + 0.1 * eps_BL, y_B)).square().flatten(1).mean(1)
        return error_B, error_B + 0.01 * mu_BL.square().sum(1)

    def forward(self, x_BC: Tensor, y_B: Tensor, eps_BL: Tensor) -> Tensor:
        return self.errors(x_BC, y_B, eps_BL)[1] + F.softplus(-self.logits(x_BC, y_B))


class Hybrid(GenerativeModel):
    def __init__(self, shape: Sequence[int], classes: int):
        super().__init__()
        self.shape, self.classes = tuple(shape), classes
        self.networks = Networks(self.shape, classes)

    def draw(self, n: int, random: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randn(n, LATENT, generator=random),)

    def objectives(self) -> Sequence[Private | PostProcessing]:
        return [Private("hybrid", self.networks, self.draw)]

    @property
    def generator(self) -> nn.Module:
        return self.networks.decoder

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        return self.networks.decode(torch.randn(len(y_B), LATENT, generator=random), y_B)

    def white_box(self) -> WhiteBox:
        return WhiteBox(
            self.networks.logits, Posterior(self.draw, self.networks.errors), LatentMap(LATENT, self.networks.decode)
        )


class Sampler(Hybrid):
    """Does not say what it has."""

    def white_box(self) -> WhiteBox:
        return GenerativeModel.white_box(self)
