"""Precision, recall, density and coverage against the package of Naeem et al., and on patients of many images."""

from __future__ import annotations

import numpy as np
import prdc
import pytest

from imgsynth.evaluate import side
from imgsynth.evaluate.manifold import NEIGHBOURS, NOTES, Neighbours, mean_with_interval, radii
from imgsynth.evaluate.side import Side


@pytest.mark.parametrize("pairs", [side.PAIRS, 500], ids=["one block", "many blocks"])
@pytest.mark.parametrize("shift", [0.0, 1.0, 6.0])
def test_agrees_with_the_authors_package(shift: float, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side, "PAIRS", pairs)
    random = np.random.default_rng(0)
    real, fake = random.standard_normal((90, 7)), random.standard_normal((70, 7)) * 1.2 + shift
    expected = prdc.compute_prdc(real, fake, nearest_k=NEIGHBOURS)
    found = Neighbours.of(*(Side.of(x.astype(np.float32), np.arange(len(x))) for x in (real, fake)))
    for name in NOTES:
        assert found.of_images(name)[0].mean() == pytest.approx(expected[name], abs=1e-6), name
    assert len(found.of_images("coverage")[0]) == 90 and len(found.of_images("density")[0]) == 70


def test_images_of_one_patient_do_not_make_each_others_balls_small() -> None:
    """Each patient's image twice: radii are those of the patients alone; counted as strangers they would shrink."""
    x = np.random.default_rng(1).standard_normal((40, 3)).astype(np.float32)
    twice, owners = np.repeat(x, 2, axis=0), np.repeat(np.arange(40), 2)
    alone = radii(Side.of(x, np.arange(40)))
    strangers = radii(Side.of(twice, np.arange(80)))
    # the k-th image of others is the ⌈k/2⌉-th other patient
    half = np.partition(np.linalg.norm(x[:, None] - x[None], axis=2) + np.diag(np.full(40, np.inf)), 2, axis=1)[:, 2]
    np.testing.assert_allclose(radii(Side.of(twice, owners))[::2], half, rtol=1e-3)
    assert (strangers[::2] < radii(Side.of(twice, owners))[::2] + 1e-6).all() and (strangers[::2] < alone).all()


def test_intervals_are_of_patients_not_of_images() -> None:
    def of(n: int, each: int) -> Side:
        return Side.of(np.zeros((n * each, 1)), np.repeat(np.arange(n), each))

    random = np.random.default_rng(2)
    by_patient = random.integers(0, 2, 40).astype(float)
    once = mean_with_interval(by_patient, of(40, 1), 500, np.random.default_rng(0))
    copies = mean_with_interval(np.repeat(by_patient, 25), of(40, 25), 500, np.random.default_rng(0))
    assert (once.low, once.value, once.high) == (copies.low, copies.value, copies.high)
    half = 1.96 * np.sqrt(once.value * (1 - once.value) / 40)
    assert once.high - once.low == pytest.approx(2 * half, rel=0.2)
