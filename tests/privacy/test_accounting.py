import math

import pytest
from dp_accounting import dp_event as dp
from scipy.optimize import brentq
from scipy.stats import norm

from imgsynth.privacy.accounting import epsilon, grid, pld_epsilon, rdp_epsilon
from imgsynth.privacy.events import compose, histogram_event, joint_training_event, training_event
from imgsynth.types import InputError


def exact_gaussian(sigma, delta):
    """ε of one Gaussian mechanism of sensitivity 1, in closed form (Balle & Wang 2018, arXiv 1805.06530, Theorem 8)."""

    def delta_of(eps):
        a, b = 1 / (2 * sigma), eps * sigma
        return norm.cdf(a - b) - math.exp(eps + norm.logcdf(-a - b))

    return brentq(lambda eps: delta_of(eps) - delta, 0, 2000)


def exact_subsampled(q, sigma, delta):
    """ε of one Poisson-subsampled Gaussian step: hockey-stick divergences of (1-q)N(0,σ²)+qN(1,σ²) and N(0,σ²)."""

    def delta_of(eps):
        e = math.exp(eps)
        t = sigma**2 * math.log((e - 1 + q) / q) + 0.5  # the mixture exceeds e^ε times the null beyond t
        remove = (1 - q - e) * norm.sf(t / sigma) + q * norm.sf((t - 1) / sigma)
        if e * (1 - q) >= 1:
            return remove
        s = sigma**2 * math.log((1 / e - 1 + q) / q) + 0.5  # the null exceeds e^ε times the mixture below s
        add = (1 - e * (1 - q)) * norm.cdf(s / sigma) - e * q * norm.cdf((s - 1) / sigma)
        return max(remove, add)

    return brentq(lambda eps: delta_of(eps) - delta, 1e-9, 200)


@pytest.mark.parametrize(("sigma", "steps"), [(0.7, 1), (1.0, 4), (8.0, 100), (30.0, 50)])
def test_full_batches_against_the_closed_form(sigma, steps):
    exact = exact_gaussian(sigma / math.sqrt(steps), 1e-5)
    got = epsilon(training_event(1.0, sigma, steps), 1e-5)
    assert exact * (1 - 1e-9) <= got <= exact * 1.02 + 1e-3


@pytest.mark.parametrize("steps", [10**3, 10**4, 10**5, 10**6])
@pytest.mark.parametrize("mu", [0.08, 0.3, 1.0, 3.0, 30.0])
def test_the_grid_costs_less_than_a_hundredth_of_epsilon_from_a_thousand_to_a_million_steps(steps, mu):
    """μ = √T/σ: all T steps together are one Gaussian mechanism of multiplier 1/μ, whose ε is known exactly."""
    exact = exact_gaussian(1 / mu, 1e-5)
    got = epsilon(training_event(1.0, math.sqrt(steps) / mu, steps), 1e-5)
    assert exact * (1 - 1e-9) <= got <= exact * (1.003 if mu < 10 else 1.01)


@pytest.mark.parametrize(("q", "sigma", "steps"), [(0.01, 8, 10**6), (1e-3, 1, 10**6), (0.05, 2, 10**4)])
def test_a_grid_three_times_as_fine_changes_less_than_a_hundredth(q, sigma, steps):
    event = training_event(q, sigma, steps)
    finer = pld_epsilon(event, 1e-5, grid(steps, rdp_epsilon(event, 1e-5)) / 3)
    assert finer <= epsilon(event, 1e-5) * (1 + 1e-6) <= finer * 1.01


def test_the_grid_is_bounded_so_that_memory_is():
    assert grid(10**6, 0.01) == 5e-6
    assert (grid(1, 50.0), grid(1, 5000.0)) == (1e-3, 0.05)
    assert grid(10**4, 2.0) == pytest.approx(2e-4)


