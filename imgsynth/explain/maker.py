"""The generator and public facts about it: all that the releasable part of an explanation is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imgsynth.evaluate.metric import NotDone
from imgsynth.measure.encoders import Encoder
from imgsynth.models.base import GenerativeModel
from imgsynth.models.white_box import LatentMap
from imgsynth.release.generate import block_size, images_of
from imgsynth.schema import ExplainConfig
from imgsynth.types import Grid

# Shape legend: N samples, L latent dimensions, C channels, S the spatial axes, D features.


@dataclass(frozen=True)
class Drawn:
    """Samples ``x_NC`` of classes ``y_N``, and their codes ``z_NL`` where the model has a latent map."""

    x_NC: np.ndarray
    y_N: np.ndarray
    z_NL: Tensor | None


@dataclass(frozen=True, eq=False)
class Maker:
    """Sees no data. ``classes`` are the public list; ``encoder`` must be public too."""

    model: GenerativeModel
    grid: Grid
    classes: Sequence[str]
    encoder: Encoder
    settings: ExplainConfig

    @property
    def latent(self) -> LatentMap:
        """Raises NotDone for a model that can only sample."""
        latent = self.model.white_box().latent
        if latent is None:
            raise NotDone("the model has no map from latent codes to images")
        return latent

    def random(self) -> torch.Generator:
        """A fresh generator: every part is repeatable on its own."""
        return torch.Generator().manual_seed(self.settings.seed)

    def labels(self, n: int) -> Tensor:
        """[n] classes in turn, as many of each: the patients' own shares are not public."""
        return torch.arange(n) % len(self.classes)

    def codes(self, n: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """([n, L], [n]) as sampling draws them."""
        y_N = self.labels(n)
        return self.latent.codes(y_N, random), y_N

    @torch.no_grad()
    def images(self, z_NL: Tensor, y_N: Tensor) -> np.ndarray:
        """[N, C, *S] float32 in [-1, 1], a few at a time."""
        latent, size = self.latent, block_size(self.grid.shape)
        parts = [latent.image(z, y).clamp(-1, 1).float().numpy()
                 for z, y in zip(z_NL.split(size), y_N.split(size), strict=True)]  # fmt: skip
        return np.concatenate(parts)

    def drawn(self) -> Drawn:
        """``settings.samples`` samples, with their codes where there are codes."""
        n, random = self.settings.samples, self.random()
        if self.model.white_box().latent is None:
            labels_N = self.labels(n).numpy()
            return Drawn(images_of(self.model, labels_N, random), labels_N, None)
        z_NL, y_N = self.codes(n, random)
        return Drawn(self.images(z_NL, y_N), y_N.numpy(), z_NL)


def standardised(features_ND: np.ndarray, encoder: Encoder, like_MD: np.ndarray) -> np.ndarray:
    """Features that have units, in those of ``like_MD``'s spread; others as they are."""
    if not encoder.has_units:
        return features_ND
    spread_D = like_MD.std(0)
    return (features_ND - like_MD.mean(0)) / np.where(spread_D > 1e-6, spread_D, 1.0)
