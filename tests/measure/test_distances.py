"""Distances by blocks of matrix products, against scipy's loops: near copies, half precision, borders of blocks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from imgsynth.measure import distances as module
from imgsynth.measure.distances import distances, nearest


@pytest.fixture(params=[None, 50], ids=["one block", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(module, "LEFT", request.param)
        monkeypatch.setattr(module, "RIGHT", request.param // 2)


def vectors(n: int, seed: int, d: int = 12) -> np.ndarray:
    """Far from the origin in proportion to their spread, as images are."""
    return (5 + np.random.default_rng(seed).standard_normal((n, d))).astype(np.float32)


@pytest.mark.usefixtures("blocks")
def test_distances_are_those_of_a_loop() -> None:
    a, b = vectors(23, 0), vectors(31, 1)
    b[4], b[30], b[0] = a[2], a[2] + 1e-4, a[22] + 1e-2
    np.testing.assert_allclose(distances(a, b), cdist(a, b), rtol=1e-3, atol=0)
    distance, index = nearest(a, b)
    np.testing.assert_allclose(distance, cdist(a, b).min(1), rtol=1e-6)
    assert (index == cdist(a, b).argmin(1)).all()
    assert index[2] == 4 and distance[2] == 0.0


def test_a_copy_is_at_zero_and_its_near_copies_are_told_apart_in_many_dimensions() -> None:
    """Without the second look the error would be some 0.05 here, and the near copy could be taken for the copy."""
    d = 20_000
    a, b = vectors(5, 0, d), vectors(200, 1, d)
    noise = np.random.default_rng(2).standard_normal(d)
    b[50], b[150] = a[3] + (0.05 * noise / np.linalg.norm(noise)).astype(np.float32), a[3]
    table = distances(a, b)
    assert table[3, 150] == 0.0
    assert table[3, 50] == pytest.approx(0.05, rel=1e-3)
    assert nearest(a, b)[0][3] == 0.0 and nearest(a, b)[1][3] == 150
    np.testing.assert_allclose(table, cdist(a, b), rtol=1e-3, atol=1e-6)


@pytest.mark.usefixtures("blocks")
def test_half_precision_keeps_copies_at_zero_and_others_within_the_bound_of_rounding() -> None:
    random = np.random.default_rng(0)
    a, b = (random.uniform(-1, 1, (n, 64)).astype(np.float32) for n in (9, 14))
    b[3] = a[5]
    stored = b.astype(np.float16)
    assert distances(a, stored)[5, 3] == 0.0
    assert nearest(a, stored)[0][5] == 0.0
    assert nearest(stored, a)[0][3] == 0.0
    assert np.abs(distances(a, stored) - cdist(a, b)).max() <= 2**-11 * np.sqrt(64)


def test_nothing_to_compare() -> None:
    assert distances(np.zeros((0, 3), np.float32), np.zeros((4, 3), np.float32)).shape == (0, 4)
    assert distances(np.zeros((4, 3), np.float32), np.zeros((0, 3), np.float32)).shape == (4, 0)
    assert nearest(np.zeros((0, 3), np.float32), np.zeros((4, 3), np.float32))[0].shape == (0,)
    with pytest.raises(ValueError, match="at least one"):
        nearest(np.zeros((4, 3), np.float32), np.zeros((0, 3), np.float32))


def test_images_without_any_difference_are_at_distance_zero() -> None:
    assert (distances(np.ones((3, 5), np.float32), np.ones((4, 5), np.float32)) == 0).all()
