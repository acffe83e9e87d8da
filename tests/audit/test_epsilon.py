"""The certified bound: golden values, formula by hand, null rates against mechanisms whose ε is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from imgsynth.audit.epsilon import (
    ceiling,
    choose_threshold,
    epsilon_at_threshold,
    epsilon_from_errors,
    epsilon_lower_bound,
    epsilon_over_thresholds,
)


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


def test_threshold_chosen_is_the_best_by_the_plain_formula() -> None:
    random = np.random.default_rng(5)
    for _ in range(20):
        in_P, out_Q = random.normal(1.5, 1, 30).round(1), random.normal(0, 1, 25).round(1)
        bounds = {
            float(t): epsilon_from_errors(int((out_Q >= t).sum()), 25, int((in_P < t).sum()), 30, 0.05, 1e-3)
            for t in np.union1d(in_P, out_Q)
        }
        assert bounds[choose_threshold(in_P, out_Q, 0.05, 1e-3)] == pytest.approx(max(bounds.values()), abs=1e-12)


def test_thresholds_fixed_beforehand_pay_by_their_number() -> None:
    random = np.random.default_rng(6)
    in_P, out_Q = random.normal(2, 1, 300), random.normal(0, 1, 300)
    one = epsilon_at_threshold(in_P, out_Q, 1.0, 0.05, 1e-5)
    assert (one.false_positives, one.false_negatives) == (int((out_Q >= 1).sum()), int((in_P < 1).sum()))
    assert one.epsilon == epsilon_from_errors(one.false_positives, 300, one.false_negatives, 300, 0.05, 1e-5)
    same = epsilon_over_thresholds(in_P, out_Q, [1.0], 0.05, 1e-5)
    assert same == one
    several = epsilon_over_thresholds(in_P, out_Q, [0.0, 1.0, 2.0, 3.0], 0.05, 1e-5)
    alone = max(epsilon_at_threshold(in_P, out_Q, t, 0.0125, 1e-5).epsilon for t in (0.0, 1.0, 2.0, 3.0))
    assert several.epsilon == alone
    assert (several.alpha, several.alpha_each) == (0.05, 0.0125)
    assert several.ceiling == ceiling(300, 300, 0.0125, 1e-5)


def test_second_library_agrees() -> None:
    auditing = pytest.importorskip("jax_privacy.auditing")
    random = np.random.default_rng(7)
    for _ in range(20):
        in_P, out_Q = random.normal(1, 1, random.integers(5, 200)), random.normal(0, 1, random.integers(5, 200))
        threshold = float(random.normal(0.5, 1))
        theirs = auditing.CanaryScoreAuditor(in_P, out_Q).epsilon_clopper_pearson(
            0.05, 1e-4, one_sided=False, threshold_strategy=auditing.Explicit(threshold)
        )
        assert epsilon_at_threshold(in_P, out_Q, threshold, 0.05, 1e-4).epsilon == pytest.approx(theirs, abs=1e-9)
