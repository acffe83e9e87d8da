"""The interface of a metric: a Comparison in, a Measurement out, or NotDone with the reason.

One file per metric. A metric is a function ``(Comparison) -> Measurement``; ``evaluate.run.METRICS`` lists them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
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
        return self.encoder.encode(self.test.x_NC)

    @cached_property
    def train_features(self) -> np.ndarray:
        return self.encoder.encode(self.train.x_NC)

    @cached_property
    def synthetic_features(self) -> np.ndarray:
        return self.encoder.encode(self.synthetic.x_NC)


def require(condition: bool, why: str) -> None:
    if not condition:
        raise NotDone(why)
