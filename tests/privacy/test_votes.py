"""Noisy votes: sensitivity, noise, and ε against the closed form of composed Gaussian mechanisms."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm

from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.plan import PrivacyPlan, make_plan
from imgsynth.privacy.votes import margin_std, noisy_margin, teacher_of
from imgsynth.schema import PrivacyConfig
from imgsynth.types import InputError


def plan_of(teachers: int, steps: int = 1, sigma: float | None = 1.0, **changes: object) -> PrivacyPlan:
    given = {"epsilon": None, "noise_multiplier": sigma, "delta": 1e-3, "sampling_rate": 1.0, **changes}
    return make_plan(
        PrivacyConfig(**given), n=100, steps=steps, images_per_patient=1, unit="patient", teachers=teachers
    )


def without_noise(teachers: int) -> PrivacyPlan:
    return plan_of(teachers, sigma=0.0)


def test_the_margin_is_counted_by_hand() -> None:
    real_KM = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)
    margin_M = noisy_margin(without_noise(3), real_KM, NoiseSource(0))
    torch.testing.assert_close(margin_M, torch.tensor([1.5, -0.5, 0.5, -1.5], dtype=torch.float64))


def test_one_teacher_moves_the_released_vector_by_root_m_at_most_and_the_bound_is_reached() -> None:
    """Every two rows of bits, for every one of 3 teachers, on 4 images."""
    images = 4
    rows = torch.tensor(list(product([False, True], repeat=images)))
    others = torch.tensor([[True, False, True, True], [False, False, True, False]])
    largest = 0.0
    for place in range(3):
        released = [
            noisy_margin(without_noise(3), torch.cat([others[:place], row[None], others[place:]]), NoiseSource(0))
            for row in rows
        ]
        largest = max(largest, *((a - b).norm().item() for a, b in product(released, released)))
    assert largest == pytest.approx(math.sqrt(images))


@pytest.mark.parametrize("images", [1, 9, 64])
@pytest.mark.parametrize("norm_c", [1.0, 0.3])
def test_the_noise_of_every_count_is_sigma_root_m(images: int, norm_c: float) -> None:
    """Published: a scale of λ in place of 1/λ. Standard deviations 2/3 or 3/2 of it, or one without √M, fail."""
    sigma, draws = 2.5, 6000 // images
    plan = plan_of(7, sigma=sigma, clipping_norm=norm_c)
    real_KM = torch.zeros(7, images, dtype=torch.bool)
    noise = NoiseSource(3)
    margin_NM = torch.stack([noisy_margin(plan, real_KM, noise) for _ in range(draws)]) + 3.5
    wanted, count = sigma * math.sqrt(images), draws * images
    assert margin_std(plan, images) == pytest.approx(wanted)
    assert margin_NM.std().item() == pytest.approx(wanted, rel=5 / math.sqrt(2 * count))
    assert abs(margin_NM.mean().item()) < 5 * wanted / math.sqrt(count)


def test_every_image_has_noise_of_its_own() -> None:
    """Published by others, too: noise drawn once for a batch, which differences of counts cancel."""
    plan, noise = plan_of(5), NoiseSource(4)
    margin_NM = torch.stack([noisy_margin(plan, torch.ones(5, 3, dtype=torch.bool), noise) for _ in range(3000)])
    correlation = torch.corrcoef(margin_NM.T)
    assert (correlation - torch.eye(3)).abs().max() < 5 / math.sqrt(3000)


def test_what_is_no_bit_is_no_vote() -> None:
    with pytest.raises(AssertionError, match="one bit"):
        noisy_margin(plan_of(2), torch.full((2, 3), 7.0), NoiseSource(0))
    with pytest.raises(AssertionError, match="3 teachers"):
        noisy_margin(plan_of(2), torch.ones(3, 3, dtype=torch.bool), NoiseSource(0))


def exact_epsilon(sigma: float, steps: int, delta: float) -> float:
    """Balle and Wang 2018 (arXiv:1805.06530), Theorem 8, for T Gaussian mechanisms, which are one with σ/√T."""
    mu = math.sqrt(steps) / sigma

    def gap(epsilon: float) -> float:
        return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - delta

    return float(brentq(gap, 0, 200))


@pytest.mark.parametrize(("sigma", "steps"), [(5.0, 1), (20.0, 100), (40.0, 500), (6.0, 40)])
def test_epsilon_is_that_of_t_gaussian_mechanisms_in_closed_form(sigma: float, steps: int) -> None:
    """Published: a missing logarithm, a bracket in the wrong place, a formula with 10^δ, no accountant at all."""
    plan = plan_of(50, steps, sigma)
    exact = exact_epsilon(sigma, steps, 1e-3)
    assert exact <= plan.epsilon <= 1.01 * exact + 0.01
    assert plan.event() == plan_of(3, steps, sigma).event()  # neither teachers nor votes make it smaller


def test_the_epsilon_that_is_asked_for_is_not_passed() -> None:
    """Published: going on while ε is below the budget, and so one round beyond it."""
    plan = plan_of(50, 300, None, epsilon=4.0)
    assert plan.epsilon <= 4.0
    assert exact_epsilon(plan.noise_multiplier, 300, 1e-3) == pytest.approx(4.0, rel=0.02)


def test_no_amplification_is_claimed() -> None:
    with pytest.raises(InputError, match=r"privacy\.sampling_rate"):
        plan_of(5, sampling_rate=0.5)
    with pytest.raises(InputError, match=r"model\.teachers"):
        plan_of(0)


def test_a_plan_of_votes_is_read_back_and_older_plans_have_none() -> None:
    plan = plan_of(9, 4)
    assert PrivacyPlan.from_json(plan.to_json()) == plan
    old = {key: value for key, value in plan.to_json().items() if key != "teachers"}
    assert PrivacyPlan.from_json(old).teachers is None


def test_who_belongs_to_whom_follows_the_patient_alone_and_teachers_are_alike() -> None:
    ids = [f"p{i}" for i in range(4000)]
    dealt = [teacher_of(name, b"key", 8) for name in ids]
    assert dealt[7:9] == [teacher_of(name, b"key", 8) for name in ids[7:9]]
    assert dealt != [teacher_of(name, b"other", 8) for name in ids]
    counts = torch.bincount(torch.tensor(dealt), minlength=8)
    assert ((counts - 500).abs() < 5 * math.sqrt(500 * 7 / 8)).all()
