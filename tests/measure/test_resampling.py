"""Resampling, exact intervals and distances against their definitions and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import binomtest

from imgsynth.measure import distances as module
from imgsynth.measure.distances import distances, nearest
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import (
    bootstrap_weights,
    clopper_pearson,
    percentile_interval,
    recentred_interval,
    sum_by_patient,
)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (0, 0), (77, 200)])
def test_clopper_pearson_agrees_with_scipy(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(0.95, "exact") if n else (0.0, 1.0)
    assert clopper_pearson(k, n) == pytest.approx(tuple(expected))


def test_bootstrap_interval_of_a_patient_mean_covers_and_one_of_images_does_not() -> None:
    """50 patients, 4 images each that differ little: resampled images would feign four times the sample."""
    random = np.random.default_rng(0)
    by_patient = by_image = 0
    for _ in range(400):
        level_P = random.standard_normal(50)
        values_N = np.repeat(level_P, 4) + 0.1 * random.standard_normal(200)
        sums_P = sum_by_patient(values_N, np.repeat(np.arange(50), 4), 50)
        low, high = percentile_interval(bootstrap_weights(50, 200, random) @ sums_P / 200)
        by_patient += low <= 0 <= high
        low, high = percentile_interval(bootstrap_weights(200, 200, random) @ values_N / 200)
        by_image += low <= 0 <= high
    assert 0.90 <= by_patient / 400 <= 0.98
    assert by_image / 400 < 0.80


def test_every_resample_draws_as_many_patients_as_there_are() -> None:
    weights = bootstrap_weights(7, 5, np.random.default_rng(0))
    assert (weights.sum(1) == 7).all()
    assert len(np.unique(weights, axis=0)) > 1


def test_recentred_interval_lies_around_the_value() -> None:
    replicates = np.random.default_rng(1).normal(5.0, 1.0, 10_000)
    assert recentred_interval(2.0, replicates) == pytest.approx((0.04, 3.96), abs=0.1)


def test_nearest_agrees_with_scipy_in_any_blocks_and_copies_are_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    a, b = random.standard_normal((23, 40)).astype(np.float32), random.standard_normal((17, 40)).astype(np.float32)
    a[4] = b[9]
    full = cdist(a, b)
    for values in (1, 5 * 40, 10**6):  # held at once: a row, five rows, all
        monkeypatch.setattr(module, "LEFT", values)
        monkeypatch.setattr(module, "RIGHT", values)
        distance_N, index_N = nearest(a, b)
        np.testing.assert_array_equal(index_N, full.argmin(1))
        np.testing.assert_allclose(distance_N, full.min(1), rtol=1e-5)
    assert distance_N[4] == 0.0
    np.testing.assert_allclose(distances(a, b), full, atol=5e-3)
    with pytest.raises(ValueError, match="at least one"):
        nearest(a, b[:0])


def test_images_are_chosen_by_whole_patients() -> None:
    images = Images(np.zeros((6, 1, 2, 2)), np.arange(6), np.array(list("babcca")))
    drawn = images.draw_patients(2, np.random.default_rng(0))
    assert drawn.n_patients == 2
    assert len(drawn) == sum(name in drawn.names_P for name in images.patients_N)
    with pytest.raises(ValueError, match="as many labels"):
        Images(np.zeros((2, 1, 2, 2)), np.zeros(3), np.zeros(2))
