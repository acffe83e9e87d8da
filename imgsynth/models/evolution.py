"""Private Evolution: images of a public generator, chosen by noised votes of the patients, in 2D and 3D.

Lin, Gopi, Kulkarni, Nori and Yekhanin 2024, "Differentially Private Synthetic Data via Foundation Model APIs 1: Images"
(arXiv:2305.15560, Algorithms 1 and 2). Nothing is trained on patients. There is a population of candidates for each
class, made by a generator of public images; every patient votes for the nearest; the noised votes choose the parents of
the next population, which are varied; and so on for a few rounds. Only what the public generator can make can come
out: it is worth as much as public images are like the patients'.

Symbols
    z_YNL  candidates [classes, N, L], codes of the public generator, N(0, 1) at first
    w_YN   noised votes [classes, N] of a round, as a share of all patients
    φ(x)   public features, in which nearest is meant (``merf.FourierFeatures``)
    s_t    how far a child is from its parent: z' = √(1 - s²) z + s N(0, 1), so that codes keep the prior's spread

Unlike the paper: children by a step in latent space, where its API varies images; distances between random features,
not those of a pretrained network; the last votes weigh candidates instead of choosing them, and samples are children
of the last population, so that there are as many as are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from imgsynth.models.base import GenerativeModel, Objective, Private, Update
from imgsynth.models.blocks import one_hot
from imgsynth.models.merf import FourierFeatures
from imgsynth.models.public_source import latent_map, public_generator
from imgsynth.models.white_box import LatentMap, WhiteBox

THRESHOLD = 1.0  # votes below so many standard deviations of their noise count as none (the paper's H)


class Votes(nn.Module):
    """The private part: each image votes for the nearest candidate of its class.

    ``forward(x_BC, y_B)`` are -<w, e_y e_nearest'>, [B]; a patient's gradient has length 1 at most. ``w`` starts each
    round at 0 and is then the share of patients who voted for each candidate, with noise.
    """

    phi_YND: Tensor

    def __init__(self, features: FourierFeatures, classes: int, candidates: int):
        super().__init__()
        self.features, self.classes = features, classes
        self.register_buffer("phi_YND", torch.zeros(classes, candidates, features.width))
        self.votes = nn.Linear(candidates, classes, bias=False)
        nn.init.zeros_(self.votes.weight)

    def forward(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        nearest_BN = one_hot(self.nearest(x_BC, y_B), self.phi_YND.shape[1])
        return -(self.votes(nearest_BN) * one_hot(y_B, self.classes)).sum(1)

    @torch.no_grad()
    def nearest(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        """Index of the nearest candidate of the image's class: [B]. Features have length 1: the largest product."""
        product_BYN = torch.einsum("bd,ynd->byn", self.features(x_BC), self.phi_YND)
        return (product_BYN * one_hot(y_B, self.classes)[:, :, None]).sum(1).argmax(1)


class Population(nn.Module):
    """The public generator, and which of its codes were chosen: all that sampling needs."""

    z_YNL: Tensor
    chance_YN: Tensor

    def __init__(self, network: nn.Module, latent: int, classes: int, candidates: int, step: float):
        super().__init__()
        self.network, self.step = network, step
        self.register_buffer("z_YNL", torch.randn(classes, candidates, latent))
        self.register_buffer("chance_YN", torch.full((classes, candidates), 1 / candidates))

    def descend(self, y_B: Tensor, step: float, random: torch.Generator) -> Tensor:
        """Codes [B, L] at a distance from parents that are drawn by their chances, of the given classes."""
        parent_B = torch.multinomial(self.chance_YN[y_B], 1, generator=random)[:, 0]
        noise_BL = torch.randn(len(y_B), self.z_YNL.shape[2], generator=random, device=random.device)
        return (1 - step**2) ** 0.5 * self.z_YNL[y_B, parent_B] + step * noise_BL.to(self.z_YNL.device)


