"""Mask to image: pairs of an image and its segmentation mask, the image made from the mask, in 2D and 3D.

Isola et al. 2017, "Image-to-image translation with conditional adversarial networks" (arXiv:1611.07004): a U-Net paints
the image onto the mask, and a critic of patches judges the two together; for synthetic tumours Shin et al. 2018
(arXiv:1807.10225). Two things are added to theirs. Masks too are made, by a decoder with codes of its own, so that a
sample needs no real one. And what the mask does not say of the image has a code z, which an encoder gives to a real
pair (Zhu et al. 2017, arXiv:1711.11586): held to one image for each mask, a painter would do without z.

What sees patients is one module of four networks. Each image has one loss, each patient one gradient over all four,
clipped once: one ε. The painter shall fool the critic on real masks, which is in that same loss; that it shall on
generated masks takes no patient and is post-processing.

Symbols
    x_B1    images [B, 1, *shape] in [-1, 1]          mask_BM  masks [B, m, *shape], 1 inside a structure, -1 outside
    y_B     class indices [B], public                 u_BU, z_BL  codes of mask and of image, N(0, 1)
    E(x, mask, y)  encoder, mu and logvar of (u, z)   M(u, y)  logits of a mask
    G(mask, z, y)  painter                            D(mask, x, y)  critic: a logit for each patch
    β, γ, λ  weights: of the KL; of the critic's loss; of the painter's wish to fool it, on real masks
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.layers import Conv
from torch import Tensor, nn

from imgsynth.models.adversarial import discriminator_loss, generator_loss, raise_faults
from imgsynth.models.base import GenerativeModel, MaskToImage, PostProcessing, Private
from imgsynth.models.blocks import double, halve, one_hot, pyramid, to_image, voxels, widths
from imgsynth.models.hard_masks import hard_mask, mask_probabilities
from imgsynth.models.pace import pace_faults
from imgsynth.models.vae import Decoder, Encoder, cross_entropy, kl_to_prior, reconstruction
from imgsynth.models.white_box import LatentMap, Posterior, WhiteBox
from imgsynth.types import Fault

PATCH_HALVINGS = 2  # of the critic: a patch is then 10 voxels wide (kernel 4, stride 2, twice)

BACKGROUND = -3.0  # a structure's first logit beside the background's, 0


class Painter(nn.Module):
    """G: mask_BM [B, m, *shape], z_BL [B, latent], y_B [B] to images [B, 1, *shape] in [-1, 1].

    A U-Net: what is found on the way down is beside what is made on the way up, and the mask itself beside the last
    step. z enters at the bottom, as in the VAE's decoder.
    """

    def __init__(self, grids: list[tuple[int, ...]], width: list[int], classes: int, latent: int, structures: int):
        super().__init__()
        dims, coarse, up = len(grids[0]), grids[-1], width[::-1]
        self.classes = classes
        self.down = nn.ModuleList(halve(dims, i, o) for i, o in pairwise([structures, *width]))
        self.stem = nn.Linear(latent + classes, up[0] * voxels(coarse))
        self.unflatten = nn.Unflatten(1, (up[0], *coarse))
        self.up = nn.ModuleList(double(dims, 2 * i, o) for i, o in pairwise(up))
        self.head = to_image(dims, 2 * up[-1], 1)
        self.edges = Conv["conv", dims](structures, 1, kernel_size=3, padding=1)

    def forward(self, mask_BM: Tensor, z_BL: Tensor, y_B: Tensor) -> Tensor:
        found = [mask_BM]
        for step in self.down:
            found.append(step(found[-1]))
        h_BC = self.unflatten(self.stem(torch.cat([z_BL, one_hot(y_B, self.classes)], dim=1)))
        for step, beside_BC in zip(self.up, found[:1:-1], strict=True):
            h_BC = step(torch.cat([h_BC, beside_BC], dim=1))
        return torch.tanh(self.head(torch.cat([h_BC, found[1]], dim=1)) + self.edges(mask_BM))


class PatchCritic(nn.Module):
    """D: pairs [B, 1 + m, *shape], y_B [B] to logits [B, patches], those of real pairs high.

    The class is known by projection, as in ``adversarial.Discriminator``: a logit for any patch and one for a patch of
    this class.
    """

    def __init__(self, grids: list[tuple[int, ...]], channels: int, classes: int, structures: int):
        super().__init__()
        dims, halvings = len(grids[0]), min(PATCH_HALVINGS, len(grids) - 1)
        ins = [1 + structures, *(channels * 2**level for level in range(halvings))]
        self.classes = classes
        self.trunk = nn.Sequential(*(halve(dims, i, o) for i, o in pairwise(ins)))
        self.head = Conv["conv", dims](ins[-1], 1 + classes, kernel_size=1)

    def forward(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        h_BYS = self.head(self.trunk(x_BC)).flatten(2)
        return h_BYS[:, 0] + (h_BYS[:, 1:] * one_hot(y_B, self.classes)[:, :, None]).sum(1)


def opposed(x: Tensor, strength: float) -> Tensor:
    """x, through which a gradient goes back times -``strength`` (Ganin and Lempitsky 2015, arXiv:1409.7495)."""
    return (1 + strength) * x.detach() - strength * x


class Pairs(nn.Module):
    """What sampling needs: masks from codes u [B, ``mask_latent``], and images from masks and codes z."""

    def __init__(self, masks: Decoder, painter: Painter, mask_latent: int):
        super().__init__()
        self.masks, self.painter, self.mask_latent = masks, painter, mask_latent

    def split(self, code_BL: Tensor) -> tuple[Tensor, Tensor]:
        """u_BU and z_BL of (u, z)."""
        return code_BL[:, : self.mask_latent], code_BL[:, self.mask_latent :]

    def mask(self, u_BU: Tensor, y_B: Tensor) -> Tensor:
        """[B, m, *]: 1 inside, -1 outside. A gradient goes through to the probabilities behind it."""
        soft_BM = 2 * mask_probabilities(self.masks.logits(u_BU, y_B)) - 1
        hard_BM = hard_mask((soft_BM.detach() + 1) / 2)
        return hard_BM + (soft_BM - soft_BM.detach())

    def forward(self, code_BL: Tensor, y_B: Tensor) -> Tensor:
        """Pairs [B, 1 + m, *]."""
        u_BU, z_BL = self.split(code_BL)
        mask_BM = self.mask(u_BU, y_B)
        return torch.cat([self.painter(mask_BM, z_BL, y_B), mask_BM], dim=1)


class Networks(nn.Module):
    """The private networks. ``forward(x_BC, y_B, eps_BL, z_BL)`` are the losses [B] of real pairs.

    The critic's two fakes lie on the real mask: the image painted with the pair's own code, and one with a code drawn
    from N(0, 1). Through ``opposed``, one term trains the critic to tell them and the painter to be taken for real.
    """

    def __init__(self, encoder: Encoder, pairs: Pairs, critic: PatchCritic, beta: float, gamma: float, fool: float):
        super().__init__()
        self.encoder, self.pairs, self.critic = encoder, pairs, critic
        self.beta, self.gamma, self.fool = beta, gamma, fool

    def forward(self, x_BC: Tensor, y_B: Tensor, eps_BL: Tensor, z_BL: Tensor) -> Tensor:
        painted_B1, _, elbo_B = self._encoded(x_BC, y_B, eps_BL)
        made_B1 = self.pairs.painter(x_BC[:, 1:], z_BL, y_B)
        return elbo_B + self.gamma * self._judged(x_BC, y_B, (painted_B1, made_B1))

    def errors(self, x_BC: Tensor, y_B: Tensor, eps_BL: Tensor) -> tuple[Tensor, Tensor]:
        """[B] each: the errors of image (mean absolute) and mask (nats) together, and those with β KL."""
        return self._encoded(x_BC, y_B, eps_BL)[1:]

    def _encoded(self, x_BC: Tensor, y_B: Tensor, eps_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The image painted onto the pair's own mask with its own code, beside ``errors``."""
        mu_BL, logvar_BL = self.encoder(x_BC, y_B)
        u_BU, own_BL = self.pairs.split(mu_BL + (0.5 * logvar_BL).exp() * eps_BL)
        painted_B1 = self.pairs.painter(x_BC[:, 1:], own_BL, y_B)
        wrong_B = cross_entropy(x_BC[:, 1:], self.pairs.masks.logits(u_BU, y_B))
        error_B = reconstruction(x_BC[:, :1], painted_B1) + wrong_B
        return painted_B1, error_B, error_B + self.beta * kl_to_prior(mu_BL, logvar_BL)

    def _judged(self, x_BC: Tensor, y_B: Tensor, painted: Sequence[Tensor]) -> Tensor:
        """The critic's loss on the real pair, and the mean of those on fakes: [B], means over patches."""
        real_B1 = torch.ones_like(x_BC.flatten(1)[:, :1])
        loss_B = discriminator_loss(self.critic(x_BC, y_B), real_B1).mean(1)
        for image_B1 in painted:
            fake_BC = torch.cat([opposed(image_B1, self.fool / self.gamma), x_BC[:, 1:]], dim=1)
            loss_B = loss_B + discriminator_loss(self.critic(fake_BC, y_B), 0 * real_B1).mean(1) / len(painted)
        return loss_B


