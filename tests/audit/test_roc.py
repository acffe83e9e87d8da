"""ROC, AUC and their intervals against scikit-learn and against repeated trials."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm
from sklearn.metrics import auc as area_under
from sklearn.metrics import roc_auc_score

from imgsynth.audit.roc import Roc, auc, auc_interval, band, tpr_at
from imgsynth.measure.resampling import clopper_pearson


def test_auc_with_ties_agrees_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    in_P, out_Q = random.integers(0, 6, 37).astype(float), random.integers(0, 5, 23).astype(float)
    expected = roc_auc_score(np.repeat([1, 0], [37, 23]), np.concatenate([in_P, out_Q]))
    assert auc(in_P, out_Q) == pytest.approx(expected)


def test_roc_is_every_threshold_and_its_area_is_the_auc() -> None:
    random = np.random.default_rng(1)
    in_P, out_Q = random.integers(0, 9, 40).astype(float), random.integers(0, 8, 30).astype(float)
    curve = Roc.of(in_P, out_Q)
    assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)
    assert area_under(curve.fpr, curve.tpr) == pytest.approx(auc(in_P, out_Q))


@pytest.mark.parametrize(("truth", "n_in", "n_out"), [(0.5, 40, 20), (0.8, 30, 30), (0.95, 25, 60)])
def test_auc_interval_covers_the_truth_and_a_narrower_one_would_not(truth: float, n_in: int, n_out: int) -> None:
    random = np.random.default_rng(2)
    shift, trials = norm.ppf(truth) * np.sqrt(2), 600
    covered, narrow = 0, 0
    for _ in range(trials):
        area = auc(random.standard_normal(n_in) + shift, random.standard_normal(n_out))
        low, high = auc_interval(area, n_in, n_out)
        covered += low <= truth <= high
        low, high = auc_interval(area, 2 * n_in, 2 * n_out)  # near miss: images taken for patients, two of each
        narrow += low <= truth <= high
    assert 0.93 <= covered / trials <= 0.99
    assert narrow / trials < 0.92


def test_auc_interval_does_not_collapse_at_the_ends() -> None:
    low, high = auc_interval(1.0, 20, 20)
    assert 0.75 < low < 0.95
    assert high == 1.0
    assert auc_interval(0.0, 20, 20) == pytest.approx((0.0, 1 - low))
    assert auc_interval(1.0, 2, 2)[0] < 0.5 < auc_interval(1.0, 12, 12)[0]


def test_tpr_is_read_at_no_more_than_the_wanted_false_positives() -> None:
    out_Q = np.arange(1000.0)  # the 1 % threshold leaves out 990 … 999: ten false positives
    in_P = np.array([989.5, 989.0, 990.0, 2000.0])
    at = tpr_at(in_P, out_Q, 0.01)
    assert at["tpr"] == 0.75
    assert 0 < at["low"] < 0.75 < at["high"] <= 1


def only_members(in_P: np.ndarray, out_Q: np.ndarray, fpr: float) -> tuple[float, float]:
    """Clopper and Pearson's interval over members alone, as if the threshold had been known."""
    tpr = tpr_at(in_P, out_Q, fpr)["tpr"]
    return clopper_pearson(round(tpr * len(in_P)), len(in_P))


@pytest.mark.parametrize("truth", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("decimals", [12, 1])
def test_tpr_interval_covers_the_truth_at_the_true_rate_and_one_over_members_alone_does_not(
    truth: float, decimals: int
) -> None:
    """Normal scores, whole or in tied steps of a tenth, for which the best threshold at a true FPR of 1 % is known."""
    random, trials, covered, naive = np.random.default_rng(5), 250, 0, 0
    shift = norm.ppf(truth) - norm.ppf(0.01)
    exact = truth
    if decimals == 1:
        edge = np.ceil(norm.isf(0.01) * 10 + 0.5) / 10 - 0.05  # the smallest edge between steps with FPR ≤ 1 %
        exact = norm.sf(edge - shift)
    for _ in range(trials):
        in_P = (random.standard_normal(1000) + shift).round(decimals)
        out_Q = random.standard_normal(1000).round(decimals)
        found = tpr_at(in_P, out_Q, 0.01)
        assert found["low"] <= found["tpr"] <= found["high"]
        covered += found["low"] <= exact <= found["high"]
        low, high = only_members(in_P, out_Q, 0.01)
        naive += low <= exact <= high
    assert binom.cdf(covered, trials, 0.95) > 1e-3
    assert binom.cdf(naive, trials, 0.95) < 1e-3


def test_tpr_interval_is_not_so_wide_that_it_says_nothing() -> None:
    random = np.random.default_rng(6)
    found = tpr_at(random.standard_normal(2000) + 2, random.standard_normal(2000), 0.01)
    assert found["high"] - found["low"] < 0.35
    blind = tpr_at(random.standard_normal(2000), random.standard_normal(2000), 0.01)
    assert blind["high"] < 0.04


def test_too_few_nonmembers_are_underpowered_not_zero() -> None:
    at = tpr_at(np.ones(50), np.zeros(999), 0.01)
    assert at["tpr"] is None
    assert "underpowered: 999 non-members, it takes 1000" in at["status"]
    assert tpr_at(np.ones(50), np.zeros(1000), 0.01)["status"] == "ok"


def test_band_holds_the_true_rates_of_a_threshold_as_often_as_stated() -> None:
    """At one threshold, TPR and FPR of the population; the band's edges are where they could be at 95 % each."""
    random, inside = np.random.default_rng(4), 0
    for _ in range(400):
        in_P, out_Q = random.normal(1, 1, 60).round(2), random.normal(0, 1, 80).round(2)
        curve = Roc.of(in_P, out_Q)
        low, high = band(curve, 60, 80)
        at = int(np.searchsorted(-np.unique(np.concatenate([in_P, out_Q]))[::-1], -0.5, side="right"))
        tpr, fpr = norm.sf(0.495 - 1), norm.sf(0.495)
        inside += low.tpr[at] <= tpr <= high.tpr[at] and high.fpr[at] <= fpr <= low.fpr[at]
    assert 0.88 <= inside / 400 <= 0.97


def test_band_has_a_width_where_no_false_alarm_was_seen() -> None:
    low, high = band(Roc(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0])), 20, 50)
    assert low.fpr[0] == pytest.approx(1 - 0.025 ** (1 / 50))
    assert low.tpr[1] == pytest.approx(0.025 ** (1 / 20))
    assert (high.tpr[1], high.fpr[1]) == (1.0, 0.0)
