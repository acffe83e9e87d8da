"""The one-run bound: golden numbers, a naive twin, a second library, and what must not be done with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta, binomtest

from imgsynth.audit.one_run import Guesses, OneRunBound, epsilon_one_run, guess, one_run_p_value


@pytest.mark.parametrize(
    ("guessed", "correct", "alpha", "golden"),
    [(100, 100, 0.05, 3.479195), (100, 100, 0.01, 3.023198), (100, 60, 0.05, 0.0507356), (35, 23, 0.05, 0.0145487)],
)
def test_published_audits_of_500_canaries(guessed: int, correct: int, alpha: float, golden: float) -> None:
    assert epsilon_one_run(500, guessed, correct, alpha, 1e-5) == pytest.approx(golden, abs=5e-7, rel=2e-6)


def naive_p_value(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """Theorem 5.2 term by term, every probability a sum of its own."""
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    mass = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    slack = max((math.fsum(mass[max(v - i, 0) : v]) / i for i in range(1, v + 1)), default=0.0)
    return min(1.0, math.fsum(mass[v:]) + 2 * m * delta * slack)


@pytest.mark.parametrize(("m", "r", "v"), [(20, 12, 11), (300, 40, 31), (1000, 200, 130), (5, 5, 5), (9, 4, 0)])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
def test_p_value_is_the_theorem_term_by_term(m: int, r: int, v: int, delta: float) -> None:
    for epsilon in (0.0, 0.3, 1.0, 4.0):
        ours = one_run_p_value(m, r, v, epsilon, delta)
        assert ours == pytest.approx(naive_p_value(m, r, v, epsilon, delta), rel=1e-9, abs=1e-15)


def test_bound_is_where_the_naive_p_value_crosses_alpha() -> None:
    for m, r, v, delta in ((300, 40, 31, 1e-4), (1000, 200, 150, 1e-5), (60, 60, 55, 0.0)):
        bound = epsilon_one_run(m, r, v, 0.05, delta)
        assert naive_p_value(m, r, v, bound - 1e-6, delta) < 0.05 < naive_p_value(m, r, v, bound + 1e-6, delta)


def test_without_delta_it_is_the_logit_of_the_binomial_bound() -> None:
    lower = beta.ppf(0.05, 80, 21)
    assert epsilon_one_run(500, 100, 80, 0.05, 0.0) == pytest.approx(math.log(lower / (1 - lower)), rel=1e-12)


def test_second_library_agrees() -> None:
    auditing = pytest.importorskip("jax_privacy.auditing")
    random = np.random.default_rng(0)
    for _ in range(40):
        m = int(random.integers(10, 3000))
        r = int(random.integers(1, m + 1))
        v = int(random.integers(r // 2, r + 1))
        delta = float(10 ** random.uniform(-9, -2))
        theirs = auditing._epsilon_one_run(0, m, r, v, 0.05, delta)
        assert epsilon_one_run(m, r, v, 0.05, delta) == pytest.approx(theirs, abs=2e-6)


def test_nothing_is_bounded_by_no_guesses_or_by_coins() -> None:
    assert epsilon_one_run(100, 0, 0, 0.05, 1e-5) == 0.0
    assert epsilon_one_run(100, 100, 50, 0.05, 0.0) == 0.0
    assert epsilon_one_run(100, 4, 4, 0.05, 0.0) == 0.0  # 1/16 > α: four right guesses may be luck
    assert epsilon_one_run(100, 5, 5, 0.05, 0.0) > 0.0
    assert epsilon_one_run(100, 100, 100, 0.05, 0.5) == 0.0  # such a δ allows it all


def test_ceiling_is_all_guesses_right() -> None:
    bound = OneRunBound.of(Guesses(500, 100, 100), 0.05, 1e-5)
    assert bound.epsilon == bound.ceiling == pytest.approx(3.479195, abs=1e-6)
    assert OneRunBound.of(Guesses(500, 100, 60), 0.05, 1e-5).ceiling == bound.ceiling


def test_highest_are_called_in_lowest_out_and_the_rest_left_alone() -> None:
    score = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 0.0])
    included = np.array([True, False, True, True, False, True])
    random = np.random.default_rng(0)
    assert guess(score, included, 2, 0, random) == Guesses(6, 2, 2)  # 5, 4
    assert guess(score, included, 0, 2, random) == Guesses(6, 2, 1)  # 0 is included, 1 is not
    assert guess(score, included, 2, 2, random) == Guesses(6, 4, 3)
    assert guess(score, included, 0, 0, random) == Guesses(6, 0, 0)
    with pytest.raises(ValueError, match="4 \\+ 3 guesses on 6"):
        guess(score, included, 4, 3, random)


def test_places_of_equal_scores_say_nothing() -> None:
    """Canaries often come sorted, included ones first: a stable sort would guess all of them right."""
    included = np.arange(200) < 100
    random = np.random.default_rng(0)
    right = sum(guess(np.zeros(200), included, 20, 20, random).correct for _ in range(50))
    assert binomtest(right, 2000).pvalue > 1e-3
