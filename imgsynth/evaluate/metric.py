"""The interface of a metric: a Comparison in, a Measurement out, or NotDone with the reason.

One file per metric. A metric is a function ``(Comparison) -> Measurement``; ``evaluate.run.METRICS`` lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np

from imgsynth.evaluate.side import Side
from imgsynth.measure.encoders import Encoder
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import bootstrap_weights, recentred_interval
from imgsynth.types import Grid

T = TypeVar("T")


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

    @staticmethod
    def of(
        c: Comparison, name: str, result: Interval, floor: Interval, n_synthetic: int, note: str, *,
        better: Literal["lower", "higher"] = "lower", unit: str = "", on_voxels: bool = False,
    ) -> Measurement:  # fmt: skip
        """Of the synthetic and the test images of ``c``."""
        encoder = None if on_voxels else c.encoder.name
        return Measurement(name, result.value, result.low, result.high, floor, unit, better,
                           c.test.n_patients, n_synthetic, encoder, note)  # fmt: skip

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
    _shared: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def random(self) -> np.random.Generator:
        """A fresh generator: every metric is repeatable on its own, whichever others run."""
        return np.random.default_rng(self.seed)

    @property
    def n(self) -> int:
        """Patients of the synthetic and of the train side where both must be as many, as a statistic is biased by n."""
        return min(self.train.n_patients, self.synthetic.n_patients)

    @property
    def smallest(self) -> int:
        """Patients on the smallest side."""
        return min(self.n, self.test.n_patients)

    def require_patients(self, least: int) -> None:
        require(self.smallest >= least, f"{self.smallest} patients on the smallest side; it takes {least}")

    def matched(self) -> tuple[Side, Side, Side]:
        """Features of ``n`` synthetic images, of ``n`` train patients, and of the test patients."""
        keep_N = self.train.drawn(self.n, self.random())
        return (
            Side.of(self.synthetic_features[: self.n], self.synthetic.patients_N[: self.n]),
            Side.of(self.train_features[keep_N], self.train.patients_N[keep_N]),
            Side.of(self.test_features, self.test.patients_N),
        )

    def matched_images(self) -> tuple[Images, Images, Images]:
        """The images that ``matched`` has the features of."""
        return self.synthetic.select(slice(self.n)), self.train.draw_patients(self.n, self.random()), self.test

    def once(self, what: str, compute: Callable[[], T]) -> T:
        """What several metrics share: computed by the first that asks for ``what``."""
        if what not in self._shared:
            self._shared[what] = compute()
        return self._shared[what]

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


def distance_of_means(
    a_PF: np.ndarray, b_QF: np.ndarray, distance: Callable[[np.ndarray, np.ndarray], np.ndarray],
    replicates: int, random: np.random.Generator,
) -> Interval:  # fmt: skip
    """``distance`` [R] of the means [R, F] of two sides' patients, 0 or more; its interval resamples both sides."""
    value = float(distance(a_PF.mean(0, keepdims=True), b_QF.mean(0, keepdims=True))[0])
    w_RP, v_RQ = (bootstrap_weights(len(side), replicates, random) / len(side) for side in (a_PF, b_QF))
    low, high = recentred_interval(value, distance(w_RP @ a_PF, v_RQ @ b_QF))
    return Interval(value, max(low, 0.0), high)


def require(condition: bool, why: str) -> None:
    if not condition:
        raise NotDone(why)
