"""A conditional denoising diffusion model, for training with differential privacy in 2D and 3D.

Dockhorn, Cao, Vahdat and Kreis 2023, "Differentially Private Diffusion Models" (arXiv:2210.09929): the formulation of
Karras et al. (``edm.py``), a small network (``unet.py``), and many noise levels for each image within a patient's own
loss, which cost no privacy: ``data.augmentation_multiplicity`` copies of an image have random inputs of their own, and
their mean gradient is clipped once. Labels guide as in Ho and Salimans 2022 (arXiv:2207.12598). The network may begin
on images around noised class means (``class_means.py``).

Symbols: those of ``denoising.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from imgsynth.models.base import GenerativeModel, Objective, PostProcessing, Private, Query
from imgsynth.models.class_means import ClassMeans
from imgsynth.models.denoising import Denoising, Sampling
from imgsynth.models.edm import Noise
from imgsynth.models.unet import UNet
from imgsynth.models.white_box import Posterior, WhiteBox

WIDTHS = {2: (16, 32), 3: (16, 16)}  # channels on the finest grid of the U-Net, and at most


class Diffusion(GenerativeModel):
    """Conditional diffusion model with a small U-Net.

    Args:
        shape: voxels along two or three axes, each of which can be halved.
        classes: number of public classes, at least 1.
        channels: of the U-Net on the grid after the first halving, doubled at each further one; default by dimension.
        widest: the most channels on any grid; default by dimension.
        levels: how often the grid is halved; default: as often as it goes.
        label_dropping: share of images whose class the network is not told, so that it knows all classes together too.
        guidance: w; above 1 samples are more typical of their class and less varied.
        sampler_steps: levels of noise from which a sample is denoised, two passes of the network each.
        churn: S_churn of the stochastic sampler; 0: the deterministic one, a function of the first noise alone.
        warm_up: begin with ``trainer.steps_before`` steps on images around noised class means, one private query.
        structures: of the mask that each image comes with.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        channels: int | None = None,
        widest: int | None = None,
        levels: int | None = None,
        label_dropping: float = 0.1,
        guidance: float = 1.0,
        sampler_steps: int = 18,
        churn: float = 0.0,
        warm_up: bool = False,
        structures: int = 0,
    ):
        super().__init__()
        self.shape, self.classes, self.structures = tuple(shape), classes, structures
        self.sampling = Sampling(label_dropping, guidance, sampler_steps, churn)
        narrow, wide = WIDTHS.get(len(self.shape), WIDTHS[2])
        network = UNet(self.shape, self.image_channels, classes, channels or narrow, widest or wide, levels)
        self.denoising = Denoising(network, Noise.for_images(math.prod(self.shape)))
        self.means = ClassMeans(self.shape, self.image_channels, classes) if warm_up else None

    def objectives(self) -> Sequence[Objective]:
        private = Private("denoising", self.denoising, self._draw)
        if self.means is None:
            return [private]
        answers = list(self.means.w.parameters())
        return [
            Query("class means", self.means, answers, 1.0, "before", self.means.fit),
            PostProcessing("warm_up", self.denoising, self._around_means, before=True),
            private,
        ]

    def _draw(self, n: int, random: torch.Generator) -> tuple[Tensor, ...]:
        """sigma_B, eps_BC and keep_B of n images."""
        return self.sampling.draw((n, self.image_channels, *self.shape), self.denoising.noise, random)

    def _around_means(self, n: int, random: torch.Generator) -> Tensor:
        assert self.means is not None
        x_BC, y_B = self.means.around(n, random)
        loss: Tensor = self.denoising(x_BC, y_B, *self._draw(n, random)).mean()
        return loss

    @property
    def generator(self) -> nn.Module:
        return self.denoising

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        return _in_range(self.sampling.sample(self.denoising, y_B, (self.image_channels, *self.shape), random))

    def white_box(self) -> WhiteBox:
        """Denoising instead of encoding and decoding: the squared error, and what training made small, a weighted bound
        on -log p(x) (Kingma and Gao 2023, arXiv:2303.00848), at noise levels as in training."""

        def draw(n: int, random: torch.Generator) -> tuple[Tensor, ...]:
            sigma_B, eps_BC, keep_B = self._draw(n, random)
            return sigma_B, eps_BC, torch.ones_like(keep_B)

        return WhiteBox(posterior=Posterior(draw, self.denoising.errors))


def _in_range(x_BC: Tensor) -> Tensor:
    """Into [-1, 1]; masks [B, 1:] so that a voxel's probabilities p = (x + 1) / 2 add up to 1 at most."""
    x_BC = x_BC.clamp(-1, 1)
    p_BM = (x_BC[:, 1:] + 1) / 2
    return torch.cat([x_BC[:, :1], 2 * p_BM / p_BM.sum(1, keepdim=True).clamp(min=1) - 1], dim=1)
