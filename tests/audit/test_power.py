"""What an audit of a given size can show: against simulated audits of that size."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom, norm

from imgsynth.audit.epsilon import epsilon_at_threshold, epsilon_from_errors
from imgsynth.audit.one_run import epsilon_one_run
from imgsynth.audit.power import POWER, detector, power_of, smallest_epsilon_of_canaries
from imgsynth.audit.roc import auc, auc_interval

TRIALS = 2000
SLACK = 4 * np.sqrt(POWER * (1 - POWER) / TRIALS)


def test_chance_to_show_is_the_sum_over_all_outcomes() -> None:
    """Naive twin: the bound itself for every pair of counts, weighted by its probability."""
    n_in, n_out, tpr, fpr = 14, 11, 0.6, 0.05
    expected = sum(
        binom.pmf(fn, n_in, 1 - tpr) * binom.pmf(fp, n_out, fpr)
        for fn in range(n_in + 1)
        for fp in range(n_out + 1)
        if epsilon_from_errors(fp, n_out, fn, n_in, 0.05, 1e-3) > 0
    )
    assert detector(n_in, n_out, 0.05, 1e-3)(tpr, fpr) == pytest.approx(expected, rel=1e-9)


def test_smallest_epsilon_shows_in_four_of_five_audits() -> None:
    found, random = power_of(60, 40, 0.05, 1e-5), np.random.default_rng(0)
    assert found.epsilon is not None
    truth = expit(found.epsilon)
    shown = [
        epsilon_at_threshold(random.random(60) < truth, random.random(40) > truth, 0.5, 0.05, 1e-5).epsilon > 0
        for _ in range(TRIALS)
    ]
    assert np.mean(shown) == pytest.approx(POWER, abs=SLACK)


def test_smallest_tpr_shows_in_four_of_five_audits() -> None:
    found, random = power_of(60, 40, 0.05, 1e-5), np.random.default_rng(1)
    rate = found.tpr_at_1_percent_fpr
    assert rate is not None
    shown = [
        epsilon_at_threshold(random.random(60) < rate, random.random(40) < 0.01, 0.5, 0.05, 1e-5).epsilon > 0
        for _ in range(TRIALS)
    ]
    assert np.mean(shown) == pytest.approx(POWER, abs=SLACK)


@pytest.mark.parametrize(("n_in", "n_out"), [(25, 25), (200, 80)])
def test_smallest_auc_shows_in_about_four_of_five_audits(n_in: int, n_out: int) -> None:
    area = power_of(n_in, n_out, 0.05, 1e-5).auc
    assert area is not None
    shift, random = np.sqrt(2) * norm.ppf(area), np.random.default_rng(2)
    shown = [
        auc_interval(auc(random.standard_normal(n_in) + shift, random.standard_normal(n_out)), n_in, n_out)[0] > 0.5
        for _ in range(TRIALS)
    ]
    assert np.mean(shown) == pytest.approx(POWER, abs=0.05)  # normal approximation of the AUC


def test_canaries_that_leak_that_epsilon_show_it_in_four_of_five_audits_at_least() -> None:
    epsilon = smallest_epsilon_of_canaries(500, 100, 0.05, 1e-5)
    assert epsilon is not None
    right = np.random.default_rng(3).binomial(100, expit(epsilon), TRIALS)
    shown = [epsilon_one_run(500, 100, int(v), 0.05, 1e-5) > 0 for v in right]
    assert np.mean(shown) == pytest.approx(POWER, abs=SLACK)
    assert smallest_epsilon_of_canaries(500, 4, 0.05, 1e-5) is None


def test_larger_cohorts_show_smaller_leaks_and_a_handful_shows_none() -> None:
    sizes = [power_of(n, n, 0.05, 1e-5) for n in (10, 50, 500)]
    for name in ("auc", "tpr_at_1_percent_fpr", "epsilon"):
        values = [getattr(size, name) for size in sizes]
        assert values == sorted(values, reverse=True)
    assert sizes[1].auc == pytest.approx(0.6595, abs=1e-4) and sizes[1].ceiling == pytest.approx(2.5696, abs=1e-4)
    assert "AUC of 0.660" in sizes[1].sentence() and "ε ≥ 2.56." in sizes[1].sentence()  # neither promises too much
    for few in (power_of(3, 3, 0.05, 1e-5), power_of(0, 9, 0.05, 1e-5)):
        assert few.epsilon is None
        assert "no attack, however good" in few.sentence()
