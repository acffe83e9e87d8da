"""A conditional convolutional generative adversarial network, for training with differential privacy in 2D and 3D.

Goodfellow et al. 2014 (arXiv:1406.2661) with the non-saturating loss; private as in Bie, Kamath and Zhang 2023,
"Private GANs, Revisited" (arXiv:2302.02936): only the discriminator sees real images and takes noisy steps, it takes
n_D of them for each step of the generator, and generated images join its batch.
Conditional by projection (Miyato and Koyama 2018, arXiv:1802.05637).

Symbols
    x_BC   images [B, 1, *shape] in [-1, 1], real or generated      y_B       class indices [B], public
    z_BL   latent vectors [B, latent], N(0, 1)                      target_B  1 for real, 0 for generated
    G(z, y) the generator   D(x, y) the discriminator's logit       n_D       private steps per step of the generator
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgsynth.models.base import FakeSource, GenerativeModel, PostProcessing, Private
from imgsynth.models.blocks import double, halve, one_hot, pyramid, to_image, voxels, widths
from imgsynth.models.white_box import LatentMap, WhiteBox


class Generator(nn.Module):
    """G: z_BL [B, latent], y_B [B] to images [B, 1, *shape] in [-1, 1]."""

    def __init__(self, grids: list[tuple[int, ...]], width: list[int], classes: int, latent: int):
        super().__init__()
        dims, coarse, up = len(grids[0]), grids[-1], width[::-1]
        self.classes = classes
        self.stem = nn.Linear(latent + classes, up[0] * voxels(coarse))
        self.unflatten = nn.Unflatten(1, (up[0], *coarse))
        self.trunk = nn.Sequential(*(double(dims, i, o) for i, o in pairwise(up)))
        self.head = to_image(dims, up[-1])

    def forward(self, z_BL: Tensor, y_B: Tensor) -> Tensor:
        h_BC = self.unflatten(self.stem(torch.cat([z_BL, one_hot(y_B, self.classes)], dim=1)))
        return torch.tanh(self.head(self.trunk(h_BC)))


class Discriminator(nn.Module):
    """The private network. ``D(x_BC, y_B)`` are the logits [B]; ``forward(x_BC, y_B, target_B)`` the losses [B]."""

    def __init__(self, grids: list[tuple[int, ...]], width: list[int], classes: int):
        super().__init__()
        dims, ins = len(grids[0]), [1, *width[:-1]]
        self.classes = classes
        self.trunk = nn.Sequential(*(halve(dims, i, o) for i, o in zip(ins, width, strict=True)), nn.Flatten())
        self.head = nn.Linear(width[-1] * voxels(grids[-1]), 1 + classes)

    def logits(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        """Projection: a logit for any image, plus one for an image of this class."""
        h_BY = self.head(self.trunk(x_BC))
        return h_BY[:, 0] + (h_BY[:, 1:] * one_hot(y_B, self.classes)).sum(1)

    def forward(self, x_BC: Tensor, y_B: Tensor, target_B: Tensor) -> Tensor:
        return discriminator_loss(self.logits(x_BC, y_B), target_B)


def discriminator_loss(logit_B: Tensor, target_B: Tensor) -> Tensor:
    """-target log sigmoid(logit) - (1 - target) log(1 - sigmoid(logit)) per image: [B] (Goodfellow et al., eq. 1)."""
    return F.softplus(logit_B) - target_B * logit_B


def generator_loss(logit_B: Tensor) -> Tensor:
    """-log D(G(z)) per image: [B], the non-saturating form (Goodfellow et al., section 3)."""
    return F.softplus(-logit_B)


class GAN(GenerativeModel):
    """Conditional convolutional GAN with a private discriminator.

    Args:
        shape: voxels along two or three axes, each of which can be halved.
        classes: number of public classes, at least 1.
        latent: dimensions of z.
        channels: of both networks on the grid after the first halving; doubled at each further one.
        widest: the most channels on any grid.
        every: n_D, the private steps of D for each step of G; more under noise, 1 without it.
        levels: how often the grid is halved; default: as often as it goes.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        latent: int = 32,
        channels: int = 8,
        widest: int = 64,
        every: int = 2,
        levels: int | None = None,
    ):
        super().__init__()
        self.shape, self.classes, self.latent, self.every = tuple(shape), classes, latent, every
        grids = pyramid(self.shape, levels)
        width = widths(channels, widest, grids)
        self.G = Generator(grids, width, classes, latent)
        self.D = Discriminator(grids, width, classes)

    def objectives(self) -> Sequence[Private | PostProcessing]:
        def real(n: int, random: torch.Generator) -> tuple[Tensor, ...]:
            return (torch.ones(n, device=random.device),)

        def generated(y_B: Tensor, z_BL: Tensor) -> tuple[Tensor, ...]:
            return self.G(z_BL, y_B), y_B, torch.zeros_like(z_BL[:, 0])

        def fool(n: int, random: torch.Generator) -> Tensor:
            y_B, z_BL = self._draw(n, random)
            return generator_loss(self.D.logits(self.G(z_BL, y_B), y_B)).mean()

        return [
            Private("discriminator", self.D, aux=real, fakes=FakeSource(self._draw, generated)),
            PostProcessing("generator", self.G, loss=fool, every=self.every),
        ]

    def _draw(self, n: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Public, uniform labels y_B and latent vectors z_BL for n images."""
        y_B = torch.randint(self.classes, (n,), generator=random, device=random.device)
        z_BL = torch.randn(n, self.latent, generator=random, device=random.device)
        return y_B, z_BL

    @property
    def generator(self) -> nn.Module:
        return self.G

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        z_BL = torch.randn(len(y_B), self.latent, generator=random, device=random.device)
        return self.G(z_BL.to(y_B.device), y_B)

    def white_box(self) -> WhiteBox:
        return WhiteBox(discriminator=self.D.logits, latent=LatentMap(self.latent, self.G))
