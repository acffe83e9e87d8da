"""A model that asks the cohort: for the sum of its images by class before training, and after it for what it made of
them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from imgsynth.models.base import GenerativeModel, Objective, Private, Query
from imgsynth.models.vae import VAE

calls: list[str] = []
noises: list[float] = []


class Sums(nn.Module):
    """-<w_y, v(x)> with v(x) the image, halved, through a network that is trained beside."""

    def __init__(self, classes: int, voxels: int, scale: float, trained: nn.Module):
        super().__init__()
        self.w = nn.Linear(voxels, classes, bias=False).requires_grad_(False)
        self.scale, self.trained = scale, trained

    def forward(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        return -self.scale * self.w(x_BC.flatten(1)).gather(1, y_B[:, None])[:, 0]


class Asking(GenerativeModel):
    def __init__(self, shape: tuple[int, ...], classes: int, norm: float = 4.0):
        super().__init__()
        self.shape, self.classes, self.norm = shape, classes, norm
        self.vae = VAE(shape, classes, latent=2, channels=2, widest=4)
        voxels = torch.Size(shape).numel()
        self.first, self.last = (Sums(classes, voxels, scale, self.vae.encoder) for scale in (0.5, 1.0))
        self.vae.decoder.register_buffer("learned", torch.zeros(2, classes, voxels))

    def objectives(self) -> Sequence[Objective]:
        (private,) = self.vae.objectives()
        assert isinstance(private, Private)

        def done(i: int, sums: Sums, noise_std: float) -> None:
            calls.append(("before", "after")[i])
            noises.append(noise_std)
            self.generator.learned[i] = sums.w.weight

        first, last = self.first, self.last
        return [
            private,
            Query("class sums", first, [first.w.weight], self.norm, "before", lambda std: done(0, first, std)),
            Query("last sums", last, [last.w.weight], self.norm, "after", lambda std: done(1, last, std)),
        ]

    @property
    def generator(self) -> nn.Module:
        return self.vae.generator

    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        return self.vae.sample(y_B, random)
