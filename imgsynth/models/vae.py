"""A conditional convolutional variational autoencoder, for training with differential privacy in 2D and 3D.

Kingma and Welling 2014, "Auto-Encoding Variational Bayes" (arXiv:1312.6114), conditional as in Sohn, Lee and Yan 2015,
with the weight β of Higgins et al. 2017. Made for DP-SGD: one loss per image, no layer that couples images, and few
parameters d, because the norm of the noise grows with √d.

Symbols
    x_BC   images [B, 1 + m, *shape] in [-1, 1], m the structures of their masks (0: no masks), 1 inside and -1 outside
    y_B    class indices [B], public
    z_BL   latent vectors [B, latent]                eps_BL reparameterisation noise [B, latent], N(0, 1)
    mu_BL, logvar_BL  of q(z | x, y) = N(mu, exp(logvar));  prior p(z) = N(0, 1)
    p(x | z, y)  Laplace, independent voxel by voxel, with the mean decoder(z, y); so the error is the absolute one,
                 which keeps edges sharper than the squared one and bounds what a voxel adds to a gradient
    p(mask | z, y)  categorical, independent voxel by voxel, over background and structures; so the error of a mask is
                 its cross-entropy, in nats, and that of both is the sum of the two means over voxels
    β      nats of KL are worth β of mean absolute error. Voxels are not independent: an image says hardly more on a
           finer grid. So the error is the mean over voxels, and one β serves every resolution. Nothing is fitted
           to the data outside the privacy plan, no variance either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgsynth.models.base import GenerativeModel, Objective, Private, Query
from imgsynth.models.blocks import double, halve, in_range, one_hot, pyramid, to_image, voxels, widths
from imgsynth.models.prior import CodeMoments, Prior
from imgsynth.models.white_box import LatentMap, Posterior, WhiteBox
from imgsynth.types import Fault, InputError

PRIORS = ("standard", "fitted")


class Encoder(nn.Module):
    """q(z | x, y): x_BC [B, 1 + m, *shape], y_B [B] to mu_BL and logvar_BL, [B, latent] each.

    Starts at the prior: mu = 0, logvar = 0 for every image. Each of H features is scaled by FEATURE_NORM / √H: noise
    in H weights moves mu by its size times the norm of the features, and unscaled it drives z so far from N(0, 1) that
    samples are no images. What images have in common still adds up over the H weights.
    """

    FEATURE_NORM = 8.0

    def __init__(self, grids: list[tuple[int, ...]], channels: int, classes: int, latent: int, structures: int = 0):
        super().__init__()
        dims, halvings, features = len(grids[0]), len(grids) - 1, channels * voxels(grids[-1])
        self.classes = classes
        self.scale = self.FEATURE_NORM / math.sqrt(features)
        ins = [1 + structures] + [channels] * (halvings - 1)
        self.trunk = nn.Sequential(*(halve(dims, i, channels) for i in ins), nn.Flatten())
        self.head = nn.Linear(features + classes, 2 * latent)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x_BC: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        h_BH = torch.cat([self.trunk(x_BC) * self.scale, one_hot(y_B, self.classes)], dim=1)
        mu_BL, logvar_BL = self.head(h_BH).chunk(2, dim=1)
        return mu_BL, logvar_BL


class Decoder(nn.Module):
    """p(x | z, y): z_BL [B, latent], y_B [B] to images [B, 1 + m, *shape] in [-1, 1], means and probabilities.

    The bias of ``stem`` is a coarse picture that all images share, from which z moves away little at first: under noise
    the average anatomy is learnt first, and then how images differ. ``prior``, if any, belongs to the generator.
    """

    def __init__(
        self, grids: list[tuple[int, ...]], width: list[int], classes: int, latent: int, prior: Prior | None = None,
        structures: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.prior = prior
        dims, coarse, up = len(grids[0]), grids[-1], width[::-1]
        self.classes = classes
        self.stem = nn.Linear(latent + classes, up[0] * voxels(coarse))
        nn.init.normal_(self.stem.bias)
        nn.init.normal_(self.stem.weight, std=0.3 / math.sqrt(latent + classes))
        self.unflatten = nn.Unflatten(1, (up[0], *coarse))
        self.trunk = nn.Sequential(*(double(dims, i, o) for i, o in pairwise(up)))
        self.head = to_image(dims, up[-1], 1 + structures)

    def forward(self, z_BL: Tensor, y_B: Tensor) -> Tensor:
        return in_range(self.logits(z_BL, y_B))

    def logits(self, z_BL: Tensor, y_B: Tensor) -> Tensor:
        """[B, 1 + m, *shape], of any size: the image before its tanh, and logits of the structures."""
        h_BC = self.unflatten(self.stem(torch.cat([z_BL, one_hot(y_B, self.classes)], dim=1)))
        return self.head(self.trunk(h_BC))

    def image(self, eps_BL: Tensor, y_B: Tensor) -> Tensor:
        """The image of a draw from N(0, 1), which the prior turns into a code."""
        return self(eps_BL if self.prior is None else self.prior(eps_BL, y_B), y_B)


def reconstruction(x_BC: Tensor, mean_BC: Tensor) -> Tensor:
    """Mean absolute error of each image: [B], in units of x. The Laplace -log p(x | z, y), scaled."""
    return (x_BC - mean_BC).abs().flatten(1).mean(1)


def cross_entropy(x_BM: Tensor, logit_BM: Tensor) -> Tensor:
    """Mean over voxels of a mask's -log p: [B], in nats; 0 where there is no mask. ``x_BM`` [B, m, *] is 1 inside a
    structure and -1 outside, ``logit_BM`` are the structures' logits beside the background's, which is 0.
    """
    if not x_BM.shape[1]:
        return x_BM.new_zeros(len(x_BM))
    inside_BM = (x_BM + 1) / 2
    zero_B1 = torch.zeros_like(logit_BM[:, :1])
    log_p_BC = F.log_softmax(torch.cat([zero_B1, logit_BM], dim=1), dim=1)
    outside_B1 = 1 - inside_BM.sum(1, keepdim=True)
    return -(torch.cat([outside_B1, inside_BM], dim=1) * log_p_BC).sum(1).flatten(1).mean(1)


def kl_to_prior(mu_BL: Tensor, logvar_BL: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) per image: [B], in nats (Kingma and Welling, appendix B)."""
    return 0.5 * (mu_BL.square() + logvar_BL.exp() - 1 - logvar_BL).sum(1)


