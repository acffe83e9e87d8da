"""Diffusion over the codes of a public autoencoder, for volumes that are too large to be denoised voxel by voxel.

Rombach et al. 2022 (arXiv:2112.10752); private as in Lyu et al. 2024, "Differentially Private Latent Diffusion Models"
(arXiv:2305.15759), where the autoencoder saw public images alone. Here it is a VAE of this project: the run that
``init.run`` names, whose encoder and decoder stay as they are. What is trained on patients is a small network of some
ten thousand weights, whatever the size of a volume.

Symbols: those of ``denoising.py``, with
    z_BL     codes [B, L] of the VAE, z ~ q(z | x, y); near N(0, 1), as it was trained to make them, so that σ_data = 1
Only what the public decoder can make comes out. Patients' codes need not look like N(0, 1): that is what is learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgsynth.models.base import GenerativeModel, Objective, Private
from imgsynth.models.blocks import one_hot
from imgsynth.models.denoising import Denoising, Sampling
from imgsynth.models.edm import Noise
from imgsynth.models.public_source import public_generator
from imgsynth.models.unet import WAVES, waves
from imgsynth.models.vae import VAE, Decoder, Encoder
from imgsynth.models.white_box import Posterior, WhiteBox
from imgsynth.types import Fault, InputError

# Codes have no neighbours to be guessed from, as voxels have: less noise hides them.
NOISE = Noise(data=1.0, mean=-0.4, std=1.2, smallest=0.01, largest=20.0)


class CodeNetwork(nn.Module):
    """F: z_BL [B, L], noise_B [B], y_B [B], keep_B [B] to [B, L], of residual layers. Starts at 0 for every input."""

    def __init__(self, latent: int, classes: int, width: int, depth: int):
        super().__init__()
        self.classes = classes
        self.stem = nn.Linear(latent, width)
        self.told = nn.Linear(2 * WAVES + classes, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, latent)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, z_BL: Tensor, noise_B: Tensor, y_B: Tensor, keep_B: Tensor) -> Tensor:
        known_BY = one_hot(y_B, self.classes) * keep_B[:, None]
        told_BH = self.told(torch.cat([waves(noise_B), known_BY], dim=1))
        h_BH = self.stem(z_BL)
        for layer in self.layers:
            h_BH = h_BH + layer(h_BH + told_BH)
        out_BL: Tensor = self.head(F.silu(h_BH + told_BH))
        return out_BL


class CodeDenoising(nn.Module):
    """The private part: ``Denoising`` of the code of each image. The public encoder in it is not trained.

    ``forward(x_BC, y_B, code_eps_BL, sigma_B, eps_BL, keep_B)`` [B]; ``code_eps_BL`` draws the code from q(z | x, y).
    """

    def __init__(self, encoder: Encoder, denoising: Denoising):
        super().__init__()
        self.encoder, self.denoising = encoder, denoising

    def forward(self, x_BC: Tensor, y_B: Tensor, code_eps_BL: Tensor, *noise_B: Tensor) -> Tensor:
        return self.errors(x_BC, y_B, code_eps_BL, *noise_B)[1]

    def errors(self, x_BC: Tensor, y_B: Tensor, code_eps_BL: Tensor, *noise_B: Tensor) -> tuple[Tensor, Tensor]:
        mu_BL, logvar_BL = self.encoder(x_BC, y_B)
        z_BL = mu_BL + (0.5 * logvar_BL).exp() * code_eps_BL
        errors: tuple[Tensor, Tensor] = self.denoising.errors(z_BL, y_B, *noise_B)
        return errors


class FromCodes(nn.Module):
    """All that sampling needs: the denoiser of codes and the public decoder."""

    def __init__(self, denoising: Denoising, decoder: Decoder):
        super().__init__()
        self.denoising, self.decoder = denoising, decoder


class LatentDiffusion(GenerativeModel):
    """Diffusion over the codes of a public VAE.

    Args:
        shape: voxels along two or three axes.
        classes: number of public classes, at least 1.
        source: the public autoencoder, {_target_: imgsynth.models.VAE, hyperparameters}. Its weights are those of the
            public run that ``init.run`` names.
        width: of the network's layers.
        depth: residual layers.
        label_dropping, guidance, sampler_steps, churn: see ``Diffusion``.
        structures: of the mask that each image comes with.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        source: Mapping[str, Any],
        width: int = 64,
        depth: int = 3,
        label_dropping: float = 0.1,
        guidance: float = 1.0,
        sampler_steps: int = 18,
        churn: float = 0.0,
        structures: int = 0,
    ):
        super().__init__()
        self.shape, self.classes, self.structures = tuple(shape), classes, structures
        self.sampling = Sampling(label_dropping, guidance, sampler_steps, churn)
        source_model = public_generator(source, self.shape, classes, structures)
        if not isinstance(source_model, VAE):
            raise InputError(
                Fault("model.source", type(source_model).__name__, "an autoencoder: imgsynth.models.VAE",
                      "model.source={_target_: imgsynth.models.VAE}")
            )  # fmt: skip
        self.source = source_model
        network = CodeNetwork(self.source.latent, classes, width, depth)
        self.from_codes = FromCodes(Denoising(network, NOISE), self.source.decoder)
        self.private = CodeDenoising(self.source.encoder, self.from_codes.denoising)

    def objectives(self) -> Sequence[Objective]:
        return [Private("denoising", self.private, self._draw)]

    def _draw(self, n: int, random: torch.Generator) -> tuple[Tensor, ...]:
        """code_eps_BL, sigma_B, eps_BL and keep_B of n images."""
        size = n, self.source.latent
        return torch.randn(size, generator=random, device=random.device), *self.sampling.draw(size, NOISE, random)

    @property
    def public_part(self) -> GenerativeModel:
        return self.source

    @property
    def generator(self) -> nn.Module:
        return self.from_codes

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        z_BL = self.sampling.sample(self.from_codes.denoising, y_B, (self.source.latent,), random)
        return self.from_codes.decoder(z_BL, y_B)

    def white_box(self) -> WhiteBox:
        """Errors of denoising an image's code, as in ``Diffusion``."""

        def draw(n: int, random: torch.Generator) -> tuple[Tensor, ...]:
            code_eps_BL, sigma_B, eps_BL, keep_B = self._draw(n, random)
            return code_eps_BL, sigma_B, eps_BL, torch.ones_like(keep_B)

        return WhiteBox(posterior=Posterior(draw, self.private.errors))
