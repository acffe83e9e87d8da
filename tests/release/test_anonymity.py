"""k, l and t against naive loops and published tables; what is made anonymous keeps what was asked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsynth.release.anonymity import (
    SUPPRESSED,
    Anonymity,
    anonymised,
    equal_distance,
    measure,
    suppressed,
)

# Machanavajjhala et al. 2007, figures 2 and 3: the same twelve inpatients, 4-anonymous and 3-diverse.
ILL = ["heart", "heart", "viral", "viral", "cancer", "heart", "viral", "viral", *["cancer"] * 4]
FOUR_ANONYMOUS = [("130**", "<30")] * 4 + [("1485*", ">=40")] * 4 + [("130**", "3*")] * 4
ZIPS = ["1305*", "1306*", "1306*", "1305*", *["1485*"] * 4, "1305*", "1305*", "1306*", "1306*"]
THREE_DIVERSE = [(zip_, ">40" if zip_ == "1485*" else "<=40") for zip_ in ZIPS]

tables = st.lists(
    st.tuples(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), st.sampled_from(["ill", "well", "odd"])),
    min_size=1, max_size=24,
)  # fmt: skip


def naive(rows: list, sensitive: list) -> Anonymity:
    """Straight from the definitions, row by row."""
    k, l, t = len(rows), len(set(sensitive)), 0.0
    for row in rows:
        mine = [value for other, value in zip(rows, sensitive, strict=True) if other == row]
        distance = sum(
            abs(mine.count(value) / len(mine) - sensitive.count(value) / len(rows)) for value in set(sensitive)
        )
        k, l, t = min(k, len(mine)), min(l, len(set(mine))), max(t, distance / 2)
    return Anonymity(k, l, t)


@given(tables)
def test_measures_are_those_of_a_naive_loop(table: list) -> None:
    rows, sensitive = [row for row, _ in table], [value for _, value in table]
    got, expected = measure(rows, sensitive), naive(rows, sensitive)
    assert (got.k, got.l) == (expected.k, expected.l) and got.t == pytest.approx(expected.t, abs=1e-12)


def test_published_tables() -> None:
    assert (measure(FOUR_ANONYMOUS, ILL).k, measure(FOUR_ANONYMOUS, ILL).l) == (4, 1)  # the homogeneity attack
    assert (measure(THREE_DIVERSE, ILL).k, measure(THREE_DIVERSE, ILL).l) == (4, 3)
    # heart 3, viral 4, cancer 5 of 12; the last class of four has cancer alone
    assert measure(FOUR_ANONYMOUS, ILL).t == pytest.approx(7 / 12)


def transport(p: np.ndarray, q: np.ndarray, cost: np.ndarray) -> float:
    """Earth Mover's Distance as the linear program that defines it."""
    from scipy.optimize import linprog

    m = len(p)
    leave = np.kron(np.eye(m), np.ones(m))
    arrive = np.kron(np.ones(m), np.eye(m))
    return float(linprog(cost.ravel(), A_eq=np.vstack([leave, arrive]), b_eq=np.concatenate([p, q])).fun)


@pytest.mark.parametrize("seed", range(4))
def test_the_distance_is_the_least_work_of_moving_earth(seed: int) -> None:
    random = np.random.default_rng(seed)
    p, q = random.dirichlet(np.ones(5)), random.dirichlet(np.ones(5))
    i = np.arange(5)
    assert equal_distance(p, q) == pytest.approx(transport(p, q, (i[:, None] != i).astype(float)))


@given(tables, st.integers(1, 6), st.integers(1, 3), st.sampled_from([0.1, 0.3, 1.0]))
def test_what_is_suppressed_keeps_what_was_asked_or_cannot(table: list, k: int, l: int, t: float) -> None:
    rows, sensitive, asked = [row for row, _ in table], [value for _, value in table], Anonymity(k, l, t)
    kept = suppressed(rows, sensitive, asked)
    if kept is None:
        assert not naive([()] * len(rows), sensitive).keeps(asked)  # not even without any value
        return
    assert naive(kept, sensitive).keeps(asked)
    assert all(new in (old, (SUPPRESSED,) * 2) for old, new in zip(rows, kept, strict=True))
    if naive(rows, sensitive).keeps(asked):
        assert kept == rows  # nothing without need


LEVELS = [
    [{"21": "20s", "25": "20s", "31": "30s"}, dict.fromkeys(("21", "25", "31"), SUPPRESSED)],
    [dict.fromkeys("FM", SUPPRESSED)],
]


def test_what_loses_least_is_taken() -> None:
    """Ages 21 and 25 must be joined; the one of 31 goes into no class, and sex need not be given up."""
    rows = [("21", "F"), ("25", "F"), ("21", "M"), ("25", "M")] * 3
    labels = ["ill", "ill", "well", "well"] * 3
    assert set(anonymised(rows, labels, Anonymity(6, 1, 1.0), LEVELS)) == {("20s", "F"), ("20s", "M")}
    assert anonymised(rows, labels, Anonymity(3, 1, 1.0), LEVELS) == rows
    both = anonymised(rows, labels, Anonymity(3, 2, 1.0), LEVELS)  # sexes differ in illness: they must be joined
    assert set(both) == {("21", "*"), ("25", "*")}
    assert set(anonymised(rows, labels, Anonymity(12, 1, 1.0), LEVELS)) == {("20s", "*")}


@given(st.lists(st.tuples(st.sampled_from(["21", "25", "31"]), st.sampled_from("FM")), min_size=4, max_size=14))
def test_no_combination_of_levels_that_loses_less_would_do(rows: list) -> None:
    labels, asked = ["ill", "well"] * 7, Anonymity(3, 1, 0.4)
    labels = labels[: len(rows)]

    def kept(coarse: list) -> list:
        """Row by row: what is said is said by a class that keeps what was asked."""
        good = []
        for row in coarse:
            mine = [i for i, other in enumerate(coarse) if other == row]
            distance = sum(abs([labels[i] for i in mine].count(v) / len(mine) - labels.count(v) / len(labels))
                           for v in set(labels)) / 2  # fmt: skip
            good.append(row if len(mine) >= 3 and distance <= 0.4 + 1e-9 else (SUPPRESSED, SUPPRESSED))
        return good

    def lost(table: list, age: int, sex: int) -> float:
        return sum(1.0 if a == SUPPRESSED else age / 3 for a, _ in table) + sum(
            1.0 if s == SUPPRESSED else sex / 2 for _, s in table
        )

    every = {}
    for age, sex in itertools.product(range(3), range(2)):
        coarse = [(a if age == 0 else LEVELS[0][age - 1][a], s if sex == 0 else SUPPRESSED) for a, s in rows]
        every[age, sex] = kept(coarse)
    best = min(lost(table, *levels) for levels, table in every.items())
    made = anonymised(rows, labels, asked, LEVELS)
    assert any(table == made and lost(table, *levels) == pytest.approx(best) for levels, table in every.items())


def test_where_nothing_can_be_said_nothing_is() -> None:
    assert anonymised([("21", "F")] * 4, ["ill"] * 4, Anonymity(9, 1, 1.0), LEVELS) == [("*", "*")] * 4
    assert suppressed([("21", "F")] * 4, ["ill"] * 4, Anonymity(2, 2, 1.0)) is None
    with pytest.raises(ValueError, match="none"):
        measure([], [])
