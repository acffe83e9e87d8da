"""The test of the claimed trade-off curve: a naive twin, a second library's numbers, claims that are true and false."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from dp_accounting import dp_event as dp
from scipy.stats import norm

from imgsynth.audit.fdp import SMALLEST_P, excess_at, fdp_p_value
from imgsynth.audit.one_run import Guesses
from imgsynth.privacy.tradeoff import NOTHING_CLAIMED, TradeOff, trade_off_of


def naive_excess(guesses: Guesses, inverse, level: float) -> float:  # type: ignore[no-untyped-def]
    """Algorithm 3 as it is printed, to the end, in arrays."""
    m, guessed, correct = guesses.canaries, guesses.guessed, guesses.correct
    r, h = np.zeros(correct + 1), np.zeros(correct + 1)
    r[correct], h[correct] = level * correct / m, level * (guessed - correct) / m
    for i in range(correct - 1, -1, -1):
        h[i] = max(h[i + 1], inverse(min(1.0, r[i + 1])))
        r[i] = r[i + 1] + i / (guessed - i) * (h[i] - h[i + 1])
    return r[0] + h[0] - guessed / m


def gaussian(mu: float):  # type: ignore[no-untyped-def]
    return lambda y: float(norm.cdf(norm.ppf(y) - mu))


@pytest.mark.parametrize("guesses", [Guesses(100, 30, 27), Guesses(1000, 100, 95), Guesses(60, 60, 50)])
@pytest.mark.parametrize("mu", [0.0, 0.7, 2.0])
def test_decision_is_that_of_the_algorithm_as_printed(guesses: Guesses, mu: float) -> None:
    for level in (1e-4, 0.01, 0.05, 0.5):
        ours, naive = excess_at(guesses, gaussian(mu), level), naive_excess(guesses, gaussian(mu), level)
        assert ours == pytest.approx(naive, abs=1e-12) or (ours > 0 and naive > 0)


def test_p_value_is_the_smallest_level_that_rejects() -> None:
    claimed = trade_off_of(dp.GaussianDpEvent(2.0))
    guesses = Guesses(2000, 200, 180)
    p = fdp_p_value(guesses, claimed)
    assert 1e-9 < p < 0.05
    assert (
        excess_at(guesses, claimed.blow_up_inverse, p * 1.001)
        > 0
        > excess_at(guesses, claimed.blow_up_inverse, p * 0.999)
    )


def test_more_right_guesses_and_stronger_claims_make_p_smaller() -> None:
    claims = [trade_off_of(dp.GaussianDpEvent(sigma)) for sigma in (1.0, 2.0, 4.0)]
    values = np.array([[fdp_p_value(Guesses(1000, 100, c), claim) for c in (50, 80, 90, 100)] for claim in claims])
    assert (np.diff(values, axis=1) <= 0).all()
    assert (np.diff(values, axis=0) <= 0).all()
    assert values[0, 0] == 1.0
    assert fdp_p_value(Guesses(1000, 200, 200), claims[-1]) == SMALLEST_P


def test_where_nothing_is_claimed_nothing_is_rejected() -> None:
    assert fdp_p_value(Guesses(1000, 1000, 1000), NOTHING_CLAIMED) == 1.0
    assert fdp_p_value(Guesses(1000, 0, 0), TradeOff(np.zeros(1), np.zeros(1))) == 1.0


def test_perfect_privacy_claimed_is_a_test_of_fair_coins() -> None:
    """f(α) = 1 − α: no better than guessing; the bound is near the binomial tail, and never below it."""
    nothing_leaks = TradeOff(np.zeros(1), np.zeros(1))
    for correct in (60, 65, 70):
        tail = sum(math.comb(100, k) for k in range(correct, 101)) / 2**100
        assert tail <= fdp_p_value(Guesses(100, 100, correct), nothing_leaks) <= 30 * tail


def test_a_hundred_thousand_canaries_take_seconds() -> None:
    claimed = trade_off_of(dp.GaussianDpEvent(1.0))
    began = time.process_time()
    for guessed, correct in ((1000, 990), (50_000, 47_000), (100_000, 80_000), (100_000, 100_000)):
        fdp_p_value(Guesses(100_000, guessed, correct), claimed)
    assert time.process_time() - began < 5
