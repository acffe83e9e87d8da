"""A conditional denoising diffusion model, for training with differential privacy in 2D and 3D.

Dockhorn, Cao, Vahdat and Kreis 2023, "Differentially Private Diffusion Models" (arXiv:2210.09929): the formulation of
Karras et al. (``edm.py``), a small network (``unet.py``), and many noise levels for each image within a patient's own
loss, which cost no privacy: ``data.augmentation_multiplicity`` copies of an image have random inputs of their own, and
their mean gradient is clipped once. Labels guide as in Ho and Salimans 2022 (arXiv:2207.12598). The network may begin
on images around noised class means (``class_means.py``).

Symbols: those of ``edm.py``, and
    y_B      class indices [B], public       keep_B  1 where the network is told the class, 0 where it is not
    eps_BC   noise N(0, 1), as large as the images
    w        strength of guidance: D(x | y) + (w - 1) (D(x | y) - D(x)); 1 is the class's own distribution
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from imgsynth.models.base import GenerativeModel, Objective, PostProcessing, Private, Query
from imgsynth.models.class_means import ClassMeans
from imgsynth.models.edm import Noise, per_image, sample
from imgsynth.models.unet import UNet
from imgsynth.models.white_box import Posterior, WhiteBox
from imgsynth.types import Fault, InputError

WIDTHS = {2: (16, 32), 3: (16, 16)}  # channels on the finest grid of the U-Net, and at most


class Denoising(nn.Module):
    """The private network: the error of the denoiser for each image, weighted by λ(σ) and averaged over voxels.

    ``forward(x_BC, y_B, sigma_B, eps_BC, keep_B)`` [B]. That is the mean squared error of F for its own target, which
    is 1 at the start whatever σ is.
    """

    def __init__(self, network: UNet, noise: Noise):
        super().__init__()
        self.network, self.noise = network, noise

    def forward(self, x_BC: Tensor, y_B: Tensor, sigma_B: Tensor, eps_BC: Tensor, keep_B: Tensor) -> Tensor:
        error_B = self.squared_error(x_BC, y_B, sigma_B, eps_BC, keep_B)
        return self.noise.weight(sigma_B) * error_B

    def squared_error(self, x_BC: Tensor, y_B: Tensor, sigma_B: Tensor, eps_BC: Tensor, keep_B: Tensor) -> Tensor:
        """Of the denoised image, averaged over voxels: [B]."""
        noisy_BC = x_BC + per_image(sigma_B, x_BC) * eps_BC
        return (self.denoised(noisy_BC, sigma_B, y_B, keep_B) - x_BC).square().flatten(1).mean(1)

    def denoised(self, x_BC: Tensor, sigma_B: Tensor, y_B: Tensor, keep_B: Tensor) -> Tensor:
        """D: [B, C, *shape]."""
        skip_B, out_B, in_B, noise_B = self.noise.preconditioning(sigma_B)
        f_BC = self.network(per_image(in_B, x_BC) * x_BC, noise_B, y_B, keep_B)
        return per_image(skip_B, x_BC) * x_BC + per_image(out_B, x_BC) * f_BC


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
        self.label_dropping, self.guidance, self.sampler_steps, self.churn = (
            label_dropping, guidance, sampler_steps, churn,
        )  # fmt: skip
        if faults := list(_faults(label_dropping, guidance, sampler_steps, churn)):
            raise InputError(*faults)
        narrow, wide = WIDTHS.get(len(self.shape), WIDTHS[2])
        network = UNet(self.shape, self.image_channels, classes, channels or narrow, widest or wide, levels)
        self.denoising = Denoising(network, Noise.for_images(math.prod(self.shape)))
        if warm_up:
            self.means = ClassMeans(self.shape, self.image_channels, classes)

    def objectives(self) -> Sequence[Objective]:
        private = Private("denoising", self.denoising, self._draw)
        if not hasattr(self, "means"):
            return [private]
        answers = list(self.means.w.parameters())
        return [
            Query("class means", self.means, answers, 1.0, "before", self.means.fit),
            PostProcessing("warm_up", self.denoising, self._around_means, before=True),
            private,
        ]

    def _draw(self, n: int, random: torch.Generator) -> tuple[Tensor, ...]:
        """sigma_B, eps_BC and keep_B of n images."""
        device = random.device
        eps_BC = torch.randn(n, self.image_channels, *self.shape, generator=random, device=device)
        keep_B = torch.rand(n, generator=random, device=device) >= self.label_dropping
        return self.denoising.noise.draw(n, random), eps_BC, keep_B.to(eps_BC)

    def _around_means(self, n: int, random: torch.Generator) -> Tensor:
        x_BC, y_B = self.means.around(n, random)
        loss: Tensor = self.denoising(x_BC, y_B, *self._draw(n, random)).mean()
        return loss

    @property
    def generator(self) -> nn.Module:
        return self.denoising

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        def denoise(x_BC: Tensor, sigma_B: Tensor) -> Tensor:
            told_B = torch.ones_like(sigma_B)
            guided_BC = self.denoising.denoised(x_BC, sigma_B, y_B, told_B)
            if self.guidance == 1:
                return guided_BC
            common_BC = self.denoising.denoised(x_BC, sigma_B, y_B, torch.zeros_like(told_B))
            return common_BC + self.guidance * (guided_BC - common_BC)

        levels = self.denoising.noise.levels(self.sampler_steps)
        eps_BC = torch.randn(len(y_B), self.image_channels, *self.shape, generator=random, device=random.device)
        return _in_range(sample(denoise, eps_BC.to(y_B.device) * float(levels[0]), levels, random, self.churn))

    def white_box(self) -> WhiteBox:
        """Denoising instead of encoding and decoding: the squared error, and what training made small, a weighted bound
        on -log p(x) (Kingma and Gao 2023, arXiv:2303.00848), at noise levels as in training."""

        def draw(n: int, random: torch.Generator) -> tuple[Tensor, ...]:
            sigma_B, eps_BC, _ = self._draw(n, random)
            return sigma_B, eps_BC

        def errors(x_BC: Tensor, y_B: Tensor, sigma_B: Tensor, eps_BC: Tensor) -> tuple[Tensor, Tensor]:
            error_B = self.denoising.squared_error(x_BC, y_B, sigma_B, eps_BC, torch.ones_like(sigma_B))
            return error_B, self.denoising.noise.weight(sigma_B) * error_B

        return WhiteBox(posterior=Posterior(draw, errors))


def _in_range(x_BC: Tensor) -> Tensor:
    """Into [-1, 1]; masks [B, 1:] so that a voxel's probabilities p = (x + 1) / 2 add up to 1 at most."""
    x_BC = x_BC.clamp(-1, 1)
    p_BM = (x_BC[:, 1:] + 1) / 2
    return torch.cat([x_BC[:, :1], 2 * p_BM / p_BM.sum(1, keepdim=True).clamp(min=1) - 1], dim=1)


def _faults(label_dropping: float, guidance: float, sampler_steps: int, churn: float) -> Iterator[Fault]:
    if not 0 <= label_dropping < 1:
        yield Fault("model.label_dropping", f"{label_dropping}", "a share in [0, 1)", "model.label_dropping=0.1")
    if guidance < 0:
        yield Fault("model.guidance", f"{guidance}", "0 or more; 1 is no guidance", "model.guidance=1")
    if guidance != 1 and label_dropping == 0:
        yield Fault("model.guidance", f"{guidance}, with model.label_dropping=0",
                    "1, as a network that was always told the class does not know all classes together",
                    "model.label_dropping=0.1")  # fmt: skip
    if sampler_steps < 1:
        yield Fault("model.sampler_steps", f"{sampler_steps}", "1 or more", "model.sampler_steps=18")
    if churn < 0:
        yield Fault("model.churn", f"{churn}", "0 or more", "model.churn=0")
