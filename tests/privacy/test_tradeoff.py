"""The claimed trade-off curve: below closed forms and close to them, and by two roads the same."""

from __future__ import annotations

import numpy as np
import pytest
from dp_accounting import dp_event as dp
from scipy.stats import norm

from imgsynth.privacy.events import training_event
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.tradeoff import NOTHING_CLAIMED, trade_off, trade_off_of

ALPHA = np.concatenate([np.geomspace(1e-9, 0.1, 60), np.linspace(0.1, 1, 91), 1 - np.geomspace(1e-9, 0.1, 60)])


@pytest.mark.parametrize("event", [dp.GaussianDpEvent(0.7), dp.GaussianDpEvent(3.0), training_event(1.0, 10.0, 400)])
def test_gaussian_curve_from_below(event: dp.DpEvent) -> None:
    sigma = event.noise_multiplier if isinstance(event, dp.GaussianDpEvent) else 0.5
    exact = norm.cdf(norm.isf(ALPHA) - 1 / sigma)
    claimed = trade_off_of(event).fnr(ALPHA)
    assert (claimed <= exact + 1e-12).all()
    np.testing.assert_allclose(claimed, exact, rtol=3e-3, atol=1e-13)


def test_where_almost_nothing_is_hidden_rounding_claims_no_more_than_is_true() -> None:
    """Where e^ε is beyond what doubles can subtract from 1, the curve must still stay below the exact one."""
    for sigma in (0.1, 0.2, 0.3):
        claimed = trade_off_of(dp.GaussianDpEvent(sigma)).fnr(ALPHA)
        assert (claimed <= norm.cdf(norm.isf(ALPHA) - 1 / sigma) + 1e-12).all()
        near_one_Y = 1 - np.geomspace(1e-15, 1e-3, 2000)
        inverse = trade_off_of(dp.GaussianDpEvent(sigma)).blow_up_inverse
        exact = norm.cdf(norm.ppf(near_one_Y) - 1 / sigma)
        assert all(inverse(float(y)) <= limit + 1e-9 for y, limit in zip(near_one_Y, exact, strict=True))


def test_one_subsampled_step_is_the_mixture_with_its_inverse() -> None:
    """At rate q the curve in one direction is q G_μ + (1 − q) Id (Dong et al. 2019, section 4); it is symmetric."""
    q, sigma = 0.2, 0.8
    one_way = q * norm.cdf(norm.isf(ALPHA) - 1 / sigma) + (1 - q) * (1 - ALPHA)
    curve = trade_off_of(training_event(q, sigma, 1))
    assert (curve.fnr(ALPHA) <= one_way + 1e-12).all()
    assert (curve.fnr(one_way) <= ALPHA + 1e-12).all()  # and below the other direction, its inverse
    steep = one_way < ALPHA  # this side of the diagonal the one direction is the lower of the two
    low = np.minimum(curve.fnr(ALPHA), 1)
    gap = np.minimum(one_way - low, np.interp(low, one_way[::-1], ALPHA[::-1]) - ALPHA)
    assert np.median(gap[steep]) < 2e-3


def test_the_curve_is_its_own_inverse() -> None:
    curve = trade_off_of(training_event(0.05, 1.1, 300))
    middle = np.linspace(0.01, 0.6, 40)
    np.testing.assert_allclose(curve.fnr(curve.fnr(middle)), middle, rtol=1e-6)


@pytest.mark.parametrize("event", [dp.GaussianDpEvent(0.4), training_event(0.05, 1.1, 300)])
def test_fast_form_is_the_plain_maximum_over_all_lines(event: dp.DpEvent) -> None:
    curve = trade_off_of(event)
    y = np.concatenate([np.geomspace(1e-14, 1, 300), np.random.default_rng(0).random(300)])
    np.testing.assert_allclose([curve.blow_up_inverse(float(v)) for v in y], curve.fnr(1 - y), rtol=1e-9, atol=1e-15)


def test_a_plan_claims_the_curve_of_its_training_and_without_noise_nothing() -> None:
    facts = {"unit": "patient", "n": 400, "sampling_rate": 0.1, "steps": 50, "clipping_norm": 1.0,
             "images_per_patient": 1, "delta": 1e-4}  # fmt: skip
    plan = PrivacyPlan(mode="dp", noise_multiplier=1.3, **facts)
    expected = trade_off_of(training_event(0.1, 1.3, 50)).fnr(ALPHA)
    np.testing.assert_array_equal(trade_off(plan).fnr(ALPHA), expected)
    assert (trade_off(plan).fnr(0.05) + np.exp(plan.epsilon) * 0.05 + plan.delta) >= 1 - 1e-9
    for mode in ("dp", "none"):
        silent = PrivacyPlan(mode=mode, noise_multiplier=0.0, **facts)
        assert (trade_off(silent).fnr(ALPHA) == NOTHING_CLAIMED.fnr(ALPHA)).all()
        assert trade_off(silent).fnr(0.5) == 0
