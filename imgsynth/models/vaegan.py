"""A VAE whose decoder a discriminator judges, for training with differential privacy in 2D and 3D.

Larsen, Sønderby, Larochelle and Winther 2016, "Autoencoding beyond pixels using a learned similarity metric"
(arXiv:1512.09300): reconstructions and samples are the discriminator's fakes, and the decoder is its generator. Here
the error stays that of voxels, as theirs would run the private gradient of the encoder through the discriminator.

What sees patients is one module: the encoder and the decoder by the negative ELBO, the discriminator by its opinion of
the image against two fakes. Each image has one loss, each patient one gradient over all three, clipped once: one ε.
That a decoder should please the discriminator takes no image, so it is post-processing, on samples, without noise.

Symbols, beside those of ``vae.py`` and ``gan.py``
    z_BL   latent vectors [B, latent], N(0, 1), of samples        made_y_B  their class indices [B], public
    γ      the weight of the discriminator's loss in an image's. It trains other weights than the rest, so that it only
           says how a patient's one clipped gradient is shared out between them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from imgsynth.models.adversarial import Discriminator, generator_loss, raise_faults
from imgsynth.models.base import GenerativeModel, Objective, PostProcessing, Private
from imgsynth.models.beginning import MOMENTS, but_for, held_to_moments, moments_for, warm_up_faults
from imgsynth.models.blocks import pyramid, widths
from imgsynth.models.pace import pace_faults
from imgsynth.models.vae import Decoder, Encoder, NegativeELBO
from imgsynth.models.white_box import LatentMap, Posterior, WhiteBox


class Networks(nn.Module):
    """The private networks. ``forward(x_BC, y_B, eps_BL, z_BL, made_y_B)`` are the losses [B].

    Fakes are cut off from the decoder (``detach``): the discriminator's loss, which knows the real image, trains the
    discriminator alone, and the ELBO, in which no discriminator is, the encoder and the decoder.
    """

    def __init__(self, elbo: NegativeELBO, discriminator: Discriminator, gamma: float):
        super().__init__()
        self.elbo, self.discriminator, self.gamma = elbo, discriminator, gamma

    def forward(self, x_BC: Tensor, y_B: Tensor, eps_BL: Tensor, z_BL: Tensor, made_y_B: Tensor) -> Tensor:
        rebuilt_BC, _, elbo_B = self.elbo.rebuilt(x_BC, y_B, eps_BL)
        made_BC = self.elbo.decoder(z_BL, made_y_B)
        return elbo_B + self.gamma * self.judged(x_BC, y_B, rebuilt_BC.detach(), made_BC.detach(), made_y_B)

    def judged(self, x_BC: Tensor, y_B: Tensor, rebuilt_BC: Tensor, made_BC: Tensor, made_y_B: Tensor) -> Tensor:
        """The discriminator's loss on an image, and the mean of those on two fakes: [B]."""
        d, real_B = self.discriminator, torch.ones_like(x_BC.flatten(1)[:, 0])
        fake_B = d(rebuilt_BC, y_B, 0 * real_B) + d(made_BC, made_y_B, 0 * real_B)
        return d(x_BC, y_B, real_B) + 0.5 * fake_B


class VAEGAN(GenerativeModel):
    """Conditional convolutional VAE with a discriminator.

    Args:
        shape: voxels along two or three axes, each of which can be halved.
        classes: number of public classes, at least 1.
        latent: dimensions of z.
        channels: of the decoder on the grid after the first halving; doubled at each further one.
        widest: the most channels of the decoder on any grid.
        encoder_channels: of encoder and discriminator, on every grid.
        beta: β of the ELBO.
        gamma: γ, of the discriminator's loss.
        every: private steps for each adversarial step of the decoder.
        levels: how often the grid is halved; default: as often as it goes.
        structures: of the mask that each image comes with.
        warm_up: [moments]: the decoder begins on a noised mean embedding, and is held to it (``beginning.py``).
    """

    public_words = MOMENTS

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        latent: int = 16,
        channels: int = 8,
        widest: int = 32,
        encoder_channels: int = 8,
        beta: float = 0.001,
        gamma: float = 0.3,
        every: int = 1,
        levels: int | None = None,
        structures: int = 0,
        warm_up: Sequence[str] = (),
    ):
        super().__init__()
        raise_faults([*pace_faults(every), *warm_up_faults(warm_up)])
        self.shape, self.classes, self.latent, self.every = tuple(shape), classes, latent, every
        self.structures = structures
        grids = pyramid(self.shape, levels)
        width, judge = widths(channels, widest, grids), [encoder_channels] * (len(grids) - 1)
        elbo = NegativeELBO(
            Encoder(grids, encoder_channels, classes, latent, structures),
            Decoder(grids, width, classes, latent, structures=structures),
            beta,
        )
        self.networks = Networks(elbo, Discriminator(grids, judge, classes, structures=structures), gamma)
        self.moments = moments_for(warm_up, self.shape, classes, structures)

    def objectives(self) -> Sequence[Objective]:
        def draw(n: int, random: torch.Generator) -> tuple[Tensor, ...]:
            (eps_BL,) = self._draw(n, random)
            return eps_BL, *self._sample(n, random)

        def fool(n: int, random: torch.Generator) -> Tensor:
            z_BL, y_B = self._sample(n, random)
            return generator_loss(self.networks.discriminator.logits(self.decoder(z_BL, y_B), y_B)).mean()

        moments = held_to_moments(self.moments, self.decoder, self._made)
        return [
            *moments,
            Private("vaegan", self.networks, aux=draw),
            PostProcessing("decoder", self.decoder, loss=fool, every=self.every),
        ]

    def _draw(self, n: int, random: torch.Generator) -> tuple[Tensor, ...]:
        """eps_BL for n images."""
        return (torch.randn(n, self.latent, generator=random, device=random.device),)

    def _sample(self, n: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latent vectors and public, uniform labels of n samples."""
        z_BL = torch.randn(n, self.latent, generator=random, device=random.device)
        return z_BL, torch.randint(self.classes, (n,), generator=random, device=random.device)

    @property
    def decoder(self) -> Decoder:
        return self.networks.elbo.decoder

    @property
    def generator(self) -> nn.Module:
        return self.decoder

    def begin_with(self, state: Mapping[str, Tensor]) -> None:
        self.load_state_dict(but_for(self, state, ("moments.",)))

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        return self._made(y_B, random)

    def _made(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        z_BL = torch.randn(len(y_B), self.latent, generator=random, device=random.device)
        x_BC: Tensor = self.decoder(z_BL.to(y_B.device), y_B)
        return x_BC

    def white_box(self) -> WhiteBox:
        return WhiteBox(
            discriminator=self.networks.discriminator.logits,
            posterior=Posterior(
                self._draw, self.networks.elbo.errors, lambda x_BC, y_B: self.networks.elbo.encoder(x_BC, y_B)[0]
            ),
            latent=LatentMap(self.latent, self.decoder),
            released=self.moments.score if self.moments else None,
        )
