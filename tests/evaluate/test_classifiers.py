"""The classifiers on features: they learn, weigh classes equally, and draw nothing but what the seed says."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from imgsynth.evaluate.classifiers import Boosted, LinearProbe, OnFeatures
from imgsynth.measure.encoders import RandomConv

ON_FEATURES: list[type[OnFeatures]] = [LinearProbe, Boosted]


def features(n: int, signal: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """[n, 40] in three classes of 80, 15 and 5 %."""
    random = np.random.default_rng(seed)
    y_N = np.searchsorted([0.8, 0.95], np.arange(n) / n, side="right")
    x_NF = random.normal(size=(n, 40)).astype(np.float32)
    x_NF[:, :3] += signal * np.eye(3, dtype=np.float32)[y_N]
    return x_NF, y_N


@pytest.mark.parametrize("kind", ON_FEATURES)
def test_classes_weigh_the_same_however_many_images_they_have(kind: type[OnFeatures]) -> None:
    model = kind(RandomConv(2, 0))
    (x_NF, y_N), (test_NF, test_N) = features(400, 2.0, 0), features(400, 2.0, 1)
    found = model.scores(x_NF, y_N, test_NF, 3, 0)
    assert found.shape == (400, 3)
    np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-5)
    assert balanced_accuracy_score(test_N, found.argmax(1)) > 0.6
    same_NF = np.zeros_like(x_NF)  # nothing to learn: every class as likely as any, not 80, 15 and 5 %
    np.testing.assert_allclose(model.scores(same_NF, y_N, same_NF, 3, 0), 1 / 3, atol=1e-3)


def test_trees_differ_by_seed_alone() -> None:
    model, (x_NF, y_N) = Boosted(RandomConv(2, 0), 3), features(200, 1.0, 3)
    one, same, other = (model.scores(x_NF, y_N, x_NF, 3, seed) for seed in (0, 0, 1))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
