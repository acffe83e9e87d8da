"""A GAN over the codes that patients' images have under a public generator, in 2D and 3D.

Chen, Cheung, Xiong and Fong 2022, "Private GANs by model inversion" (DPGAN-MI, arXiv:2201.03139): images are mapped to
the latent space of a generator of public images, and the private GAN learns the distribution of these few numbers, not
of voxels. Its networks are small, and so is the noise. Only what the public generator can make can come out.

Unlike the paper: an image's code is what the public generator's own encoder says (a VAE's mean code), where theirs
searches for it by gradient descent. Either way it follows that image alone and public weights, so that a patient's
gradient is clipped as ever. An image and its counterpart, a generated code drawn for it alone, are one unit.

GANs of so few numbers circle around the truth instead of settling. So the critic sees every code, real or generated,
with N(0, BLUR²) added: two distributions are equal where they are so after blurring (Sønderby et al. 2017, "Amortised
MAP Inference for Image Super-resolution", arXiv:1610.04490, instance noise).

Symbols
    x_BC   images [B, C, *shape] in [-1, 1]          y_B   class indices [B], public
    c_BL   codes [B, L], about N(0, 1)               z_BL  what the code generator begins with, N(0, 1)
    G(z, y) codes      D(c, y) the critic's logit     n_D  private steps per step of G
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgsynth.models.adversarial import discriminator_loss, generator_loss, known_as_fake, raise_faults
from imgsynth.models.base import GenerativeModel, PostProcessing, Private
from imgsynth.models.blocks import one_hot
from imgsynth.models.pace import pace_faults
from imgsynth.models.public_source import encoder, latent_map, public_generator
from imgsynth.models.white_box import LatentMap, WhiteBox

BLUR = 0.3  # in units of the codes' prior


class CodeGenerator(nn.Module):
    """G: z_BL and y_B to codes c_BL, beside the public network that makes images of them: all that sampling needs.

    It starts as c = z, the prior for which the public generator was trained; what it learns is added to that.
    """

    def __init__(self, network: nn.Module, latent: int, classes: int, hidden: int):
        super().__init__()
        self.network, self.classes = network, classes
        self.inner = nn.Linear(latent + classes, hidden)
        self.middle = nn.Linear(hidden, hidden)
        self.outer = nn.Linear(hidden, latent)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, z_BL: Tensor, y_B: Tensor) -> Tensor:
        h_BH = F.silu(self.inner(torch.cat([z_BL, one_hot(y_B, self.classes)], dim=1)))
        return z_BL + self.outer(F.silu(self.middle(h_BH)))


class Critic(nn.Module):
    """The private network. ``logits(x_BC, y_B)`` of images and ``of_codes(c_BL, y_B)`` are [B].

    ``forward(x_BC, y_B, blur_BL, made_BL, made_y_B)`` are the losses [B] of images, their codes moved by ``blur_BL``,
    beside one generated and blurred code each.
    """

    def __init__(self, source: GenerativeModel, latent: int, classes: int, hidden: int):
        super().__init__()
        self.source, self.classes = source, classes
        self.trunk = nn.Sequential(
            nn.Linear(latent, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2)
        )
        self.head = nn.Linear(hidden, 1 + classes)

    def code(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        """The codes [B, L] of images, by the public encoder."""
        return encoder(self.source)(x_BC, y_B)

    def of_codes(self, c_BL: Tensor, y_B: Tensor) -> Tensor:
        h_BY = self.head(self.trunk(c_BL))
        return h_BY[:, 0] + (h_BY[:, 1:] * one_hot(y_B, self.classes)).sum(1)

    def logits(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        return self.of_codes(self.code(x_BC, y_B), y_B)

    def forward(self, x_BC: Tensor, y_B: Tensor, blur_BL: Tensor, made_BL: Tensor, made_y_B: Tensor) -> Tensor:
        real_B = self.of_codes(self.code(x_BC, y_B) + blur_BL, y_B)
        made_B = self.of_codes(made_BL, made_y_B)
        return discriminator_loss(real_B, torch.ones_like(real_B)) + discriminator_loss(
            made_B, torch.zeros_like(made_B)
        )


class CodeGAN(GenerativeModel):
    """A GAN with a private critic, over codes of a public generator.

    Args:
        shape: voxels along two or three axes.
        classes: number of public classes, at least 1.
        source: the public generator, {_target_: …, hyperparameters}: a model with an encoder (VAE, VAEGAN). Its weights
            are those of the public run that ``init.run`` names.
        hidden: width of both networks.
        every: n_D.
        structures: of the mask that each image comes with.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        source: Mapping[str, Any],
        hidden: int = 64,
        every: int = 2,
        structures: int = 0,
    ):
        super().__init__()
        raise_faults(pace_faults(every))
        self.shape, self.classes, self.structures, self.every = tuple(shape), classes, structures, every
        self.source = public_generator(source, self.shape, classes, structures)
        latent = latent_map(self.source).size
        self.critic = Critic(self.source, latent, classes, hidden)
        self.G = CodeGenerator(self.source.generator, latent, classes, hidden)
        encoder(self.source)

    def objectives(self) -> Sequence[Private | PostProcessing]:
        def blur(like_BL: Tensor, random: torch.Generator) -> Tensor:
            drawn_BL = torch.randn(like_BL.shape, generator=random, device=random.device)
            return BLUR * drawn_BL.to(like_BL.device)

        @torch.no_grad()
        def counterparts(n: int, random: torch.Generator) -> tuple[Tensor, ...]:
            y_B, z_BL = self._draw(n, random)
            made_BL = self.G(z_BL, y_B)
            return blur(made_BL, random), made_BL + blur(made_BL, random), y_B

        def judged(n: int, random: torch.Generator) -> Tensor:
            y_B, z_BL = self._draw(n, random)
            made_BL = self.G(z_BL, y_B)
            return self.critic.of_codes(made_BL + blur(made_BL, random), y_B)

        def fool(n: int, random: torch.Generator) -> Tensor:
            return generator_loss(judged(n, random)).mean()

        @torch.no_grad()
        def accuracy(n: int, random: torch.Generator) -> Tensor:
            return known_as_fake(judged(n, random))

        return [
            Private("critic", self.critic, aux=counterparts),
            PostProcessing("generator of codes", self.G, loss=fool, every=self.every, accuracy=accuracy),
        ]

    def _draw(self, n: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Public, uniform labels y_B and z_BL for n codes."""
        y_B = torch.randint(self.classes, (n,), generator=random, device=random.device)
        return y_B, torch.randn(n, latent_map(self.source).size, generator=random, device=random.device)

    @property
    def public_part(self) -> GenerativeModel:
        return self.source

    @property
    def generator(self) -> nn.Module:
        return self.G

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        z_BL = torch.randn(len(y_B), latent_map(self.source).size, generator=random, device=random.device)
        return self._image(z_BL.to(y_B.device), y_B)

    def _image(self, z_BL: Tensor, y_B: Tensor) -> Tensor:
        return latent_map(self.source).image(self.G(z_BL, y_B), y_B)

    def white_box(self) -> WhiteBox:
        return WhiteBox(discriminator=self.critic.logits, latent=LatentMap(latent_map(self.source).size, self._image))