class Evolution(GenerativeModel):
    """A population of codes of a public generator, evolved by noised votes.

    Args:
        shape: voxels along two or three axes.
        classes: number of public classes, at least 1.
        source: the public generator, {_target_: …, hyperparameters}: a model with a map from latent codes to images.
            Its weights are those of the public run that ``init.run`` names.
        candidates: N, of each class; a tenth of the patients of a class or fewer, or votes drown in their noise.
        rounds: how often patients vote.
        step: s of the first round; it falls to ``last_step`` in the last, which samples are at from their parents.
        last_step: see ``step``.
        frequencies, length_scales, seed: of φ, see ``merf.MERF``.
        structures: of the mask that each image comes with.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        source: Mapping[str, Any],
        candidates: int = 50,
        rounds: int = 4,
        step: float = 0.8,
        last_step: float = 0.3,
        frequencies: int = 1000,
        length_scales: Sequence[float] = (0.15, 0.3, 0.6),
        seed: int = 0,
        structures: int = 0,
    ):
        super().__init__()
        self.shape, self.classes, self.rounds, self.first_step = tuple(shape), classes, rounds, step
        self.structures = structures
        self.source = public_generator(source, self.shape, classes, structures)
        features = FourierFeatures(self.shape, frequencies, length_scales, seed, structures)
        self.population = Population(self.source.generator, self._latent.size, classes, candidates, last_step)
        self.votes = Votes(features, classes, candidates)
        self.register_buffer("round", torch.zeros((), dtype=torch.long))
        self._show()

    @property
    def _latent(self) -> LatentMap:
        """From codes to images, through the source."""
        return latent_map(self.source)

    def objectives(self) -> Sequence[Objective]:
        return [
            Private("votes", self.votes, aux=lambda n, random: (), rounds=self.rounds),
            Update("population", self._evolve),
        ]

    @torch.no_grad()
    def _evolve(self, random: torch.Generator, noise_std: float, patients: float) -> None:
        """The votes of a round choose; all but the last also make the next population."""
        population, share_YN = self.population, self.votes.votes.weight
        heard_YN = (share_YN - THRESHOLD * noise_std).clamp(min=0)
        silent_Y1 = heard_YN.sum(1, keepdim=True) == 0  # nobody was heard: all are as likely
        chance_YN = torch.where(silent_Y1, torch.ones_like(heard_YN), heard_YN)
        population.chance_YN.copy_(chance_YN / chance_YN.sum(1, keepdim=True))
        share_YN.zero_()
        self.get_buffer("round").add_(1)
        done = int(self.get_buffer("round"))
        if done >= self.rounds:
            return
        fade = (done - 1) / max(1, self.rounds - 2)
        step = self.first_step + fade * (population.step - self.first_step)
        classes, candidates, latent = population.z_YNL.shape
        y_B = torch.arange(classes, device=population.z_YNL.device).repeat_interleave(candidates)
        population.z_YNL.copy_(population.descend(y_B, step, random).view(classes, candidates, latent))
        self._show()

    @torch.no_grad()
    def _show(self) -> None:
        """Features of the images of all candidates, by which patients vote."""
        for y, z_NL in enumerate(self.population.z_YNL):
            label_N = torch.full((len(z_NL),), y, device=z_NL.device)
            self.votes.phi_YND[y] = self.votes.features(self._latent.image(z_NL, label_N))

    @property
    def public_part(self) -> GenerativeModel:
        return self.source

    def begin_with(self, state: Mapping[str, Tensor]) -> None:
        """The public generator's weights."""
        self.source.begin_with(state)
        self._show()

    @property
    def generator(self) -> nn.Module:
        return self.population

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        return self._latent.image(self._draw(y_B, random), y_B)

    def _draw(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        """Children of the last population: [B, L]."""
        return self.population.descend(y_B, self.population.step, random)

    def white_box(self) -> WhiteBox:
        return WhiteBox(latent=replace(self._latent, draw=self._draw))
