"""Telling synthetic from real: chance for more patients, found for planted differences, and named by what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata

from imgsynth.evaluate.classifiers import Classifier, LinearProbe
from imgsynth.evaluate.detect import (
    detectability,
    halves,
    told_apart,
    without_grey_values,
    without_structure,
    without_texture,
)
from imgsynth.evaluate.metric import Comparison, NotDone
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.types import Grid

GRID = Grid((16, 16), (1.0, 1.0), "PL", "CT", "HU", -1000.0, 1000.0)


class Memory(Classifier):
    """Knows every image that it was trained on, and nothing else."""

    name, encoder, seeds, settings = "memory", None, 1, ""

    def seen(self, x_NC: np.ndarray) -> np.ndarray:
        return x_NC

    def scores(
        self, x_NC: np.ndarray, y_N: np.ndarray, x_MC: np.ndarray, classes: int, seed: int, like: int | None = None
    ) -> np.ndarray:  # fmt: skip
        known = {x.tobytes(): y for x, y in zip(x_NC, y_N, strict=True)}
        p = np.array([known.get(x.tobytes(), 0.5) for x in x_MC], dtype=float)
        return np.stack([1 - p, p], axis=1)


def test_what_a_classifier_has_seen_is_not_what_it_is_asked() -> None:
    random = np.random.default_rng(0)
    sides = [Images(random.normal(size=(40, 1, 4, 4)), np.zeros(40, int), np.repeat([f"{s}{i}" for i in range(20)], 2))
             for s in "ab"]  # fmt: skip
    seen_N = np.concatenate([side.x_NC for side in sides])
    assert told_apart(*sides, Memory(), seen_N, 50, random)["value"] == 0.5
    # two images of a patient are in one half
    half_N = halves(sides[0], random)
    assert (half_N[::2] == half_N[1::2]).all() and half_N.sum() == 20


def compare(digits: Images, change: Any = None) -> Comparison:
    train, test, third = (digits.select(np.arange(i * 250, (i + 1) * 250)) for i in range(3))
    x_NC = third.x_NC if change is None else change(third.x_NC)
    return Comparison(train, test, synthetic_images(x_NC, third.y_N), get_encoder("random_conv", 2, 0), GRID, 100, 0)


def test_more_patients_are_not_told_from_patients_and_offsets_are_by_their_grey_values(digits: Images) -> None:
    probe = [LinearProbe(get_encoder("random_conv", 2, 0))]
    like = detectability(compare(digits), probe)
    (row,) = like["results"]
    assert all(0.4 < row[name]["value"] < 0.6 and row[name]["low"] < 0.52 for name in ("auc", "floor"))
    assert "No classifier told" in like["sentence"]
    shifted = detectability(compare(digits, lambda x: 0.8 * x + 0.1), probe)
    (row,) = shifted["results"]
    assert row["auc"]["value"] > 0.95 and row["without"]["grey values"]["value"] < 0.6
    assert "most by grey values" in shifted["sentence"]
    checkered = np.indices((16, 16)).sum(0) % 2 * 0.1
    planted = detectability(compare(digits, lambda x: (x + checkered).astype(np.float32)), probe)
    assert "most by fine texture" in planted["sentence"]
    with pytest.raises(NotDone, match="it takes 20"):
        c = compare(digits)
        detectability(Comparison(c.train, c.test.select(np.arange(5)), c.synthetic, c.encoder, GRID, 10, 0), probe)


def test_what_is_taken_away_is_away() -> None:
    x = np.random.default_rng(0).integers(0, 5, (3, 1, 6, 7)).astype(np.float32)
    ranked = without_grey_values(x)
    for image, of in zip(ranked, x, strict=True):
        np.testing.assert_allclose(image.ravel(), 2 * (rankdata(of.ravel()) - 1) / 41 - 1, atol=1e-6)
    np.testing.assert_array_equal(without_grey_values(x * 3 - 7), ranked)
    np.testing.assert_allclose(without_texture(x) + without_structure(x), x, atol=1e-5)
    np.testing.assert_allclose(without_structure(np.full((1, 1, 9, 9), 0.3)), 0, atol=1e-6)
