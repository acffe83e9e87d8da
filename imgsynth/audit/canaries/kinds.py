"""What canaries do to a gradient: wrappers of the private network, in which a canary's loss is its own.

Each passes through the run's own engine, clipping, noise and normaliser, because the engine sees nothing but a module.

Shape legend: M canaries, B images, C channels, L the length of a Dirac canary's gradient, * spatial axes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgsynth.audit.canaries.text import Strings
from imgsynth.models.base import Private
from imgsynth.models.blocks import one_hot
from imgsynth.privacy.ranks import Sums
from imgsynth.types import Fault, InputError

LENGTH = 1000.0  # of a Dirac canary's gradient before clipping, in clipping norms: it outweighs its unit's fakes
_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


class Canaries(nn.Module, ABC):
    """The private network with M canaries beside it: a label of ``classes`` + j marks an image of canary j, one of
    ``classes`` + M + j a generated image in its unit."""

    name: str
    reads_network: bool  # whether the canaries' coordinates also hold gradients of real patients and of fakes

    def __init__(self, private: Private, classes: int, canaries: int):
        super().__init__()
        self.network, self.classes, self.canaries = private.module, classes, canaries

    def _who(self, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """[B] whether an image is a canary's, and [B] whose (0 where it is not)."""
        return y_B >= self.classes, (y_B - self.classes).clamp(min=0) % self.canaries

    def images(self, shape: tuple[int, ...], random: np.random.Generator) -> Tensor:
        """[M, 1, *shape], one image for each canary."""
        return torch.zeros(self.canaries, 1, *shape)


class Dirac(Canaries):
    """Canary j's gradient is L e_j: one coordinate, its own, and L is far above the clipping norm C."""

    def __init__(self, private: Private, classes: int, canaries: int, clipping_norm: float):
        super().__init__(private, classes, canaries)
        self.length = LENGTH * clipping_norm

    def forward(self, x_BC: Tensor, y_B: Tensor, *aux_B: Tensor) -> Tensor:
        canary_B, j_B = self._who(y_B)
        loss_B = self.network(x_BC, torch.where(canary_B, 0, y_B), *aux_B)
        return torch.where(canary_B, self.length * self.coordinate(j_B).to(loss_B.dtype), loss_B)

    @abstractmethod
    def coordinate(self, j_B: Tensor) -> Tensor:
        """θ_j for each image of canary j, differentiable: [B]."""

    @abstractmethod
    def read(self, sums: Sums) -> Tensor:
        """The canaries' coordinates of a gradient given by parameter: [M]."""


class SideDirac(Dirac):
    """Coordinates that no patient's loss depends on: nothing of a patient is in them, and the canaries do not disturb
    the network. They test sampling, clipping, noise and accounting."""

    name, reads_network = "side", False

    def __init__(self, private: Private, classes: int, canaries: int, clipping_norm: float):
        super().__init__(private, classes, canaries, clipping_norm)
        self.side = nn.Embedding(canaries, 1)
        nn.init.zeros_(self.side.weight)

    def coordinate(self, j_B: Tensor) -> Tensor:
        return self.side(j_B)[:, 0]

    def read(self, sums: Sums) -> Tensor:
        return sums["side.weight"][:, 0]