@pytest.mark.parametrize("sigmas", [(2.0, 3.0), (1.0, 10.0, 10.0), (4.0,), (5.0, 5.0, 5.0, 5.0)])
def test_joint_mechanisms_are_one_gaussian_with_the_noises_combined(sigmas):
    """Every patient in every step: the composition of the single mechanisms is the closed form's, and so is theirs."""
    exact = exact_gaussian(1 / math.sqrt(sum(1 / s**2 for s in sigmas)), 1e-5)
    one_by_one = pld_epsilon(compose([dp.GaussianDpEvent(s) for s in sigmas]), 1e-5)
    assert epsilon(joint_training_event(1.0, sigmas, 1), 1e-5) == pytest.approx(exact, rel=2e-3)
    assert one_by_one == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("sigmas", [(2.0, 3.0), (0.7, 1.0)])
def test_joint_mechanisms_on_one_sample_cost_more_than_composed_with_a_coin_each(sigmas):
    joint = epsilon(joint_training_event(0.1, sigmas, 1), 1e-5)
    combined = 1 / math.sqrt(sum(1 / s**2 for s in sigmas))
    assert joint == pytest.approx(exact_subsampled(0.1, combined, 1e-5), rel=2e-3)
    assert joint > 1.05 * epsilon(compose([training_event(0.1, s, 1) for s in sigmas]), 1e-5)


def test_a_joint_mechanism_without_noise_is_not_private():
    assert joint_training_event(0.1, (2.0, 0.0), 100) == dp.NonPrivateDpEvent()


@pytest.mark.parametrize(("q", "sigma"), [(0.01, 0.5), (0.1, 0.8), (0.5, 1.0), (0.9, 3.0)])
def test_one_subsampled_step_against_the_closed_form(q, sigma):
    exact = exact_subsampled(q, sigma, 1e-6)
    got = epsilon(training_event(q, sigma, 1), 1e-6)
    assert exact * (1 - 1e-9) <= got <= exact * 1.001 + 2e-4


def test_pure_histogram_costs_its_epsilon_and_not_less():
    got = epsilon(histogram_event(0.5), 1e-12)
    assert 0.5 * (1 - 1e-9) <= got <= 0.5 + 1e-3
    assert epsilon(histogram_event(0.5), 1e-12) > pld_epsilon(dp.LaplaceDpEvent(2.0), 0.05)


def test_both_bounds_hold_for_a_histogram_composed_many_times():
    """k-fold composition of ε-DP against randomised response, the worst ε-DP mechanism (Kairouz et al. 2015)."""
    eps, k, delta = 0.1, 30, 1e-3
    p = math.exp(eps) / (1 + math.exp(eps))
    losses = [((2 * i - k) * eps, math.comb(k, i) * p**i * (1 - p) ** (k - i)) for i in range(k + 1)]
    exact = brentq(lambda e: sum(m * max(0.0, 1 - math.exp(e - loss)) for loss, m in losses) - delta, 0, k * eps)
    event = dp.SelfComposedDpEvent(histogram_event(eps), k)
    assert exact * (1 - 1e-6) <= pld_epsilon(event, delta) <= exact + 0.01
    assert exact <= rdp_epsilon(event, delta) <= 1.5 * exact


def test_epsilon_falls_with_noise_and_rises_with_steps_and_rate():
    def eps(q=0.1, sigma=2.0, steps=200):
        return epsilon(training_event(q, sigma, steps), 1e-5)

    assert eps(sigma=3.0) < eps() < eps(sigma=1.5)
    assert eps(steps=100) < eps() < eps(steps=400)
    assert eps(q=0.05) < eps() < eps(q=0.2)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (dp.NonPrivateDpEvent(), math.inf),
        (training_event(0.1, 0.0, 10), math.inf),
        (compose([training_event(0.1, 1.0, 10), dp.NonPrivateDpEvent()]), math.inf),
        (dp.NoOpDpEvent(), 0.0),
    ],
    ids=str,
)
def test_edge_cases(event, expected):
    assert epsilon(event, 1e-5) == expected


def test_too_little_noise_still_gets_a_bound_and_a_tight_one_while_it_can_be_had():
    assert 1000 < epsilon(training_event(0.5, 0.01, 1000), 1e-5) < math.inf
    event = training_event(0.2, 0.6, 1000)
    assert epsilon(event, 1e-5) < 0.6 * rdp_epsilon(event, 1e-5)


def test_unknown_events_are_refused():
    with pytest.raises(InputError, match="cannot be accounted for"):
        epsilon(dp.ComposedDpEvent([dp.UnsupportedDpEvent()]), 1e-5)
