"""Twins of every kind of model: exact without noise, as noisy as the plan says with it."""

from __future__ import annotations

import numpy as np
import pytest
from canary_cohort import make_plan, make_twin
from scipy import stats

from imgsynth.audit.canaries.coins import toss
from imgsynth.audit.one_run import guess

M = 40


@pytest.mark.parametrize("kind", ["weights", "side", "input"])
@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("vae", {}),
        ("vae", {"clipping_quantile": 0.5}),
        ("gan", {"fakes": "joint"}),
        ("gan", {"fakes": "plain"}),
        ("wgan", {}),
        ("vaegan", {}),
        ("diffusion", {}),
        ("vae, masks", {}),
        ("pix2pix", {"fakes": "joint"}),
        ("pix2pix", {"fakes": "plain"}),
        ("moments", {"sampling_rate": 1.0, "steps": 1}),
        ("moving", {}),
    ],
    ids=[
        "vae",
        "vae adaptive",
        "gan joint",
        "gan plain",
        "wgan",
        "vaegan",
        "diffusion",
        "vae masks",
        "pix2pix joint",
        "pix2pix plain",
        "moments",
        "moving",
    ],
)
def test_without_noise_every_drawn_canary_is_known(model: str, changes: dict, kind: str) -> None:
    """Scores are then counts of how often each canary was drawn, and 0 of those left out: a_t is known exactly."""
    coins = toss(M, seed=5)
    plan = make_plan(noise_multiplier=0.0, **changes)
    scores = make_twin(model, kind, coins, plan).scores()
    off = 0.05 if kind == "input" else 1e-3
    assert np.abs(scores[~coins]).max() < off
    np.testing.assert_allclose(scores[coins], scores[coins].round(), atol=off)
    assert abs(scores[coins].mean() - plan.steps * plan.sampling_rate) < 1
    assert guess(scores, coins, 5, 0, np.random.default_rng(0)).correct == 5


@pytest.mark.parametrize(
    ("model", "changes"),
    [("vae", {}), ("vae", {"clipping_quantile": 0.3, "count_noise_multiplier": 4.0}), ("moments", {"steps": 1})],
    ids=["fixed norm", "adaptive norm", "one step"],
)
def test_the_noise_on_a_dirac_canary_is_that_of_the_plan(model: str, changes: dict) -> None:
    """At rate 1 the score is Σ_t (x_t - 1/2)/σ_g², with x_t = coin + N(0, σ_g²)."""
    coins = toss(200, seed=6)
    plan = make_plan(sampling_rate=1.0, noise_multiplier=1.5, **{"steps": 3, **changes})
    scores = make_twin(model, "weights", coins, plan).scores()
    sigma, steps = plan.gradient_noise_multiplier, plan.steps
    mean = steps * (coins - 0.5) / sigma**2
    standard = (scores - mean) * sigma / steps**0.5
    assert plausible(standard) > 1e-3
    assert plausible(standard * 1.4) < 1e-3 and plausible(standard / 1.4) < 1e-3


def plausible(standard: np.ndarray) -> float:
    """Two-sided p-value of a sum of squares of standard normals."""
    tail = stats.chi2.cdf((standard**2).sum(), len(standard))
    return 2 * min(tail, 1 - tail)


def test_input_canaries_are_read_where_the_noise_is_small() -> None:
    coins = toss(60, seed=7)
    scores = make_twin("vae", "input", coins, make_plan(noise_multiplier=0.02)).scores()
    assert guess(scores, coins, 6, 6, np.random.default_rng(0)).correct == 12