class WeightDirac(Dirac):
    """Coordinates of the network's own weights (of linear layers and convolutions, shared out evenly over them): noise
    or clipping that leaves out a layer shows."""

    name, reads_network = "weights", True

    def __init__(
        self, private: Private, classes: int, canaries: int, clipping_norm: float, random: np.random.Generator
    ):
        super().__init__(private, classes, canaries, clipping_norm)
        weights = {n: p for n, p in self.network.named_parameters() if p.requires_grad and 2 <= p.ndim <= 5}
        found = sum(p.numel() for p in weights.values())
        if found < canaries:
            raise InputError(
                Fault("audit.canaries.m", f"{canaries} canaries for {found} weights", "a weight for each canary",
                      f"audit.canaries.m={found}, or audit.canaries.kinds=[side]")
            )  # fmt: skip
        counts = _evenly(canaries, [p.numel() for p in weights.values()])
        self.places = {
            name: random.choice(p.numel(), count, replace=False)
            for (name, p), count in zip(weights.items(), counts, strict=True)
            if count
        }
        owner_M = np.repeat(np.arange(len(self.places)), [len(at) for at in self.places.values()])
        self.register_buffer("owner_M", torch.from_numpy(owner_M))
        self.register_buffer("place_M", torch.from_numpy(np.concatenate(list(self.places.values()))))

    def coordinate(self, j_B: Tensor) -> Tensor:
        """Each weight is asked for by a layer of our own that picks one of its entries, as a layer is what every engine
        can take a gradient of."""
        owner_B, place_B = self.get_buffer("owner_M")[j_B], self.get_buffer("place_M")[j_B]
        total_B = torch.zeros_like(place_B, dtype=torch.get_default_dtype())
        for number, name in enumerate(self.places):
            path, _, leaf = name.rpartition(".")
            weight = getattr(self.network.get_submodule(path), leaf)
            mine_B = (owner_B == number).to(total_B.dtype)
            total_B = total_B + mine_B * _entry(weight, torch.where(owner_B == number, place_B, 0))
        return total_B

    def read(self, sums: Sums) -> Tensor:
        return torch.cat([sums[f"network.{name}"].flatten()[at] for name, at in self.places.items()])


class OwnLoss(Canaries):
    """Images that go through the network's own loss as a patient's would.

    What a canary draws at random (reparameterisation noise) is drawn once and kept, so that its gradient is known.
    """

    def __init__(self, private: Private, classes: int, canaries: int):
        super().__init__(private, classes, canaries)
        self.n_aux = 0
        for kept in private.aux(canaries, torch.Generator().manual_seed(0)):
            self.register_buffer(f"aux_{self.n_aux}_M", kept)
            self.n_aux += 1

    def forward(self, x_BC: Tensor, y_B: Tensor, *aux_B: Tensor) -> Tensor:
        canary_B, j_B = self._who(y_B)
        own = self.own_aux(j_B)
        both = (
            torch.where(canary_B.view(-1, *(1 for _ in a.shape[1:])), b, a) for a, b in zip(aux_B, own, strict=True)
        )
        loss_B = self.network(x_BC, torch.where(canary_B, j_B % self.classes, y_B), *both)
        return torch.where(y_B >= self.classes + self.canaries, 0.0, loss_B)

    def own_aux(self, j_B: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.get_buffer(f"aux_{i}_M")[j_B] for i in range(self.n_aux))


class RandomSign(OwnLoss):
    """Images of random signs, each canary its own."""

    name, reads_network = "input", True

    def images(self, shape: tuple[int, ...], random: np.random.Generator) -> Tensor:
        signs = torch.from_numpy(random.integers(0, 2, (self.canaries, 1, *shape)))
        return signs.float() * 2 - 1


class BurnedIn(OwnLoss):
    """Images with a code word in them, which is looked for in what the twin generates; no gradient is read."""

    name, reads_network = "text", False

    def __init__(self, private: Private, classes: int, strings: Strings):
        super().__init__(private, classes, len(strings.words))
        self.strings = strings

    def images(self, shape: tuple[int, ...], random: np.random.Generator) -> Tensor:
        return self.strings.image_MC


def _entry(weight: Tensor, place_B: Tensor) -> Tensor:
    """[B] the entries of ``weight`` at flat indices ``place_B``, by a linear layer or a convolution on a one-hot input
    that picks the column, and a mask that picks the row."""
    columns = math.prod(weight.shape[1:])
    x_BI = one_hot(place_B % columns, columns).reshape(-1, *weight.shape[1:])
    y_BO = F.linear(x_BI, weight) if weight.ndim == 2 else _CONVOLUTIONS[weight.ndim](x_BI, weight).flatten(1)
    return (y_BO * one_hot(place_B // columns, len(weight))).sum(1)


def _evenly(total: int, room: list[int]) -> list[int]:
    """``total`` dealt out as evenly as ``room`` allows; ``sum(room)`` >= ``total``."""
    counts = [0] * len(room)
    left = total
    while left:
        free = [i for i, r in enumerate(room) if counts[i] < r]
        share = max(1, left // len(free))
        for i in free:
            more = min(share, room[i] - counts[i], left)
            counts[i] += more
            left -= more
    return counts
