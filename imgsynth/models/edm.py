"""Denoising diffusion as Karras et al. lay it out: preconditioning, noise levels, the loss's weight, the sampler.

Karras, Aittala, Aila and Laine 2022, "Elucidating the Design Space of Diffusion-Based Generative Models"
(arXiv:2206.00364); table 1 for the formulas, algorithms 1 and 2 for the samplers. Nothing here has weights.

Symbols
    x_BC   images [B, C, *shape], with noise of standard deviation σ_B or without
    D      the denoiser: D(x_BC, σ_B) estimates the image without its noise, E[image | image + σ n = x]
    F      the network: D(x; σ) = c_skip x + c_out F(c_in x; c_noise), so that F's input and target have variance 1
    σ_data standard deviation of the images, a public constant
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]

# Of ln σ in training on images of 32² pixels. The paper's are -1.2 and 1.2: most of a short training, or of one under
# noise, then goes into grain and edges, and what is where is hardly learned (docs/results.md, MNIST).
MEAN, STD = -0.3, 1.5

# Algorithm 2, S_tmin and S_tmax: noise is added where it is neither the image's whole nor its grain.
CHURN_FROM, CHURN_TO = 0.05, 50.0


@dataclass(frozen=True)
class Noise:
    """Which noise levels a diffusion has, all public.

    ``data``: σ_data. In training ln σ ~ N(``mean``, ``std``²). Sampling goes from ``largest`` to ``smallest`` and then
    to 0, by steps that are equal in σ^(1/``rho``).
    """

    data: float = 0.5
    mean: float = -1.2
    std: float = 1.2
    smallest: float = 0.002
    largest: float = 80.0
    rho: float = 7.0

    @classmethod
    def for_images(cls, voxels: int) -> Noise:
        """For images of so many voxels in [-1, 1]. The paper's largest level is that of about 32² pixels. What an image
        has in common with its neighbours adds up over voxels while noise does not, so that the same noise hides less
        of a larger image: levels grow with √voxels (Hoogeboom, Heek and Salimans 2023, arXiv:2301.11093)."""
        scale = math.sqrt(voxels / 32**2)
        return cls(mean=MEAN + math.log(scale), std=STD, largest=80.0 * scale)

    def draw(self, n: int, random: torch.Generator) -> Tensor:
        """σ of n training images: [n]."""
        return (self.mean + self.std * torch.randn(n, generator=random, device=random.device)).exp()

    def preconditioning(self, sigma_B: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in, c_noise: [B] each."""
        total_B = sigma_B.square() + self.data**2
        return self.data**2 / total_B, sigma_B * self.data * total_B.rsqrt(), total_B.rsqrt(), sigma_B.log() / 4

    def weight(self, sigma_B: Tensor) -> Tensor:
        """λ, by which the squared error of D is multiplied: 1 / c_out², [B]. F's error then has the weight 1."""
        return (sigma_B.square() + self.data**2) / (sigma_B * self.data).square()

    def levels(self, steps: int) -> Tensor:
        """σ_0 > σ_1 > … > σ_steps = 0: [steps + 1], float64 (equation 5)."""
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
        ends = [end ** (1 / self.rho) for end in (self.largest, self.smallest)]
        return torch.cat([(ends[0] + ramp * (ends[1] - ends[0])) ** self.rho, torch.zeros(1, dtype=torch.float64)])


def sample(denoise: Denoiser, x_BC: Tensor, levels: Tensor, random: torch.Generator, churn: float = 0.0) -> Tensor:
    """Images [B, C, *shape] out of ``x_BC``, noise of standard deviation ``levels[0]`` (algorithm 2).

    Heun's second-order method from level to level. With ``churn`` (the paper's S_churn, in units of the whole way)
    each step first adds fresh noise and then takes away more: errors of earlier steps are forgotten, but what the
    steps themselves get wrong adds up. 0 is algorithm 1, a function of ``x_BC`` alone.
    """
    steps = len(levels) - 1
    added = min(churn / steps, math.sqrt(2) - 1)
    for now, following in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        start = now * (1 + added) if CHURN_FROM <= now <= CHURN_TO else now
        if start > now:
            fresh_BC = torch.randn(x_BC.shape, generator=random, device=random.device).to(x_BC)
            x_BC = x_BC + math.sqrt(start**2 - now**2) * fresh_BC
        slope_BC = _slope(denoise, x_BC, start)
        next_BC = x_BC + (following - start) * slope_BC
        if following > 0:
            slope_BC = (slope_BC + _slope(denoise, next_BC, following)) / 2
            next_BC = x_BC + (following - start) * slope_BC
        x_BC = next_BC
    return x_BC


def _slope(denoise: Denoiser, x_BC: Tensor, sigma: float) -> Tensor:
    """dx/dσ of the probability flow: (x - D(x; σ)) / σ."""
    return (x_BC - denoise(x_BC, x_BC.new_full((len(x_BC),), sigma))) / sigma


def per_image(value_B: Tensor, x_BC: Tensor) -> Tensor:
    """One number for each image, in a shape that multiplies ``x_BC``."""
    return value_B.view(-1, *(1 for _ in x_BC.shape[1:]))
