"""A conditional denoising diffusion model, for training with differential privacy in 2D and 3D.

Dockhorn, Cao, Vahdat and Kreis 2023, "Differentially Private Diffusion Models" (arXiv:2210.09929): the formulation of
Karras et al. (``edm.py``), a small network (``unet.py``), and many noise levels for each image within a patient's own
loss, which cost no privacy: ``data.augmentation_multiplicity`` copies of an image have random inputs of their own, and
their mean gradient is clipped once. Labels guide as in Ho and Salimans 2022 (arXiv:2207.12598). The network may begin
on images that patients did not make: around noised class means (``class_means.py``), and those of a generator that has
learned from one noised mean embedding (``merf.py``), after Gong et al. 2025 ("From Easy to Hard++: Promoting
Differentially Private Image Synthesis Through Spatial-Frequency Curriculum", FETA-Pro).

Symbols: those of ``denoising.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from imgsynth.models.base import GenerativeModel, Objective, PostProcessing, Private, Query
from imgsynth.models.beginning import but_for, on_moments, warm_up_faults
from imgsynth.models.class_means import ClassMeans
from imgsynth.models.denoising import Denoising, Sampling
from imgsynth.models.edm import Noise
from imgsynth.models.merf import MERF
from imgsynth.models.unet import UNet
from imgsynth.models.white_box import Posterior, WhiteBox
from imgsynth.types import InputError

BEGINNINGS = ("means", "moments")
Images = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]  # n images and their classes

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
        warm_up: what the network begins on, in this order, one private query each, ``trainer.steps_before`` steps each:
            "means", images around noised class means; "moments", images of a generator that has first taken as many
            steps on a noised mean embedding.
        structures: of the mask that each image comes with.
    """

    public_words = BEGINNINGS

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
        warm_up: Sequence[str] = (),
        structures: int = 0,
    ):
        super().__init__()
        if faults := warm_up_faults(warm_up, BEGINNINGS):
            raise InputError(*faults)
        self.shape, self.classes, self.structures = tuple(shape), classes, structures
        self.sampling = Sampling(label_dropping, guidance, sampler_steps, churn)
        narrow, wide = WIDTHS.get(len(self.shape), WIDTHS[2])
        network = UNet(self.shape, self.image_channels, classes, channels or narrow, widest or wide, levels)
        self.denoising = Denoising(network, Noise.for_images(math.prod(self.shape)))
        self.warm_up = tuple(warm_up)
        self.means = ClassMeans(self.shape, self.image_channels, classes) if "means" in warm_up else None
        self.auxiliary = MERF(self.shape, classes, structures=structures) if "moments" in warm_up else None
        if self.auxiliary is not None:
            self.auxiliary.embedding.mean.requires_grad_(False)  # a query's answer, which nothing trains

    def objectives(self) -> Sequence[Objective]:
        queries: list[Objective] = []
        free: list[Objective] = []
        for begin in self.warm_up:
            query, *steps = self._on_means() if begin == "means" else self._on_moments()
            queries.append(query)
            free += steps
        return [*queries, *free, Private("denoising", self.denoising, self._draw)]

    def _on_means(self) -> list[Objective]:
        means = self.means
        assert means is not None
        return [
            Query("class means", means, list(means.w.parameters()), 1.0, "before", means.fit),
            PostProcessing("warm_up_on_means", self.denoising, self._loss_on(means.around), before=True),
        ]

    def _on_moments(self) -> list[Objective]:
        auxiliary = self.auxiliary
        assert auxiliary is not None

        def made(n: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
            y_B = torch.randint(self.classes, (n,), generator=random, device=random.device)
            return auxiliary.sample(y_B, random), y_B

        return [
            *on_moments(auxiliary.embedding, "auxiliary_generator", auxiliary.G, auxiliary.G.made),
            PostProcessing("warm_up_on_moments", self.denoising, self._loss_on(made), before=True),
        ]

    def _loss_on(self, images: Images) -> Callable[[int, torch.Generator], Tensor]:
        """The denoising loss on images of which no patient is one."""

        def loss(n: int, random: torch.Generator) -> Tensor:
            mean: Tensor = self.denoising(*images(n, random), *self._draw(n, random)).mean()
            return mean

        return loss

    def _draw(self, n: int, random: torch.Generator) -> tuple[Tensor, ...]:
        """sigma_B, eps_BC and keep_B of n images."""
        return self.sampling.draw((n, self.image_channels, *self.shape), self.denoising.noise, random)

    @property
    def generator(self) -> nn.Module:
        return self.denoising

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        return _in_range(self.sampling.sample(self.denoising, y_B, (self.image_channels, *self.shape), random))

    def begin_with(self, state: Mapping[str, Tensor]) -> None:
        own = [f"{name}." for name, _ in self._answered()]
        if not any(name.startswith("auxiliary.") for name in state):
            own.append("auxiliary.")  # a generator that only this run begins on
        self.load_state_dict(but_for(self, state, tuple(own)))

    def _answered(self) -> list[tuple[str, nn.Module]]:
        """The modules that hold answers to queries, by name; called, they are -<w, v(x, y)> of each image."""
        parts = (("means", self.means), ("auxiliary.embedding", self.auxiliary and self.auxiliary.embedding))
        return [(name, part) for name, part in parts if part is not None]

    def white_box(self) -> WhiteBox:
        """Denoising instead of encoding and decoding: the squared error, and what training made small, a weighted bound
        on -log p(x) (Kingma and Gao 2023, arXiv:2303.00848), at noise levels as in training. Answers to several queries
        have noise of one size, so that scores on them are added as they are."""

        def draw(n: int, random: torch.Generator) -> tuple[Tensor, ...]:
            sigma_B, eps_BC, keep_B = self._draw(n, random)
            return sigma_B, eps_BC, torch.ones_like(keep_B)

        def released(x_BC: Tensor, y_B: Tensor) -> Tensor:
            return -torch.stack([answer(x_BC, y_B) for _, answer in self._answered()]).sum(0)

        return WhiteBox(posterior=Posterior(draw, self.denoising.errors), released=released if self.warm_up else None)


def _in_range(x_BC: Tensor) -> Tensor:
    """Into [-1, 1]; masks [B, 1:] so that a voxel's probabilities p = (x + 1) / 2 add up to 1 at most."""
    x_BC = x_BC.clamp(-1, 1)
    p_BM = (x_BC[:, 1:] + 1) / 2
    return torch.cat([x_BC[:, :1], 2 * p_BM / p_BM.sum(1, keepdim=True).clamp(min=1) - 1], dim=1)
