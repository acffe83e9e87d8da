"""The certified bound: golden values, formula by hand, null rates against mechanisms whose ε is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from imgsynth.audit.epsilon import ceiling, choose_threshold, epsilon_from_errors, epsilon_lower_bound


@pytest.mark.parametrize(("n", "golden"), [(20, 1.60), (50, 2.57), (100, 3.28), (500, 4.91), (1000, 5.60)])
def test_zero_errors_certify_the_published_ceilings(n: int, golden: float) -> None:
    assert ceiling(n, n, alpha=0.05, delta=0.0) == pytest.approx(golden, abs=0.006)


def test_bound_is_the_formula_with_binomial_tails_inverted_by_bisection() -> None:
    """Independent oracle: FPR⁺ is the p at which seeing so few errors has probability α/2."""

    def upper(errors: int, n: int) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if binom.cdf(errors, n, middle) > 0.025 else (low, middle)
        return low

    fpr, fnr, delta = upper(3, 80), upper(40, 90), 1e-3
    expected = max(math.log((1 - fnr - delta) / fpr), math.log((1 - fpr - delta) / fnr))
    assert epsilon_from_errors(3, 80, 40, 90, 0.05, delta) == pytest.approx(expected, rel=1e-9)


def test_useless_attacks_and_large_delta_bound_nothing() -> None:
    assert epsilon_from_errors(50, 100, 50, 100, 0.05, 0.0) == 0.0
    assert epsilon_from_errors(100, 100, 0, 100, 0.05, 0.0) == 0.0
    assert epsilon_from_errors(0, 100, 0, 100, 0.05, 1.0) == 0.0


def randomised_response(epsilon: float, n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores of n members and n non-members under exact ε-DP: the membership bit, told truly with e^ε/(1 + e^ε)."""
    truth = math.exp(epsilon) / (1 + math.exp(epsilon))
    told_in = (random.random(n) < truth).astype(float)
    told_out = (random.random(n) >= truth).astype(float)
    return told_in, told_out


def test_bound_stays_under_the_true_epsilon_at_the_stated_confidence() -> None:
    random = np.random.default_rng(0)
    bounds = [
        epsilon_lower_bound(*randomised_response(1.0, 400, random), 0.05, 0.0, random).epsilon for _ in range(300)
    ]
    over = np.mean(np.array(bounds) > 1.0)
    assert over <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert np.median(bounds) > 0.5  # and it is no vacuous zero


def test_choosing_and_counting_on_the_same_patients_would_violate() -> None:
    """The near miss that the split is there for: with useless scores it would report leaks too often."""
    random = np.random.default_rng(1)
    split, same = 0, 0
    for _ in range(80):
        in_P, out_Q = random.standard_normal(40), random.standard_normal(40)
        split += epsilon_lower_bound(in_P, out_Q, 0.3, 0.0, random).epsilon > 0
        t = choose_threshold(in_P, out_Q, 0.3, 0.0)
        same += epsilon_from_errors(int((out_Q >= t).sum()), 40, int((in_P < t).sum()), 40, 0.3, 0.0) > 0
    assert split <= 0.3 * 80
    assert same > 0.3 * 80


def test_threshold_is_applied_to_unseen_patients_and_perfect_scores_reach_the_ceiling() -> None:
    random = np.random.default_rng(2)
    bound = epsilon_lower_bound(np.full(101, 1.0), np.full(61, -1.0), 0.05, 1e-5, random)
    assert (bound.n_members, bound.n_nonmembers) == (51, 31)
    assert bound.epsilon == bound.ceiling == ceiling(51, 31, 0.05, 1e-5)


def test_smallest_cohorts_give_a_number_not_a_crash() -> None:
    bound = epsilon_lower_bound(np.arange(4.0), np.arange(4.0), 0.05, 1e-5, np.random.default_rng(0))
    assert bound.epsilon == 0.0
