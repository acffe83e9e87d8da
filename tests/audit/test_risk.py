"""Risk by group and of single patients: matched, suppressed where small, corrected, and exact where nothing leaks."""

from __future__ import annotations

import numpy as np
import pytest

from imgsynth.audit.risk import SMALLEST, WORST, by_group, worst_names, worst_patients

NAMES = np.array([f"p{i:03d}" for i in range(400)])


def facts(*values: str) -> dict[str, dict[str, str]]:
    """Patients take the values of sex in turn; everybody is of one site."""
    return {name: {"sex": values[i % len(values)], "site": "A"} for i, name in enumerate(NAMES)}


def groups(in_P: np.ndarray, out_Q: np.ndarray, known: dict[str, dict[str, str]]) -> dict[str, dict[str, object]]:
    found = by_group(in_P, NAMES[:200], out_Q, NAMES[200:], known, 0.05)
    return {f"{g['fact']} {g['value']}": g for g in found["groups"]} | {"rest": found}


def test_a_leak_about_one_sex_shows_there_and_a_difference_between_sexes_does_not() -> None:
    random = np.random.default_rng(0)
    in_P, out_Q = random.standard_normal(200), random.standard_normal(200)
    in_P[1::2] += 3  # F is nearer to everything, in and out
    out_Q[1::2] += 3
    found = groups(in_P, out_Q, facts("M", "F"))
    assert not found["sex M"]["stands_out"] and not found["sex F"]["stands_out"]
    in_P[1::2] += 1
    found = groups(in_P, out_Q, facts("M", "F"))
    assert found["sex F"]["stands_out"] and not found["sex M"]["stands_out"]
    assert (found["sex F"]["n_members"], found["sex F"]["n_nonmembers"]) == (100, 100)
    assert set(found) == {"sex M", "sex F", "rest"}  # one site is no division


def test_small_groups_are_not_shown() -> None:
    known = facts("M")
    for name in [*NAMES[: SMALLEST - 1], *NAMES[200 : 200 + SMALLEST]]:
        known[name] = {"sex": "F"}
    found = groups(np.zeros(200), np.zeros(200), known)
    assert "sex F" not in found and "sex M" in found
    assert found["rest"]["not_shown"] == 2  # F, and those without a site
    known[NAMES[SMALLEST]] = {"sex": "F"}
    assert "sex F" in groups(np.zeros(200), np.zeros(200), known)


def test_with_many_groups_chance_does_not_stand_out() -> None:
    random, out = np.random.default_rng(1), 0
    known = {name: {"site": f"site {i % 10}"} for i, name in enumerate(NAMES)}
    for _ in range(300):
        found = groups(random.standard_normal(200), random.standard_normal(200), known)
        out += any(g["stands_out"] for name, g in found.items() if name != "rest")
    assert 0 < out <= 0.05 * 300 + 3 * np.sqrt(300 * 0.05 * 0.95)


def test_worst_patients_by_their_place_among_nonmembers() -> None:
    in_P, out_Q = np.array([5.0, 1.0, 9.0, 3.0]), np.array([0.0, 2.0, 4.0, 6.0])
    found = worst_patients(in_P, out_Q)
    assert found["percentiles"] == [100.0, 75.0, 50.0, 25.0]
    assert found["above_every_nonmember"] == 1
    assert found["expected"] == pytest.approx(4 / 5)
    assert found["p"] == pytest.approx(0.5)
    assert worst_names(in_P, np.array(list("abcd"))) == ["c", "a", "d", "b"]
    assert len(worst_patients(np.arange(99.0), np.zeros(5))["percentiles"]) == WORST


def test_p_value_of_those_above_all_is_exact() -> None:
    random, small = np.random.default_rng(2), 0
    for _ in range(2000):
        scores = random.standard_normal(50)
        small += worst_patients(scores[:20], scores[20:])["p"] <= 0.05
    level = (20 * 19 * 18 * 17) / (50 * 49 * 48 * 47)  # the largest attainable p below 0.05 is that of four
    assert small / 2000 == pytest.approx(level, abs=4 * np.sqrt(level / 2000))
