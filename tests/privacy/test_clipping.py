"""The adaptive clipping norm: what it costs, what it counts, and where it goes."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from dp_accounting import dp_event as dp
from scipy.stats import kstest, norm
from torch import nn

from imgsynth.privacy.accounting import pld_epsilon
from imgsynth.privacy.clipping import ClippingNorm, count_within, default_count_noise, gradient_noise
from imgsynth.privacy.engines import get_engine
from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.step import private_step
from imgsynth.types import PatientBatch

FIXED = PrivacyPlan(
    mode="dp",
    unit="patient",
    n=1000,
    sampling_rate=0.2,
    steps=10_000,
    clipping_norm=1.0,
    noise_multiplier=1.5,
    images_per_patient=1,
    delta=1e-5,
)
PLAN = dataclasses.replace(FIXED, clipping_quantile=0.5, count_noise_multiplier=10.0)
ENGINE = get_engine("loop")


class Linear(nn.Module):
    """loss = weight · pixels: an image's gradient is its pixels."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def forward(self, x, y):
        return (x.flatten(1) * self.weight).sum(1)


def patients_with(norms, size=2):
    """A batch in which patient p has a gradient of length norms[p]."""
    x = torch.zeros(len(norms), 1, 1, size, dtype=torch.float64)
    x[:, 0, 0, 0] = torch.as_tensor(norms, dtype=torch.float64)
    ones = torch.ones(len(norms), 1, dtype=torch.float64)
    return PatientBatch(x, torch.zeros(len(norms), 1, dtype=torch.long), ones)


def step(plan, norms, clipping, noise=None, size=2):
    module = Linear(size)
    batch = patients_with(norms, size)
    info = private_step(plan, ENGINE, module, batch, (), None, noise or NoiseSource(), clipping=clipping)
    return module.weight.grad, info


# --- what it costs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "count"), [(1.0, 0.6), (1.0, 3.0), (4.0, 2.5), (0.6, 2.0)])
def test_gradient_and_count_together_cost_what_the_plan_says(total, count):
    """Two composed mechanisms by privacy loss distributions: the gradient's, and a count of sensitivity 1/2."""
    both = [dp.GaussianDpEvent(gradient_noise(total, count)), dp.GaussianDpEvent(count / 0.5)]
    expected = pld_epsilon(dp.GaussianDpEvent(total), 1e-5)
    assert pld_epsilon(dp.ComposedDpEvent(both), 1e-5) == pytest.approx(expected, rel=2e-4, abs=2e-4)
    for near_miss in (dp.GaussianDpEvent(count), dp.GaussianDpEvent(4 * count)):
        assert pld_epsilon(dp.ComposedDpEvent([both[0], near_miss]), 1e-5) != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_on_a_poisson_batch_the_pair_is_one_subsampled_gaussian(rate):
    """δ(ε) of the two-dimensional mixture, integrated on a grid, in both directions, against the accountant's ε."""
    total, count = 1.2, 0.9
    shift = np.array([1 / gradient_noise(total, count), 0.5 / count])  # in units of the noises
    axis = np.linspace(-9, 10, 1500)
    without = norm.pdf(axis)[:, None] * norm.pdf(axis)[None, :]
    present = norm.pdf(axis - shift[0])[:, None] * norm.pdf(axis - shift[1])[None, :]
    with_him = (1 - rate) * without + rate * present
    cell, delta = (axis[1] - axis[0]) ** 2, 1e-3
    epsilon = pld_epsilon(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(total)), delta)
    found = max(
        (np.maximum(a - math.exp(epsilon) * b, 0) * cell).sum() for a, b in ((with_him, without), (without, with_him))
    )
    assert found == pytest.approx(delta, rel=5e-3)


def test_the_plan_derives_the_gradients_noise_and_nothing_else_moves():
    assert PLAN.gradient_noise_multiplier == pytest.approx((1.5**-2 - 20.0**-2) ** -0.5)
    assert PLAN.gradient_noise_multiplier > PLAN.noise_multiplier == FIXED.gradient_noise_multiplier
    assert (PLAN.event(), PLAN.epsilon, PLAN.statement()) == (FIXED.event(), FIXED.epsilon, FIXED.statement())
    silent = dataclasses.replace(PLAN, noise_multiplier=0.0)
    assert (silent.gradient_noise_multiplier, silent.epsilon) == (0.0, math.inf)
    assert ClippingNorm(silent).count_noise_std == 0.0


@pytest.mark.parametrize(("sigma", "normaliser", "expected"), [(1.0, 200.0, 10.0), (4.0, 64.0, 10.0), (0.0, 64.0, 3.2)])
def test_the_counts_noise_unless_given(sigma, normaliser, expected):
    count = default_count_noise(sigma, normaliser)
    assert count == pytest.approx(expected)
    assert gradient_noise(sigma, count) <= 1.021 * sigma


# --- what it counts --------------------------------------------------------------------------------------------------


def test_a_patient_moves_the_count_by_one_half_exactly():
    norms_P = torch.tensor([0.3, 1.0, 1.0001, 50.0, math.nan, math.inf])
    assert count_within(norms_P, 1.0).item() == 2 * 0.5 - 4 * 0.5
    for p in range(6):
        others_P = torch.cat([norms_P[:p], norms_P[p + 1 :]])
        assert abs((count_within(norms_P, 1.0) - count_within(others_P, 1.0)).item()) == 0.5
    assert count_within(norms_P[:0], 1.0).item() == 0.0


