"""Fréchet distance against scipy's matrix root, a closed form, and repeated trials for its interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from imgsynth.evaluate.frechet import (
    dimensions_for,
    frechet_squared,
    frechet_with_interval,
    gaussian,
    random_projection,
)
from imgsynth.evaluate.side import Side


def test_agrees_with_the_matrix_root_of_scipy() -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 40, 6)) @ random.standard_normal((6, 6)) + np.arange(2)[:, None, None]
    (m1, c1), (m2, c2) = ((x.mean(0), np.cov(x.T)) for x in (a, b))
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_squared(m1, c1, m2, c2) == pytest.approx(expected, rel=1e-9)


def test_closed_form_of_isotropic_gaussians_and_singular_covariance() -> None:
    d = 5
    mean = np.full(d, 0.5)
    assert frechet_squared(np.zeros(d), np.eye(d), mean, 4 * np.eye(d)) == pytest.approx(d * 0.25 + d * (1 - 2) ** 2)
    assert frechet_squared(np.zeros(d), np.zeros((d, d)), mean, np.eye(d)) == pytest.approx(d * 0.25 + d)


def test_weighted_moments_are_those_of_the_repeated_patients() -> None:
    random = np.random.default_rng(1)
    names = np.array(list("abacbbca"))
    features = random.standard_normal((8, 3)) + 1e4  # far from 0, as some encoders' are
    mean, cov = gaussian(Side.of(features, names), np.array([2.0, 0.0, 3.0]))
    drawn = np.concatenate([features[names == "a"]] * 2 + [features[names == "c"]] * 3)
    np.testing.assert_allclose(mean, drawn.mean(0))
    np.testing.assert_allclose(cov, np.cov(drawn.T), rtol=1e-9)


def test_interval_covers_what_the_statistic_is_on_average_and_by_images_it_would_not() -> None:
    """Four nearly equal images a patient: an interval that resamples images is near half as wide, and too narrow."""
    random = np.random.default_rng(2)
    each, n, d = 4, 40, 3
    clustered, single = np.repeat(np.arange(n), each), np.arange(n * each)

    def features(shift: float) -> np.ndarray:
        return np.repeat(random.standard_normal((n, d)) + shift, each, axis=0) + 0.1 * random.standard_normal(
            (n * each, d)
        )

    def value(a: np.ndarray, b: np.ndarray) -> float:
        return frechet_squared(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))

    average = np.mean([value(features(0.0), features(1.0)) for _ in range(2000)])
    covered = narrow = 0
    for _ in range(60):
        a, b = features(0.0), features(1.0)
        by_patient = frechet_with_interval(Side.of(a, clustered), Side.of(b, clustered), 100, random)
        by_image = frechet_with_interval(Side.of(a, single), Side.of(b, single), 100, random)
        covered += by_patient.low <= average <= by_patient.high
        narrow += by_image.low <= average <= by_image.high
    assert covered >= 51  # 85 % of 60; at 95 % coverage fewer are seen once in 500 runs
    assert narrow <= 48


def test_dimensions_follow_the_patients_and_the_projection_keeps_lengths() -> None:
    assert [dimensions_for(n, 480) for n in (0, 4, 19, 20, 39, 40, 90, 600, 10_000)] == [0, 0, 2, 4, 4, 8, 16, 64, 128]
    assert dimensions_for(10_000, 10) == 8
    projection = random_projection(30, 8)
    np.testing.assert_allclose(projection.T @ projection, np.eye(8), atol=1e-12)
    np.testing.assert_array_equal(projection, random_projection(30, 8))
