"""PATE-GAN: a generative adversarial network whose discriminator learns from noisy votes of teachers, in 2D and 3D.

Jordon, Yoon and van der Schaar 2019, "PATE-GAN: Generating Synthetic Data with Differential Privacy Guarantees" (ICLR;
openreview S1zk9iRqF7), after Papernot et al. 2017 and 2018 (arXiv:1610.05755, arXiv:1802.08908). Every teacher is a
small discriminator that is trained on patients of its own, without privacy. Teachers are asked which of a few generated
images are real; only the number of their votes leaves, with noise. The student, a discriminator too, is trained on
generated images with these labels, and the generator against the student: neither is ever shown a real image.

Symbols
    x_BC   images [B, C, *shape] in [-1, 1], real or generated      y_B       class indices [B]; generated ones' public
    z_BL   latent vectors [B, latent], N(0, 1)                      target_B  1 for real or so labelled, 0 for generated
    G(z, y) the generator   S(x, y) the student's logit             k, m      teachers; images that one step asks about

Unlike the paper: Gaussian noise, whose composition over a run is tighter than Laplace's and needs no look at the votes;
labels are conditions; a teacher votes for the half of the images that *it* finds more real than the other half. By the
paper's vote, whether the image looks real at all, a good teacher calls every early image generated, and a student that
hears nothing else cannot tell the generator where to go. Either vote is one bit for each image and teacher.
The student's labels say how clear a majority was, and it is trained on the last votes too, not the newest alone.
A student that is never shown variety does not ask for it, so that the generator is rewarded for images of one class
that differ (after Mao et al. 2019, arXiv:1903.05628), which needs no data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from imgsynth.models.adversarial import Discriminator, generator_loss, raise_faults
from imgsynth.models.base import FakeSource, GenerativeModel, Objective, PostProcessing, Private, Votes
from imgsynth.models.beginning import MOMENTS, but_for, held_to_moments, moments_for, warm_up_faults
from imgsynth.models.blocks import pyramid, widths
from imgsynth.models.gan import Generator
from imgsynth.models.white_box import LatentMap, WhiteBox

APART = 1e-3  # mean difference of two images per voxel, below which the reward for more of it is not steeper


def more_real(logit_KM: Tensor) -> Tensor:
    """[K, M] bool: whether a teacher's logit is above its own median over the M images; never where it is no number."""
    return logit_KM > logit_KM.median(dim=1, keepdim=True).values


def soft_label(margin_M: Tensor, std: float, teachers: int) -> Tensor:
    """Targets [M] in [0, 1]: ½ + margin / 2s, cut off, with s² = std² + (k/2)², k/2 being unanimous.

    A hard majority would throw away how clear it was: at the noise of a small ε 1 - 2/π of what was paid for.
    """
    scale = math.hypot(std, teachers / 2)
    return (0.5 + margin_M / (2 * scale)).clamp(0, 1)


class PATEGAN(GenerativeModel):
    """Conditional GAN whose discriminator is the student of teachers that see patients.

    Args:
        shape: voxels along two or three axes, each of which can be halved.
        classes: number of public classes, at least 1.
        latent: dimensions of z.
        channels: of generator and student on the grid after the first halving; doubled at each further one.
        widest: the most channels of these two on any grid.
        teachers: k; ``None``: one for every 20 training patients, at most 200.
        teacher_channels: of a teacher on the grid after the first halving; at most twice as many on any grid.
        teacher_steps: steps that every teacher takes before each vote.
        teacher_batch: patients in such a step, and as many generated images.
        teacher_learning_rate: of the teachers' Adam.
        images: m, generated images that one vote is about, and that one step of the generator takes.
        student_steps: steps of the student after each vote; they cost nothing.
        student_batch: images in such a step, drawn from those of the last votes.
        remembered: votes that the student is still trained on.
        diversity: weight of the generator's reward for images of one class that differ.
        structures: of the mask that each image comes with.
        warm_up: [moments]: G begins on a noised mean embedding, and is held to it (``beginning.py``).
    """

    public_words = MOMENTS

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        latent: int = 32,
        channels: int = 16,
        widest: int = 64,
        teachers: int | None = None,
        teacher_channels: int = 4,
        teacher_steps: int = 2,
        teacher_batch: int = 8,
        teacher_learning_rate: float = 2e-3,
        images: int = 128,
        student_steps: int = 6,
        student_batch: int = 256,
        remembered: int = 16,
        diversity: float = 0.05,
        structures: int = 0,
        warm_up: Sequence[str] = (),
    ):
        super().__init__()
        raise_faults(warm_up_faults(warm_up))
        self.shape, self.classes, self.latent, self.images = tuple(shape), classes, latent, images
        self.diversity, self.structures = diversity, structures
        grids = pyramid(self.shape)
        width, few = widths(channels, widest, grids), widths(teacher_channels, 2 * teacher_channels, grids)
        self.G = Generator(grids, width, classes, latent, structures)
        self.S = Discriminator(grids, width, classes, structures=structures)
        self._votes = Votes(
            teacher=lambda: Discriminator(grids, few, classes, structures=structures),
            choose=more_real,
            fakes=FakeSource(self._draw, lambda y_B, z_BL: (self.G(z_BL, y_B), y_B)),
            teachers=teachers,
            steps=teacher_steps,
            batch=teacher_batch,
            learning_rate=teacher_learning_rate,
            images=images,
            label=soft_label,
            student_steps=student_steps,
            student_batch=student_batch,
            remembered=remembered,
        )
        self.moments = moments_for(warm_up, self.shape, classes, structures)

    def objectives(self) -> Sequence[Objective]:
        def target(n: int, random: torch.Generator) -> tuple[Tensor, ...]:
            return (torch.ones(n, device=random.device),)

        def fool(n: int, random: torch.Generator) -> Tensor:
            y_B, z_BL = self._draw(n, random)
            x_BC = self.G(z_BL, y_B)
            other_BL = torch.randn(z_BL.shape, generator=random, device=random.device)
            apart_B = (x_BC - self.G(other_BL, y_B)).abs().flatten(1).mean(1)
            return (generator_loss(self.S.logits(x_BC, y_B)) - self.diversity * (apart_B + APART).log()).mean()

        moments = held_to_moments(self.moments, self.G, self._made, self.images)
        return [
            *moments,
            Private("student", self.S, aux=target, votes=self._votes),
            PostProcessing("generator", self.G, loss=fool, images=self.images),
        ]

    def _draw(self, n: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Public, uniform labels y_B and latent vectors z_BL for n images."""
        y_B = torch.randint(self.classes, (n,), generator=random, device=random.device)
        z_BL = torch.randn(n, self.latent, generator=random, device=random.device)
        return y_B, z_BL

    @property
    def generator(self) -> nn.Module:
        return self.G

    def begin_with(self, state: Mapping[str, Tensor]) -> None:
        self.load_state_dict(but_for(self, state, ("moments.",)))

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        return self._made(y_B, random)

    def _made(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        z_BL = torch.randn(len(y_B), self.latent, generator=random, device=random.device)
        x_BC: Tensor = self.G(z_BL.to(y_B.device), y_B)
        return x_BC

    def white_box(self) -> WhiteBox:
        released = self.moments.score if self.moments else None
        return WhiteBox(discriminator=self.S.logits, latent=LatentMap(self.latent, self.G), released=released)
