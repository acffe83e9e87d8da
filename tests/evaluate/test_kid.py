"""Kernel distance against a naive double loop, its expectation, and patients that count once."""

from __future__ import annotations

import numpy as np
import pytest

from imgsynth.evaluate import side
from imgsynth.evaluate.kid import kid_with_interval, weighted_mmd
from imgsynth.evaluate.side import Side


@pytest.fixture(params=[side.PAIRS, 9], ids=["one block", "many blocks"], autouse=True)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side, "PAIRS", request.param)


def owned(x_ND: np.ndarray, names: str) -> Side:
    return Side.of(x_ND, np.array(list(names)))


def kernel(a: np.ndarray, b: np.ndarray) -> float:
    return float((a @ b / len(a) + 1) ** 3)


def naive_mmd(a: np.ndarray, who_a: str, b: np.ndarray, who_b: str) -> float:
    def within(x: np.ndarray, who: str) -> float:
        pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if who[i] != who[j]]
        return float(np.mean([kernel(x[i], x[j]) for i, j in pairs]))

    return within(a, who_a) + within(b, who_b) - 2 * float(np.mean([kernel(p, q) for p in a for q in b]))


@pytest.mark.parametrize(("who_a", "who_b"), [("abcdefg", "hijkl"), ("aabbbcd", "hhiij")])
def test_agrees_with_a_double_loop(who_a: str, who_b: str) -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal((7, 4)), random.standard_normal((5, 4)) + 0.5
    measured = kid_with_interval(owned(a, who_a), owned(b, who_b), 10, random).value
    assert measured == pytest.approx(naive_mmd(a, who_a, b, who_b), rel=1e-10)


def test_a_resample_never_pairs_a_patient_with_its_own_copy() -> None:
    random = np.random.default_rng(1)
    a, b = random.standard_normal((4, 3)), random.standard_normal((3, 3))
    weights = np.array([[2.0, 0.0, 1.0, 1.0]]), np.array([[1.0, 1.0, 1.0]])
    measured = weighted_mmd(owned(a, "abcd"), weights[0], owned(b, "xyz"), weights[1])[0]
    assert measured == pytest.approx(naive_mmd(a[[0, 0, 2, 3]], "aacd", b, "xyz"), rel=1e-10)


def test_is_unbiased_where_the_biased_estimate_is_not() -> None:
    random = np.random.default_rng(2)
    same = [
        kid_with_interval(*(owned(random.standard_normal((12, 4)), "abcdefghijkl") for _ in "ab"), 1, random).value
        for _ in range(600)
    ]
    error = np.std(same) / np.sqrt(len(same))
    assert abs(np.mean(same)) < 4 * error
    with_own_pairs = np.mean([kernel(x, x) for x in random.standard_normal((2000, 4))]) - 1.0
    assert 2 * with_own_pairs / 12 > 20 * error  # what the V-statistic would add: this test would see it


def test_interval_is_about_patients() -> None:
    """Repeating every image four times under the same patient changes neither value nor interval."""
    random = np.random.default_rng(3)
    a, b = random.standard_normal((20, 4)), random.standard_normal((20, 4)) + 0.4
    names = "abcdefghijklmnopqrst"
    once = kid_with_interval(owned(a, names), owned(b, names), 300, np.random.default_rng(0))
    often = [np.repeat(x, 4, axis=0) for x in (a, b)]
    names4 = "".join(c * 4 for c in names)
    again = kid_with_interval(*(owned(x, names4) for x in often), 300, np.random.default_rng(0))
    assert (once.value, once.low, once.high) == pytest.approx((again.value, again.low, again.high))
    assert once.low < once.value < once.high


def test_a_resample_of_one_patient_alone_has_no_estimate() -> None:
    x = np.random.default_rng(4).standard_normal((3, 4))
    w = np.array([[3.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    found = weighted_mmd(owned(x, "abc"), w, owned(x, "xyz"), np.ones((2, 3)))
    assert np.isnan(found[0]) and np.isfinite(found[1])
