"""A conditional convolutional variational autoencoder, for training with differential privacy in 2D and 3D.

Kingma and Welling 2014, "Auto-Encoding Variational Bayes" (arXiv:1312.6114), conditional as in Sohn, Lee and Yan 2015,
with the weight β of Higgins et al. 2017. Made for DP-SGD: one loss per image, no layer that couples images, and few
parameters d, because the norm of the noise grows with √d.

Symbols
    x_BC   images [B, 1, *shape] in [-1, 1]          y_B    class indices [B], public
    z_BL   latent vectors [B, latent]                eps_BL reparameterisation noise [B, latent], N(0, 1)
    mu_BL, logvar_BL  of q(z | x, y) = N(mu, exp(logvar));  prior p(z) = N(0, 1)
    p(x | z, y) = Laplace(decoder(z, y), b) voxel by voxel; b is a public constant: nothing is fitted outside the plan
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.layers import Conv
from torch import Tensor, nn

from imgsynth.models.base import GenerativeModel, PostProcessing, Private
from imgsynth.models.blocks import double, halve, one_hot, pyramid, voxels, widths


class Encoder(nn.Module):
    """q(z | x, y): x_BC [B, 1, *shape], y_B [B] to mu_BL and logvar_BL, [B, latent] each."""

    def __init__(self, grids: list[tuple[int, ...]], width: list[int], classes: int, latent: int):
        super().__init__()
        dims, coarse = len(grids[0]), grids[-1]
        ins = [1, *width[1:-1]]
        self.classes = classes
        self.trunk = nn.Sequential(*(halve(dims, i, o) for i, o in zip(ins, width[1:], strict=True)), nn.Flatten())
        self.head = nn.Linear(width[-1] * voxels(coarse) + classes, 2 * latent)

    def forward(self, x_BC: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        h_BH = torch.cat([self.trunk(x_BC), one_hot(y_B, self.classes)], dim=1)
        mu_BL, logvar_BL = self.head(h_BH).chunk(2, dim=1)
        return mu_BL, logvar_BL


class Decoder(nn.Module):
    """The mean of p(x | z, y): z_BL [B, latent], y_B [B] to images [B, 1, *shape] in [-1, 1]."""

    def __init__(self, grids: list[tuple[int, ...]], width: list[int], classes: int, latent: int):
        super().__init__()
        dims, coarse = len(grids[0]), grids[-1]
        self.classes = classes
        self.stem = nn.Linear(latent + classes, width[-1] * voxels(coarse))
        self.unflatten = nn.Unflatten(1, (width[-1], *coarse))
        up = width[::-1]
        self.trunk = nn.Sequential(*(double(dims, i, o) for i, o in pairwise(up)))
        self.head = Conv["conv", dims](width[0], 1, kernel_size=3, padding=1)

    def forward(self, z_BL: Tensor, y_B: Tensor) -> Tensor:
        h_BC = self.unflatten(self.stem(torch.cat([z_BL, one_hot(y_B, self.classes)], dim=1)))
        return torch.tanh(self.head(self.trunk(h_BC)))


def reconstruction(x_BC: Tensor, mean_BC: Tensor, b: float) -> Tensor:
    """-log p(x | z, y) of a Laplace distribution with scale ``b``, per image and up to a constant: [B], in nats."""
    return (x_BC - mean_BC).abs().flatten(1).sum(1) / b


def kl_to_prior(mu_BL: Tensor, logvar_BL: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) per image: [B], in nats (Kingma and Welling, appendix B)."""
    return 0.5 * (mu_BL.square() + logvar_BL.exp() - 1 - logvar_BL).sum(1)


class NegativeELBO(nn.Module):
    """The private network: encoder and decoder together, because their gradients are clipped together.

    ``forward(x_BC, y_B, eps_BL)`` is (reconstruction + β KL) per voxel, shape [B]: dividing by the number of voxels
    keeps gradient norms, hence sensible clipping norms, near 1 whatever the grid.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, b: float, beta: float):
        super().__init__()
        self.encoder, self.decoder, self.b, self.beta = encoder, decoder, b, beta

    def forward(self, x_BC: Tensor, y_B: Tensor, eps_BL: Tensor) -> Tensor:
        mu_BL, logvar_BL = self.encoder(x_BC, y_B)
        z_BL = mu_BL + (0.5 * logvar_BL).exp() * eps_BL
        nats_B = reconstruction(x_BC, self.decoder(z_BL, y_B), self.b) + self.beta * kl_to_prior(mu_BL, logvar_BL)
        return nats_B / x_BC[0].numel()


class VAE(GenerativeModel):
    """Conditional convolutional VAE with a Laplace likelihood.

    Args:
        shape: voxels along two or three axes, each of which can be halved.
        classes: number of public classes, at least 1.
        latent: dimensions of z.
        channels: on the finest grid; doubled at each halving.
        widest: the most channels on any grid.
        b: scale of the Laplace likelihood, in units of x (whose range is 2): smaller is sharper, and KL weighs less.
        beta: weight β of the KL divergence; 1 is the evidence lower bound.
        levels: how often the grid is halved; default: as often as it goes.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        latent: int = 16,
        channels: int = 8,
        widest: int = 32,
        b: float = 0.1,
        beta: float = 1.0,
        levels: int | None = None,
    ):
        super().__init__()
        self.shape, self.classes, self.latent = tuple(shape), classes, latent
        grids = pyramid(self.shape, levels)
        width = widths(channels, widest, grids)
        self.encoder = Encoder(grids, width, classes, latent)
        self.decoder = Decoder(grids, width, classes, latent)
        self.b, self.beta = b, beta

    def objectives(self) -> Sequence[Private | PostProcessing]:
        def aux(n: int, random: torch.Generator) -> tuple[Tensor, ...]:
            return (torch.randn(n, self.latent, generator=random, device=random.device),)

        return [Private("elbo", NegativeELBO(self.encoder, self.decoder, self.b, self.beta), aux)]

    @property
    def generator(self) -> nn.Module:
        return self.decoder

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        z_BL = torch.randn(len(y_B), self.latent, generator=random, device=random.device)
        return self.decoder(z_BL.to(y_B.device), y_B)
