"""What runs share is computed once, by content, and nothing else is taken for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imgsynth.evaluate.classifiers import Boosted, Classifier, ConvolutionalNetwork, LinearProbe
from imgsynth.evaluate.utility import Rivals, utility
from imgsynth.measure import small_cnn
from imgsynth.measure.encoders import RandomConv
from imgsynth.measure.images import Images
from imgsynth.measure.kept import digest, kept


def test_computed_once_for_each_name(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> np.ndarray:
        calls.append(1)
        return np.arange(3.0)

    for what in ("a", "a", "b"):
        assert kept(tmp_path, what, compute).tolist() == [0, 1, 2]
    assert len(calls) == 2
    kept(None, "a", compute)
    assert len(calls) == 3


@pytest.mark.parametrize(
    "other", [np.zeros((2, 3), np.float64), np.zeros((3, 2), np.float32), np.ones((2, 3), np.float32)]
)
def test_a_digest_is_of_content_shape_and_type(other: np.ndarray) -> None:
    assert digest(np.zeros((2, 3), np.float32)) == digest(np.zeros((2, 3), np.float32)) != digest(other)


class Counting(Classifier):
    name, encoder, seeds, settings = "counting", None, 1, "two"

    def __init__(self) -> None:
        self.trained: list[float] = []
        self.like: list[int | None] = []

    def seen(self, x_NC: np.ndarray) -> np.ndarray:
        return x_NC

    def scores(
        self, x_NC: np.ndarray, y_N: np.ndarray, x_MC: np.ndarray, classes: int, seed: int, like: int | None = None
    ) -> np.ndarray:  # fmt: skip
        self.trained.append(float(x_NC.flat[0]))
        self.like.append(like)
        return np.full((len(x_MC), classes), 1 / classes)


def images(fill: float) -> Images:
    return Images.of(np.full((20, 1, 4, 4), fill, np.float32), np.arange(20) % 2, np.arange(20).astype(str))


def test_only_what_saw_nothing_synthetic_is_shared(tmp_path: Path) -> None:
    classifier = Counting()
    for synthetic in (3.0, 4.0):
        rivals = Rivals(images(2.0))
        utility(images(1.0), images(0.5), images(synthetic), [classifier], ["a", "b"], 5, 0, rivals, (), tmp_path)
    assert classifier.trained.count(2.0) == 1  # trivial: once
    assert classifier.trained.count(3.0) == 1 and classifier.trained.count(4.0) == 1
    assert classifier.trained.count(1.0) == 3  # real: once, and in both runs together with synthetic images
    utility(images(1.0), images(0.6), images(4.0), [classifier], ["a", "b"], 5, 0, Rivals(images(2.0)), (), tmp_path)
    assert classifier.trained.count(2.0) == 2  # other test patients
    classifier.settings = "three"
    utility(images(1.0), images(0.6), images(4.0), [classifier], ["a", "b"], 5, 0, Rivals(images(2.0)), (), tmp_path)
    assert classifier.trained.count(2.0) == 3  # the same classifier, trained otherwise


def test_all_trainings_that_are_compared_are_as_long() -> None:
    """On real images alone, on a share of them, and on real and synthetic ones together."""
    classifier, many = Counting(), images(3.0)
    many = Images.of(np.tile(many.x_NC, (3, 1, 1, 1)), np.tile(many.y_N, 3), np.arange(60).astype(str))
    utility(images(1.0), images(0.5), many, [classifier], ["a", "b"], 5, 0, Rivals(images(2.0)), (0.5,))
    assert classifier.like == [60] * 6


def test_settings_say_what_decides_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    network = ConvolutionalNetwork(1)
    before = network.settings
    for name in ("CHANNELS", "STEPS", "EPOCHS", "MOST_STEPS", "BATCH", "MOST", "LEARNING_RATE", "LONGEST"):
        with monkeypatch.context() as changed:
            changed.setattr(small_cnn, name, 7)
            assert network.settings != before, name
    assert "max_features=0.1" in Boosted(RandomConv(2, 0)).settings
    assert "C=0.1" in LinearProbe(RandomConv(2, 0)).settings