class Pix2Pix(GenerativeModel, MaskToImage):
    """Masks from noise, and images painted onto them.

    Args:
        shape: voxels along two or three axes, each of which can be halved.
        classes: number of public classes, at least 1.
        structures: m, of the masks; at least 1.
        latent: dimensions of z.
        mask_latent: dimensions of u.
        channels: of painter and mask decoder on the grid after the first halving; doubled at each further one.
        widest: the most channels on any grid.
        encoder_channels: of the encoder on every grid, and of the critic's first.
        beta: β.
        gamma: γ.
        fool: λ; the error of the image counts 1.
        every: private steps for each adversarial step of the painter on generated masks.
        levels: how often the grid is halved; default: as often as it goes.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        structures: int = 0,
        latent: int = 8,
        mask_latent: int = 8,
        channels: int = 8,
        widest: int = 32,
        encoder_channels: int = 8,
        beta: float = 0.001,
        gamma: float = 0.3,
        fool: float = 0.01,
        every: int = 1,
        levels: int | None = None,
    ):
        super().__init__()
        raise_faults([*pace_faults(every), *_faults(structures, gamma)])
        self.shape, self.classes, self.structures = tuple(shape), classes, structures
        self.latent, self.mask_latent, self.every = latent, mask_latent, every
        grids = pyramid(self.shape, levels)
        width = widths(channels, widest, grids)
        self.networks = Networks(
            Encoder(grids, encoder_channels, classes, mask_latent + latent, structures),
            Pairs(
                # One channel for each structure, of which ``Pairs`` takes the logits.
                Decoder(grids, width, classes, mask_latent, structures=structures - 1),
                Painter(grids, width, classes, latent, structures),
                mask_latent,
            ),
            PatchCritic(grids, encoder_channels, classes, structures),
            beta, gamma, fool,
        )  # fmt: skip
        # What is not learned yet is background: a transposed convolution reaches the corners of the grid last.
        nn.init.constant_(self.pairs.masks.head.get_parameter("0.bias"), BACKGROUND)

    def objectives(self) -> Sequence[Private | PostProcessing]:
        def draw(n: int, random: torch.Generator) -> tuple[Tensor, ...]:
            return *self._draw(n, random), self._noise(n, self.latent, random)

        def fooled(n: int, random: torch.Generator) -> Tensor:
            y_B = torch.randint(self.classes, (n,), generator=random, device=random.device)
            with torch.no_grad():
                mask_BM = self.masks(y_B, random)
            x_B1 = self.pairs.painter(mask_BM, self._noise(n, self.latent, random), y_B)
            return generator_loss(self.networks.critic(torch.cat([x_B1, mask_BM], dim=1), y_B)).mean()

        return [
            Private("pix2pix", self.networks, aux=draw),
            PostProcessing("painter", self.pairs.painter, loss=fooled, every=self.every),
        ]

    def _noise(self, n: int, size: int, random: torch.Generator) -> Tensor:
        return torch.randn(n, size, generator=random, device=random.device)

    def _draw(self, n: int, random: torch.Generator) -> tuple[Tensor, ...]:
        """eps_BL for n images."""
        return (self._noise(n, self.mask_latent + self.latent, random),)

    @property
    def pairs(self) -> Pairs:
        return self.networks.pairs

    @property
    def generator(self) -> nn.Module:
        return self.pairs

    @torch.no_grad()
    def masks(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        return self.pairs.mask(self._noise(len(y_B), self.mask_latent, random).to(y_B.device), y_B)

    @torch.no_grad()
    def paint(self, mask_BM: Tensor, y_B: Tensor, random: torch.Generator) -> Tensor:
        z_BL = self._noise(len(y_B), self.latent, random).to(y_B.device)
        return self.pairs.painter(mask_BM, z_BL, y_B)

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        mask_BM = self.masks(y_B, random)
        return torch.cat([self.paint(mask_BM, y_B, random), mask_BM], dim=1)

    def white_box(self) -> WhiteBox:
        return WhiteBox(
            discriminator=lambda x_BC, y_B: self.networks.critic(x_BC, y_B).mean(1),
            posterior=Posterior(self._draw, self.networks.errors),
            latent=LatentMap(self.mask_latent + self.latent, self.pairs, self._codes),
        )

    def _codes(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        """u and z [B, U + L] in the order in which ``sample`` draws them."""
        drawn = [self._noise(len(y_B), size, random) for size in (self.mask_latent, self.latent)]
        return torch.cat(drawn, dim=1).to(y_B.device)


def _faults(structures: int, gamma: float) -> list[Fault]:
    faults = []
    if structures < 1:
        faults.append(
            Fault("data.masks", "no structures, with a model that paints images onto masks",
                  "the structures of the masks beside the images", "data.masks=[lesion]; or model=vae")
        )  # fmt: skip
    if gamma <= 0:
        faults.append(Fault("model.gamma", f"{gamma:g}", "above 0: the critic must learn", "model.gamma=0.3"))
    return faults
