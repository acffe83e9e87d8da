"""A conditional convolutional generative adversarial network, for training with differential privacy in 2D and 3D.

Goodfellow et al. 2014 (arXiv:1406.2661); private as in Bie, Kamath and Zhang 2023, "Private GANs, Revisited"
(arXiv:2302.02936): only the discriminator sees real images and takes noisy steps, it takes n_D of them for each step of
the generator, more as training goes on (``pace.py``), and generated images join its batch. Losses, penalty and the
discriminator, which knows the class by projection, are in ``adversarial.py``.

Symbols
    x_BC   images [B, C, *shape] in [-1, 1], real or generated      y_B       class indices [B], public
    z_BL   latent vectors [B, latent], N(0, 1)                      target_B  1 for real, 0 for generated
    G(z, y) the generator   D(x, y) the discriminator's logit       n_D       private steps per step of the generator
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from imgsynth.models.adversarial import (
    Discriminator,
    Penalised,
    generator_loss,
    known_as_fake,
    loss_faults,
    raise_faults,
)
from imgsynth.models.base import FakeSource, GenerativeModel, Objective, PostProcessing, Private
from imgsynth.models.beginning import MOMENTS, but_for, held_to_moments, moments_for, warm_up_faults
from imgsynth.models.blocks import double, in_range, one_hot, pyramid, to_image, voxels, widths
from imgsynth.models.pace import Pace, pace_faults
from imgsynth.models.white_box import LatentMap, WhiteBox


class Generator(nn.Module):
    """G: z_BL [B, latent], y_B [B] to images [B, 1 + structures, *shape] in [-1, 1]."""

    def __init__(self, grids: list[tuple[int, ...]], width: list[int], classes: int, latent: int, structures: int = 0):
        super().__init__()
        dims, coarse, up = len(grids[0]), grids[-1], width[::-1]
        self.classes = classes
        self.stem = nn.Linear(latent + classes, up[0] * voxels(coarse))
        self.unflatten = nn.Unflatten(1, (up[0], *coarse))
        self.trunk = nn.Sequential(*(double(dims, i, o) for i, o in pairwise(up)))
        self.head = to_image(dims, up[-1], 1 + structures)

    def forward(self, z_BL: Tensor, y_B: Tensor) -> Tensor:
        h_BC = self.unflatten(self.stem(torch.cat([z_BL, one_hot(y_B, self.classes)], dim=1)))
        return in_range(self.head(self.trunk(h_BC)))


class GAN(GenerativeModel):
    """Conditional convolutional GAN with a private discriminator.

    Args:
        shape: voxels along two or three axes, each of which can be halved.
        classes: number of public classes, at least 1.
        latent: dimensions of z.
        channels: of both networks on the grid after the first halving; doubled at each further one.
        widest: the most channels on any grid.
        every: n_D, the private steps of D for each step of G; more under noise, 1 without it; the first, if it adapts.
        adaptive: let n_D walk up 1, 2, 5, 10, … as D's accuracy on fakes falls (``pace.py``).
        patience: steps of G on each n_D before the next; the paper's 200 are for runs of 100,000 steps.
        loss: "non_saturating", "hinge" or "wasserstein".
        critic: "plain"; "lipschitz", of layers that are never steeper than 1; or "penalty", on slopes other than 1.
        penalty: λ of that penalty.
        levels: how often the grid is halved; default: as often as it goes.
        structures: of the mask that each image comes with.
        warm_up: [moments]: G begins on a noised mean embedding, and is held to it (``beginning.py``).
    """

    public_words = MOMENTS

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        latent: int = 32,
        channels: int = 8,
        widest: int = 64,
        every: int = 2,
        adaptive: bool = False,
        patience: int = 50,
        loss: str = "non_saturating",
        critic: str = "plain",
        penalty: float = 10.0,
        levels: int | None = None,
        structures: int = 0,
        warm_up: Sequence[str] = (),
    ):
        super().__init__()
        faults = [*loss_faults(loss, critic), *pace_faults(every, adaptive, patience, loss), *warm_up_faults(warm_up)]
        raise_faults(faults)
        self.shape, self.classes, self.latent, self.structures = tuple(shape), classes, latent, structures
        self.loss, self.critic, self.penalty = loss, critic, penalty
        grids = pyramid(self.shape, levels)
        width = widths(channels, widest, grids)
        self.G = Generator(grids, width, classes, latent, structures)
        self.D = Discriminator(grids, width, classes, loss, lipschitz=critic == "lipschitz", structures=structures)
        self.every = Pace(every, patience) if adaptive else every
        self.moments = moments_for(warm_up, self.shape, classes, structures)

    def objectives(self) -> Sequence[Objective]:
        def real(n: int, random: torch.Generator) -> tuple[Tensor, ...]:
            return (torch.ones(n, device=random.device),)

        def generated(y_B: Tensor, z_BL: Tensor) -> tuple[Tensor, ...]:
            return self.G(z_BL, y_B), y_B, torch.zeros_like(z_BL[:, 0])

        def judged(n: int, random: torch.Generator) -> Tensor:
            y_B, z_BL = self._draw(n, random)
            return self.D.logits(self.G(z_BL, y_B), y_B)

        def fool(n: int, random: torch.Generator) -> Tensor:
            return generator_loss(judged(n, random), self.loss).mean()

        @torch.no_grad()
        def accuracy(n: int, random: torch.Generator) -> Tensor:
            return known_as_fake(judged(n, random))

        @torch.no_grad()
        def counterparts(n: int, random: torch.Generator) -> tuple[Tensor, ...]:
            # G treats images one by one (GroupNorm), so that no patient's fakes follow how many were drawn.
            y_B, z_BL = self._draw(n, random)
            return self.G(z_BL, y_B), y_B, torch.rand(n, generator=random, device=random.device)

        if self.critic == "penalty":
            private = Private("discriminator", Penalised(self.D, self.penalty), aux=counterparts)
        else:
            private = Private("discriminator", self.D, aux=real, fakes=FakeSource(self._draw, generated))
        moments = held_to_moments(self.moments, self.G, self._made)
        return [*moments, private, PostProcessing("generator", self.G, loss=fool, every=self.every, accuracy=accuracy)]

    def _draw(self, n: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Public, uniform labels y_B and latent vectors z_BL for n images."""
        y_B = torch.randint(self.classes, (n,), generator=random, device=random.device)
        z_BL = torch.randn(n, self.latent, generator=random, device=random.device)
        return y_B, z_BL

    def begin_with(self, state: Mapping[str, Tensor]) -> None:
        """Both networks. What the public run's images answered stays behind, and its pace, which counts its steps."""
        self.load_state_dict(but_for(self, state, ("every.", "moments.")))

    @property
    def generator(self) -> nn.Module:
        return self.G

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        return self._made(y_B, random)

    def _made(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        z_BL = torch.randn(len(y_B), self.latent, generator=random, device=random.device)
        x_BC: Tensor = self.G(z_BL.to(y_B.device), y_B)
        return x_BC

    def white_box(self) -> WhiteBox:
        released = self.moments.score if self.moments else None
        return WhiteBox(discriminator=self.D.logits, latent=LatentMap(self.latent, self.G), released=released)
