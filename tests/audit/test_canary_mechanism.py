"""The checks of dose, noise and draws: silent on what the plan says, loud on near misses."""

from __future__ import annotations

import numpy as np
import pytest
from canary_cohort import make_plan
from scipy import stats

from imgsynth.audit.canaries.mechanism import LEVEL, Check, Mechanism

STEPS, M, Q = 40, 400, 0.2
FRESH = {"steps", "coordinates", "normal"}  # their p-values are upper bounds: tests/audit/test_canary_noise.py


def collected(seed: int, dose: float = 1.0, sigma: float = 1.5, claimed: float = 1.5, draw=None) -> dict[str, Check]:
    """Checks of a simulated trainer: ``draw(random, t, included)`` says who is drawn in step t."""
    random = np.random.default_rng(seed)
    coins = random.random(M) < 0.5
    mechanism = Mechanism(make_plan(sampling_rate=Q, steps=STEPS, noise_multiplier=claimed), coins)
    for t in range(STEPS):
        drawn = coins & (random.random(M) < Q)
        if draw is not None:
            drawn = np.zeros(M, bool)
            drawn[draw(random, t, np.flatnonzero(coins))] = True
        mechanism.add(drawn, dose * drawn + sigma * random.standard_normal(M))
    return {check.name: check for check in mechanism.checks()}


def test_a_sound_trainer_is_not_suspected() -> None:
    """p-values are spread as they should be, so that the level is what it says."""
    found = [collected(seed) for seed in range(60)]
    assert set(found[0]) == {"rate", "draws", "batches", "dose", "noise", *FRESH}
    for name in set(found[0]) - FRESH:
        p = np.array([checks[name].p for checks in found])
        assert p.min() > LEVEL and (p <= 0.2).mean() < 0.45, name
        assert stats.kstest(p, "uniform").pvalue > 1e-4, name


@pytest.mark.parametrize(("tosses", "rate"), [(10, 0.02), (100, 0.05), (5, 0.5)])
def test_the_spread_of_draws_is_rarely_suspected(tosses: int, rate: float) -> None:
    """At 1 % in 2,000 repetitions; counts of few tosses are far from normal."""
    mechanism = Mechanism(make_plan(sampling_rate=rate, steps=tosses), np.ones(250, bool))
    counts = np.random.default_rng(0).binomial(tosses, rate, (2000, 250))
    suspected = sum(mechanism._spread("draws", row, tosses).p < 0.01 for row in counts)
    assert suspected < 20 + 4 * 20**0.5


@pytest.mark.parametrize(
    ("broken", "name"),
    [({"dose": 1.3}, "dose"), ({"dose": 0.8}, "dose"), ({"sigma": 1.4}, "noise"), ({"sigma": 1.6}, "noise")],
    ids=["too much", "too little", "less noise", "more noise"],
)
def test_dose_and_noise_that_are_off_by_little_are_noticed(broken: dict[str, float], name: str) -> None:
    checks = collected(1, **broken)
    assert not checks[name].passed
    assert all(check.passed for other, check in checks.items() if other not in (name, "noise"))


def shuffled(random: np.random.Generator, t: int, included: np.ndarray) -> np.ndarray:
    """A fifth of an order that is drawn once in five steps."""
    order = np.random.default_rng(t // 5).permutation(included)
    return np.array_split(order, 5)[t % 5]


def fixed_size(random: np.random.Generator, t: int, included: np.ndarray) -> np.ndarray:
    return random.choice(included, round(Q * len(included)), replace=False)


def other_rate(random: np.random.Generator, t: int, included: np.ndarray) -> np.ndarray:
    return included[random.random(len(included)) < Q + 0.03]


@pytest.mark.parametrize(("draw", "name"), [(shuffled, "draws"), (fixed_size, "batches"), (other_rate, "rate")])
def test_other_samplers_are_noticed(draw, name: str) -> None:
    assert not collected(2, draw=draw)[name].passed


def test_a_canary_that_was_left_out_and_drawn_is_an_error_for_sure() -> None:
    coins = np.arange(M) % 2 == 0
    mechanism = Mechanism(make_plan(sampling_rate=Q, steps=1), coins)
    mechanism.add(~coins, None)
    assert {c.name: c.p for c in mechanism.checks()}["rate"] == 0.0


def test_without_noise_readings_are_exact() -> None:
    for dose, passed in ((1.0, True), (1.05, False)):
        checks = collected(3, dose=dose, sigma=0.0, claimed=0.0)
        assert checks["dose"].passed is passed and checks["noise"].passed
