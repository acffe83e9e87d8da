"""What pixel and latent diffusion share: the denoiser around a network, its loss for each image, guided sampling.

Symbols: those of ``edm.py``, and
    x_BC     images [B, C, *shape], or codes [B, L]
    y_B      class indices [B], public       keep_B  1 where the network is told the class, 0 where it is not
    eps_BC   noise N(0, 1), as large as x_BC
    w        strength of guidance: D(x) + w (D(x | y) - D(x)); 1 is the class's own distribution
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imgsynth.models.edm import Noise, per_image, sample
from imgsynth.types import Fault, InputError


class Denoising(nn.Module):
    """The private network: the error of the denoiser for each image, weighted by λ(σ) and averaged over voxels.

    ``network(x_BC, c_noise_B, y_B, keep_B)`` is F. ``forward(x_BC, y_B, sigma_B, eps_BC, keep_B)`` [B] is the mean
    squared error of F for its own target, about 1 for a network that is 0, whatever σ is.
    """

    def __init__(self, network: nn.Module, noise: Noise):
        super().__init__()
        self.network, self.noise = network, noise

    def forward(self, x_BC: Tensor, y_B: Tensor, sigma_B: Tensor, eps_BC: Tensor, keep_B: Tensor) -> Tensor:
        return self.errors(x_BC, y_B, sigma_B, eps_BC, keep_B)[1]

    def errors(
        self, x_BC: Tensor, y_B: Tensor, sigma_B: Tensor, eps_BC: Tensor, keep_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Squared error of the denoised image, averaged over voxels, and with its weight: [B] each."""
        noisy_BC = x_BC + per_image(sigma_B, x_BC) * eps_BC
        error_B = (self.denoised(noisy_BC, sigma_B, y_B, keep_B) - x_BC).square().flatten(1).mean(1)
        return error_B, self.noise.weight(sigma_B) * error_B

    def denoised(self, x_BC: Tensor, sigma_B: Tensor, y_B: Tensor, keep_B: Tensor) -> Tensor:
        """D: as large as ``x_BC``."""
        skip_B, out_B, in_B, noise_B = self.noise.preconditioning(sigma_B)
        f_BC = self.network(per_image(in_B, x_BC) * x_BC, noise_B, y_B, keep_B)
        return per_image(skip_B, x_BC) * x_BC + per_image(out_B, x_BC) * f_BC


@dataclass(frozen=True)
class Sampling:
    """How training drops labels and sampling uses them; the arguments of both models. Raises InputError for all that
    is out of range.

    ``label_dropping``: share of images whose class the network is not told. ``guidance``: w. ``steps``: levels of
    noise from which a sample is denoised. ``churn``: S_churn; 0 is the deterministic sampler.
    """

    label_dropping: float
    guidance: float
    steps: int
    churn: float

    def __post_init__(self) -> None:
        if faults := list(self._faults()):
            raise InputError(*faults)

    def draw(self, size: tuple[int, ...], noise: Noise, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """sigma_B, eps_BC and keep_B for training on images of ``size`` [B, C, *shape]."""
        eps_BC = torch.randn(size, generator=random, device=random.device)
        keep_B = torch.rand(size[0], generator=random, device=random.device) >= self.label_dropping
        return noise.draw(size[0], random), eps_BC, keep_B.to(eps_BC)

    @torch.no_grad()
    def sample(self, denoising: Denoising, y_B: Tensor, size: tuple[int, ...], random: torch.Generator) -> Tensor:
        """x_BC [B, *size] of the classes, not brought to any range."""

        def denoise(x_BC: Tensor, sigma_B: Tensor) -> Tensor:
            told_B = torch.ones_like(sigma_B)
            told_BC = denoising.denoised(x_BC, sigma_B, y_B, told_B)
            if self.guidance == 1:
                return told_BC
            common_BC = denoising.denoised(x_BC, sigma_B, y_B, torch.zeros_like(told_B))
            return common_BC + self.guidance * (told_BC - common_BC)

        levels = denoising.noise.levels(self.steps)
        eps_BC = torch.randn(len(y_B), *size, generator=random, device=random.device)
        return sample(denoise, eps_BC.to(y_B.device) * float(levels[0]), levels, random, self.churn)

    def _faults(self) -> Iterator[Fault]:
        if not 0 <= self.label_dropping < 1:
            yield Fault("model.label_dropping", f"{self.label_dropping}", "a share in [0, 1)",
                        "model.label_dropping=0.1")  # fmt: skip
        if self.guidance < 0:
            yield Fault("model.guidance", f"{self.guidance}", "0 or more; 1 is no guidance", "model.guidance=1")
        if self.guidance != 1 and self.label_dropping == 0:
            yield Fault("model.guidance", f"{self.guidance}, with model.label_dropping=0",
                        "1, as a network that was always told the class does not know all classes together",
                        "model.label_dropping=0.1")  # fmt: skip
        if self.steps < 1:
            yield Fault("model.sampler_steps", f"{self.steps}", "1 or more", "model.sampler_steps=18")
        if self.churn < 0:
            yield Fault("model.churn", f"{self.churn}", "0 or more", "model.churn=0")