def test_the_share_is_of_the_public_number():
    """200 are expected. 300 come, all within C: (300/2)/200 + 1/2 = 1.25, whatever share of the batch that is."""
    plan = dataclasses.replace(PLAN, noise_multiplier=0.0, count_noise_multiplier=0.0)
    for drawn, share in ((300, 1.25), (200, 1.0), (20, 0.55), (0, 0.5)):
        clipping = ClippingNorm(plan)
        _, info = step(plan, [0.1] * drawn, clipping)
        assert clipping.value == pytest.approx(math.exp(-0.2 * (share - 0.5)))
        assert info.public["clipping_norm"] == 1.0  # that of the step, not of the next one
    clipping = ClippingNorm(plan)
    step(plan, [7.0] * 200, clipping)
    assert clipping.value == pytest.approx(math.exp(0.1))


def test_the_counts_noise_has_standard_deviation_sigma_b():
    plan, moved = dataclasses.replace(PLAN, clipping_quantile=0.7), []
    for _ in range(2000):
        clipping = ClippingNorm(plan)
        step(plan, [], clipping)
        moved.append(math.log(clipping.value))
    shares = 0.7 - np.array(moved) / 0.2
    noise = (shares - 0.5) * plan.normaliser / 10.0
    assert kstest(noise, "norm").pvalue > 1e-6
    for wrong in (0.5, 2 / 3, 1.5, 2):
        assert kstest(noise * wrong, "norm").pvalue < 1e-6


def test_the_gradients_noise_has_standard_deviation_sigma_g_times_the_norm_of_the_step():
    plan = dataclasses.replace(PLAN, count_noise_multiplier=0.9)  # σ_g = 2.7 of σ = 1.5
    clipping = ClippingNorm(plan)
    clipping.value = 0.05
    grad, info = step(plan, [], clipping, size=20_000)
    assert plan.gradient_noise_multiplier == pytest.approx(2.7136, rel=1e-4)
    sample = (grad * plan.normaliser / (plan.gradient_noise_multiplier * 0.05)).numpy()
    assert kstest(sample, "norm").pvalue > 1e-6
    assert kstest(sample * 2.7136 / 1.5, "norm").pvalue < 1e-6  # as if it were σ
    assert info.noise_std == pytest.approx(2.7136 * 0.05 / 200, rel=1e-4)


# --- where it goes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quantile", "start"), [(0.5, 100.0), (0.5, 0.01), (0.8, 0.1), (0.2, 30.0)])
def test_it_converges_to_the_quantile_of_the_norms(quantile, start):
    """Log-normal norms, Poisson batches. At the end C fluctuates by a few percent of itself."""
    random = np.random.default_rng(0)
    population = np.exp(random.normal(0.7, 1.0, 1000))
    plan = dataclasses.replace(PLAN, clipping_norm=start, clipping_quantile=quantile)
    clipping, noise, late = ClippingNorm(plan), NoiseSource(0), []
    for t in range(240):
        drawn = torch.from_numpy(population[random.random(1000) < plan.sampling_rate])
        noised = noise.add(count_within(drawn, clipping.value), clipping.count_noise_std)
        clipping.follow(noised.item())
        if t >= 120:
            late.append(math.log(clipping.value))
    share = (population <= math.exp(np.mean(late))).mean()
    assert share == pytest.approx(quantile, abs=0.03)


def test_norms_of_zero_or_without_bound_lead_nowhere():
    plan = dataclasses.replace(PLAN, clipping_norm=0.3)
    clipping = ClippingNorm(plan)
    for count, limit in ((1e9, 0.3e-6), (-1e9, 0.3e6), (1e9, 0.3e-6)):
        clipping.follow(count)
        assert clipping.value == pytest.approx(limit)


def test_the_step_clips_to_the_norm_as_it_is_now():
    plan = dataclasses.replace(PLAN, noise_multiplier=0.0, count_noise_multiplier=0.0)
    clipping = ClippingNorm(plan)
    for _ in range(3):
        before = clipping.value
        grad, info = step(plan, [9.0] * 4, clipping)
        assert grad.norm().item() * plan.normaliser == pytest.approx(4 * before)
        assert info.local["clipped_share"] == 1.0
        assert clipping.value > before
    clipping.value = 20.0  # now they are within, though not within the first C
    grad, info = step(plan, [9.0] * 4, clipping)
    assert grad.norm().item() * plan.normaliser == pytest.approx(36.0)
    assert info.local["clipped_share"] == 0.0 and clipping.value < 20.0


def test_it_goes_on_where_it_stopped():
    first, second = ClippingNorm(PLAN), ClippingNorm(PLAN)
    first.follow(55.0)
    second.load_state_dict(first.state_dict())
    assert first.state_dict() == {"value": first.value} and first.value != 1.0
    for clipping in (first, second):
        clipping.follow(-31.0)
    assert first.value == second.value


def test_a_norm_that_adapts_cannot_be_forgotten_between_steps():
    with pytest.raises(AssertionError, match="kept between steps"):
        step(PLAN, [1.0], None)


def test_a_fixed_norm_draws_no_noise_for_a_count_and_never_moves():
    """The gradient is that of the engine's sum and the source's noise, in the parameters' order, and nothing more."""
    clipping, source, twin = ClippingNorm(FIXED), NoiseSource(3), NoiseSource(3)
    for _ in range(2):
        grad, info = step(FIXED, [0.5, 2.0], clipping, source)
        expected = twin.add(torch.tensor([1.5, 0.0], dtype=torch.float64), 1.5) / 200
        assert torch.equal(grad, expected)
        assert clipping.value == 1.0 and set(info.public) == {"noisy_gradient_norm"}
