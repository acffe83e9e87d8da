"""Accounting of published runs, and by a second library."""

import math
import warnings

import pytest
from opacus.accountants import PRVAccountant

from imgsynth.privacy.accounting import epsilon, grid, pld_epsilon, rdp_epsilon
from imgsynth.privacy.events import training_event

# DP-GAN training (Bie, Kamath & Zhang, TMLR 2023, arXiv 2302.02936; nominal ε 10, 10, 1, 1, 10):
# (q, σ, T, δ) -> ε by RDP to the digits that were published for it, and by PLD on a grid five times as fine as ours
GOLDEN = [
    (1 / 469, 1, 450_000, 1e-5, "9.96", 9.2715),
    (1 / 118, 2, 174_000, 1e-5, "9.99", 9.3064),
    (1 / 469, 5, 325_000, 1e-5, "0.994", 0.9089),
    (1 / 118, 14, 165_000, 1e-5, "0.996", 0.9112),
    (1 / 90, 4, 385_000, 1e-6, "9.98", 9.3805),  # q is printed as 0.0111, which alone gives 9.97
]


@pytest.mark.parametrize(("q", "sigma", "steps", "delta", "published", "tight"), GOLDEN)
def test_epsilon_of_published_runs(q, sigma, steps, delta, published, tight):
    event = training_event(q, sigma, steps)
    by_rdp = rdp_epsilon(event, delta)
    assert f"{by_rdp:.{len(published) - 2}f}" == published
    ours = epsilon(event, delta)
    assert tight * (1 - 1e-4) <= ours <= tight * 1.002
    assert ours < by_rdp


@pytest.mark.parametrize(("q", "sigma", "steps", "delta", "published", "tight"), GOLDEN)
def test_opacus_prv_agrees_to_its_own_error(q, sigma, steps, delta, published, tight):
    """Gopi et al. 2021, arXiv 2106.02848: an upper bound that is at most 0.01 too large, plus rounding of δ."""
    accountant = PRVAccountant()
    accountant.history = [(sigma, q, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        upper = accountant.get_epsilon(delta)
    assert upper - 0.012 <= epsilon(training_event(q, sigma, steps), delta) <= upper


@pytest.mark.parametrize(("sigma", "published"), [(0.5, 9.99), (1, 4.37), (2, 1.99), (4, 0.92)])
def test_one_gaussian_against_a_published_table(sigma, published):
    """Mahloujifar, Melis & Chaudhuri 2024, arXiv 2410.22235, Table 1, theoretical ε at δ = 1e-5, cut to two digits."""
    assert math.floor(100 * epsilon(training_event(1.0, sigma, 1), 1e-5)) / 100 == published


def test_a_coarse_grid_makes_pld_worse_than_rdp_and_ours_is_chosen_by_the_steps():
    event = training_event(1 / 469, 5, 325_000)
    assert pld_epsilon(event, 1e-5, interval=1e-3) == pytest.approx(1.29, abs=5e-3)
    assert grid(325_000, 1.0) < 1e-4
    assert epsilon(event, 1e-5) < rdp_epsilon(event, 1e-5) < pld_epsilon(event, 1e-5, interval=1e-3)
