"""The formulas of Karras et al. against closed forms: of Gaussian data the best denoiser, and the way of every sample,
are known (Karras et al. 2022, appendix B; Song et al. 2021)."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from imgsynth.models.edm import Noise, sample

MEAN, STD = 0.3, 0.7


def denoise(x_BC: Tensor, sigma_B: Tensor) -> Tensor:
    """E[image | image + σ n = x] for images N(MEAN, STD²)."""
    s2, sigma2 = STD**2, sigma_B[:, None].square()
    return (s2 * x_BC + sigma2 * MEAN) / (s2 + sigma2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("data", [0.5, 1.0])
def test_network_input_and_target_have_variance_one_and_all_levels_weigh_alike(data):
    noise, n = Noise(data=data), 200_000
    for sigma in (0.02, 0.5, 20.0):
        sigma_1 = torch.tensor([sigma], dtype=torch.float64)
        skip, out, into, told = (float(c) for c in noise.preconditioning(sigma_1))
        clean = data * torch.randn(n, generator=seeded(), dtype=torch.float64)
        noisy = clean + sigma * torch.randn(n, generator=seeded(1), dtype=torch.float64)
        target = (clean - skip * noisy) / out
        assert (into * noisy).var().item() == pytest.approx(1, rel=0.02)
        assert target.var().item() == pytest.approx(1, rel=0.02)
        correlation = torch.corrcoef(torch.stack([target, noisy]))[0, 1].item()
        assert abs(correlation) < 0.02  # the skip leaves nothing linear to F, so that F's errors weigh least
        assert float(noise.weight(sigma_1)) * out**2 == pytest.approx(1)
        assert told == pytest.approx(math.log(sigma) / 4)


def test_preconditioning_is_that_of_table_1():
    sigma = torch.tensor([2.0], dtype=torch.float64)
    skip, out, into, told = Noise(data=0.5).preconditioning(sigma)
    for got, expected in ((skip, 0.25 / 4.25), (out, 1 / 4.25**0.5), (into, 1 / 4.25**0.5), (told, math.log(2) / 4)):
        assert float(got) == pytest.approx(expected)
    assert float(Noise(data=0.5).weight(sigma)) == pytest.approx(4.25)


def test_noise_levels_of_training_are_log_normal():
    noise = Noise(mean=-0.4, std=0.9)
    log_N = noise.draw(100_000, seeded()).log()
    assert log_N.mean().item() == pytest.approx(-0.4, abs=0.015)
    assert log_N.std().item() == pytest.approx(0.9, abs=0.015)
    centred_N = (log_N + 0.4) / 0.9
    assert centred_N.pow(3).mean().abs() < 0.05 and centred_N.pow(4).mean().item() == pytest.approx(3, abs=0.15)


def test_levels_are_the_papers():
    """Equation 5 at N = 18 and the defaults; first and last are the ends, then comes 0."""
    levels = Noise().levels(18)
    assert len(levels) == 19 and float(levels[-1]) == 0
    assert float(levels[0]) == pytest.approx(80) and float(levels[-2]) == pytest.approx(0.002)
    expected = (80 ** (1 / 7) + 9 / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert float(levels[9]) == pytest.approx(expected)
    assert (levels.diff() < 0).all()
    assert len(Noise().levels(1)) == 2 and float(Noise().levels(1)[0]) == pytest.approx(80)


def test_larger_images_get_more_noise_by_the_root_of_their_voxels():
    small, large = Noise.for_images(32**2), Noise.for_images(64**2)
    assert (small.mean, small.std, small.largest) == (-0.3, 1.5, 80.0)
    assert large.largest == 160 and large.mean == pytest.approx(-0.3 + math.log(2))
    assert large.smallest == small.smallest and large.std == small.std


def test_the_exact_denoiser_is_the_skip_for_centred_data_of_that_spread():
    noise = Noise(data=STD)
    sigma_B = torch.tensor([0.1, 1.0, 7.0])
    x_BC = torch.randn(3, 5, generator=seeded())
    exact_BC = denoise(x_BC + MEAN, sigma_B) - MEAN
    torch.testing.assert_close(noise.preconditioning(sigma_B)[0][:, None] * x_BC, exact_BC)


def error_of(steps: int, churn: float = 0.0) -> float:
    """Of the sampler's end from the exact end of the probability flow, which is linear in its beginning."""
    noise = Noise(smallest=0.02, largest=20.0)
    levels = noise.levels(steps)
    x_BC = float(levels[0]) * torch.randn(50, 4, generator=seeded(), dtype=torch.float64)
    # (x - MEAN) / √(s² + σ²) stays what it is along the flow; the last step, to σ = 0, is Euler's, and is left out.
    end = float(levels[-2])
    exact_BC = MEAN + (x_BC - MEAN) * math.sqrt((STD**2 + end**2) / (STD**2 + float(levels[0]) ** 2))
    ended_BC = sample(denoise, x_BC, levels[:-1], seeded(), churn)
    return float((ended_BC - exact_BC).norm())


def test_the_deterministic_sampler_is_of_second_order():
    errors = [error_of(steps) for steps in (33, 65, 129)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(1.9 < order < 2.1 for order in orders), orders


@pytest.mark.parametrize("churn", [0.0, 10.0, 60.0])
def test_samples_of_the_exact_denoiser_have_the_datas_mean_and_variance(churn):
    n, noise = 40_000, Noise()
    levels = noise.levels(240)
    x_BC = float(levels[0]) * torch.randn(n, 1, generator=seeded(2), dtype=torch.float64)
    made_BC = sample(denoise, x_BC, levels, seeded(3), churn)
    # Beginning at N(0, 80²), not N(MEAN, 80² + STD²), moves the mean by MEAN STD / 80. 4 standard errors; a variance
    # that is wrong by one part in 33 is found.
    assert made_BC.mean().item() == pytest.approx(MEAN, abs=MEAN * STD / 80 + 4 * STD / n**0.5)
    assert made_BC.var().item() == pytest.approx(STD**2, rel=4 * (2 / n) ** 0.5)
    skewness = ((made_BC - MEAN) / STD).pow(3).mean().item()
    assert abs(skewness) < 0.08


def test_churn_forgets_the_first_noise_and_without_it_nothing_is_drawn():
    levels, random = Noise().levels(60), seeded(3)
    x_BC = 80 * torch.randn(2000, 1, generator=seeded(2), dtype=torch.float64)
    state = random.get_state()
    plain_BC = sample(denoise, x_BC, levels, random)
    assert torch.equal(state, random.get_state())
    correlations = [
        torch.corrcoef(torch.cat([plain_BC, sample(denoise, x_BC, levels, seeded(4), churn)], dim=1).T)[0, 1].item()
        for churn in (0.1, 10.0)
    ]
    assert correlations[0] > 0.9 and abs(correlations[1]) < 0.1, correlations
