"""The interface of a metric: a Comparison in, a Measurement out, or NotDone with the reason.

One file per metric. A metric is a function ``(Comparison) -> Measurement``; ``evaluate.run.METRICS`` lists them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from imgsynth.measure.encoders import Encoder
from imgsynth.measure.images import Images
from imgsynth.types import Grid


class NotDone(Exception):
    """This was not measured, and why: too few patients, a single class. Goes into ``not_done``; it is no failure."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measurement:
    """One metric. ``floor`` is the same statistic between real train and real test patients: what a perfect
    generator would get at this sample size, give or take its interval."""

    name: str
    value: float
    low: float
    high: float
    floor: Interval | None
    unit: str
    better: Literal["lower", "higher"]
    n_real: int  # patients on the real side
    n_synthetic: int
    encoder: str | None  # None: computed on the voxels themselves
    note: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Synthetic images against the test patients, with the train patients as the real-versus-real floor.

    The test patients were never trained on, so a generator gains nothing here by repeating its training images.
    """

    train: Images
    test: Images
    synthetic: Images
    encoder: Encoder
    grid: Grid
    bootstrap: int  # replicates
    seed: int

    def random(self) -> np.random.Generator:
        """A fresh generator: every metric is repeatable on its own, whichever others run."""
        return np.random.default_rng(self.seed)

    @cached_property
    def test_features(self) -> np.ndarray:
        return self._scaled(self.encoder.encode(self.test.x_NC))

    @cached_property
    def train_features(self) -> np.ndarray:
        return self._scaled(self._unscaled_train)

    @cached_property
    def synthetic_features(self) -> np.ndarray:
        return self._scaled(self.encoder.encode(self.synthetic.x_NC))

    @cached_property
    def _unscaled_train(self) -> np.ndarray:
        return self.encoder.encode(self.train.x_NC)

    def _scaled(self, features_ND: np.ndarray) -> np.ndarray:
        """Features with units of their own are standardised by the train patients, whom no metric compares with."""
        if not self.encoder.has_units:
            return features_ND
        usual = self._unscaled_train
        spread = usual.std(0) if len(usual) else np.ones(features_ND.shape[1:])
        return (features_ND - (usual.mean(0) if len(usual) else 0)) / np.where(spread > 1e-6, spread, 1.0)

    def of_class(self, k: int) -> Comparison:
        """The part of class ``k`` of every side, with the features that are there already."""
        sides = {name: getattr(self, name) for name in ("train", "test", "synthetic")}
        kept = {name: images.y_N == k for name, images in sides.items()}
        part = replace(self, **{name: images.select(kept[name]) for name, images in sides.items()})
        for name, keep_N in kept.items():  # as cached_property keeps what it has computed
            part.__dict__[f"{name}_features"] = getattr(self, f"{name}_features")[keep_N]
        return part


def require(condition: bool, why: str) -> None:
    if not condition:
        raise NotDone(why)
