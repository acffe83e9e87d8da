"""Shared distances: the same numbers as computed alone, for patched sets too, and forgotten with their images."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from sklearn.decomposition import PCA

from imgsynth.audit.spaces import NAMES, fit_space, flat, principal_components
from imgsynth.audit.synthesizers import Patched
from imgsynth.audit.tables import Tables
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images


def images(n: int, seed: int, shape: tuple[int, ...]) -> Images:
    x_NC = np.random.default_rng(seed).uniform(-1, 1, (n, 1, *shape)).astype(np.float32)
    return Images(x_NC, np.zeros(n, dtype=int), np.array([f"{seed}-{i:03d}" for i in range(n)]))


@pytest.mark.parametrize("shape", [(9, 8), (8, 9, 10)], ids=["2d", "3d"])
@pytest.mark.parametrize("name", NAMES)
def test_a_patched_set_has_the_distances_of_the_whole_set(name: str, shape: tuple[int, ...]) -> None:
    encoder = get_encoder("random_conv", len(shape), 0)
    patients, base = images(7, 0, shape), images(60, 1, shape)
    patched = Patched(base, np.array([5, 40]), patients.x_NC[[2, 6]])
    whole = Images(patched.x_NC.copy(), base.y_N, base.patients_N)
    tables = Tables(encoder)
    expected_space = fit_space(name, whole, encoder)
    expected = expected_space.distances(expected_space.embed(patients.x_NC), expected_space.embed(whole.x_NC))
    tables.distances(tables.space(name, base), patients, base)  # known before
    space = tables.space(name, patched)
    np.testing.assert_allclose(tables.distances(space, patients, patched), expected, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(tables.vectors(space, patched), expected_space.embed(whole.x_NC), rtol=1e-3, atol=1e-4)
    assert expected[2].argmin() == 5 and expected[6].argmin() == 40


def test_a_table_is_computed_once_and_forgotten_with_its_images() -> None:
    tables, patients, samples = Tables(get_encoder("random_conv", 2, 0)), images(3, 0, (8, 8)), images(9, 1, (8, 8))
    space = tables.space("pca", samples)
    assert tables.distances(space, patients, samples) is tables.distances(space, patients, samples)
    assert tables.space("pca", samples) is space
    assert tables.space("pca", images(9, 2, (8, 8))) is not space
    assert tables.space("raw", samples) is tables.space("raw", patients)
    del samples, space
    gc.collect()
    assert not tables._tables and not tables._fitted


def test_principal_components_are_those_of_sklearn() -> None:
    random = np.random.default_rng(0)
    x = (random.standard_normal((60, 30)) * np.linspace(5, 0.5, 30) + 3).astype(np.float32)
    other = random.standard_normal((11, 30)).astype(np.float32)
    oracle = PCA(6, svd_solver="full").fit(x)
    measured, expected = principal_components(x, 6)(other, batch=4), oracle.transform(other)
    signs = np.sign((measured * expected).sum(0))
    np.testing.assert_allclose(measured * signs, expected, atol=1e-3)


def test_axes_without_variance_are_left_out() -> None:
    x = np.zeros((20, 10), dtype=np.float32)
    x[:, :2] = np.random.default_rng(0).standard_normal((20, 2))
    assert principal_components(x, 6)(x).shape == (20, 2)
    assert principal_components(np.ones((20, 10), np.float32), 6)(x).shape == (20, 0)


def test_raw_space_keeps_half_precision_without_a_copy() -> None:
    x_NC = np.zeros((4, 1, 8, 8), dtype=np.float16)
    assert np.shares_memory(flat(x_NC), x_NC) and flat(x_NC).dtype == np.float16
