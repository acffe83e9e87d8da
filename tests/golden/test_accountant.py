"""Accounting of published DP-GAN training runs (Bie, Kamath & Zhang, TMLR 2023; nominal ε 10, 10, 1, 1, 10)."""

import pytest

from imgsynth.privacy.accounting import epsilon, pld_epsilon, rdp_epsilon
from imgsynth.privacy.events import training_event

# (q, σ, T, δ) -> ε by RDP to the digits that were published for it, and by PLD (grid 1e-4)
GOLDEN = [
    (1 / 469, 1, 450_000, 1e-5, "9.96", 9.2725),
    (1 / 118, 2, 174_000, 1e-5, "9.99", 9.3068),
    (1 / 469, 5, 325_000, 1e-5, "0.994", 0.9134),
    (1 / 118, 14, 165_000, 1e-5, "0.996", 0.9135),
    (1 / 90, 4, 385_000, 1e-6, "9.98", 9.3815),  # q is printed as 0.0111, which alone gives 9.97
]


@pytest.mark.parametrize(("q", "sigma", "steps", "delta", "published", "tight"), GOLDEN)
def test_epsilon_of_published_runs(q, sigma, steps, delta, published, tight):
    event = training_event(q, sigma, steps)
    by_rdp = rdp_epsilon(event, delta)
    assert f"{by_rdp:.{len(published) - 2}f}" == published
    assert epsilon(event, delta) == pytest.approx(tight, abs=5e-4)
    assert epsilon(event, delta) < by_rdp


def test_a_coarse_grid_makes_pld_worse_than_rdp_and_the_smaller_bound_holds():
    event = training_event(1 / 469, 5, 325_000)
    assert pld_epsilon(event, 1e-5, interval=1e-3) == pytest.approx(1.29, abs=5e-3)
    assert epsilon(event, 1e-5) < rdp_epsilon(event, 1e-5) < pld_epsilon(event, 1e-5, interval=1e-3)