class NegativeELBO(nn.Module):
    """The private network: encoder and decoder together, because their gradients are clipped together.

    ``forward(x_BC, y_B, eps_BL)`` is reconstruction + β KL of each image, shape [B].
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, beta: float):
        super().__init__()
        self.encoder, self.decoder, self.beta = encoder, decoder, beta

    def forward(self, x_BC: Tensor, y_B: Tensor, eps_BL: Tensor) -> Tensor:
        return self.errors(x_BC, y_B, eps_BL)[1]

    def errors(self, x_BC: Tensor, y_B: Tensor, eps_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction alone, and with β KL: [B] each."""
        return self.rebuilt(x_BC, y_B, eps_BL)[1:]

    def rebuilt(self, x_BC: Tensor, y_B: Tensor, eps_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The images that the decoder makes of these, beside ``errors``."""
        mu_BL, logvar_BL = self.encoder(x_BC, y_B)
        z_BL = mu_BL + (0.5 * logvar_BL).exp() * eps_BL
        logit_BC = self.decoder.logits(z_BL, y_B)
        rebuilt_BC = in_range(logit_BC)
        error_B = reconstruction(x_BC[:, :1], rebuilt_BC[:, :1]) + cross_entropy(x_BC[:, 1:], logit_BC[:, 1:])
        return rebuilt_BC, error_B, error_B + self.beta * kl_to_prior(mu_BL, logvar_BL)


class VAE(GenerativeModel):
    """Conditional convolutional VAE with a Laplace likelihood.

    Args:
        shape: voxels along two or three axes, each of which can be halved.
        classes: number of public classes, at least 1.
        latent: dimensions of z.
        channels: of the decoder on the grid after the first halving; doubled at each further one.
        widest: the most channels of the decoder on any grid.
        encoder_channels: of the encoder, on every grid.
        beta: β; smaller is sharper until samples fall apart, because z of images no longer looks like N(0, 1).
        levels: how often the grid is halved; default: as often as it goes.
        prior: "standard" (z ~ N(0, 1)), or "fitted" (``prior.py``: one private query after training).
        structures: m, of the mask that each image comes with.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        latent: int = 16,
        channels: int = 8,
        widest: int = 32,
        encoder_channels: int = 8,
        beta: float = 0.001,
        levels: int | None = None,
        prior: str = "standard",
        structures: int = 0,
    ):
        super().__init__()
        self.shape, self.classes, self.latent, self.structures = tuple(shape), classes, latent, structures
        grids = pyramid(self.shape, levels)
        width = widths(channels, widest, grids)
        self.encoder = Encoder(grids, encoder_channels, classes, latent, structures)
        if prior not in PRIORS:
            raise InputError(Fault("model.prior", prior, f"one of {', '.join(PRIORS)}", "model.prior=standard"))
        fitted = Prior(classes, latent) if prior == "fitted" else None
        self.decoder = Decoder(grids, width, classes, latent, fitted, structures)
        self.beta = beta
        if prior == "fitted":
            self.moments = CodeMoments(self.encoder, classes, latent)

    def objectives(self) -> Sequence[Objective]:
        elbo = Private("elbo", NegativeELBO(self.encoder, self.decoder, self.beta), self._draw)
        if self.decoder.prior is None:
            return [elbo]
        return [
            elbo,
            Query("moments of codes", self.moments, list(self.moments.w.parameters()), 1.0, "after", self._fit),
        ]

    def _fit(self, noise_std: float) -> None:
        assert self.decoder.prior is not None
        self.decoder.prior.fit(self.moments.w.weight[0], noise_std)

    def _draw(self, n: int, random: torch.Generator) -> tuple[Tensor, ...]:
        """eps_BL for n images."""
        return (torch.randn(n, self.latent, generator=random, device=random.device),)

    def _code(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        """What ``decoder.image`` makes the reconstruction of: the mean code, as a draw of the prior."""
        mu_BL, _ = self.encoder(x_BC, y_B)
        return mu_BL if self.decoder.prior is None else self.decoder.prior.inverse(mu_BL, y_B)

    @property
    def generator(self) -> nn.Module:
        return self.decoder

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        z_BL = torch.randn(len(y_B), self.latent, generator=random, device=random.device)
        return self.decoder.image(z_BL.to(y_B.device), y_B)

    def white_box(self) -> WhiteBox:
        elbo = NegativeELBO(self.encoder, self.decoder, self.beta)
        latent = LatentMap(self.latent, self.decoder.image)
        return WhiteBox(posterior=Posterior(self._draw, elbo.errors, self._code), latent=latent)
