"""The private network's optimizers: DP-AdamBC against the paper's algorithm as a naive loop, and against plain Adam."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from torch import nn

from imgsynth.schema import TrainerConfig
from imgsynth.training.optimizers import AdamBC, private_optimizer, take_step

LR, BETAS, FLOOR = 0.02, (0.8, 0.95), 0.1


def weights(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=random, dtype=torch.float64)) for shape in shapes]


def noised_gradients(steps: int, size: int, stds: list[float]) -> np.ndarray:
    random = np.random.default_rng(1)
    return 0.3 * random.normal(size=size) + np.array(stds)[:, None] * random.normal(size=(steps, size))


def naive_adam_bc(theta: np.ndarray, gradients: np.ndarray, stds: list[float]) -> np.ndarray:
    """The published algorithm coordinate by coordinate; of a Φ that varies, the average with the weights of v̂."""
    theta, (beta1, beta2) = theta.copy(), BETAS
    for i in range(len(theta)):
        m = v = 0.0
        for t in range(1, len(gradients) + 1):
            g = gradients[t - 1, i]
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * g**2
            of_step = np.array([beta2 ** (t - s) for s in range(1, t + 1)])
            phi = float((of_step * np.array(stds[:t]) ** 2).sum() / of_step.sum())
            theta[i] -= LR * (m / (1 - beta1**t)) / math.sqrt(max(v / (1 - beta2**t) - phi, FLOOR * phi, 1e-16))
    return theta


@pytest.mark.parametrize(
    "stds", [[0.2] * 25, [0.0] * 25, np.geomspace(2, 0.02, 25).tolist()], ids=["constant", "none", "adaptive"]
)
def test_it_is_the_published_algorithm(stds: list[float]) -> None:
    parameters = weights((2, 3), (4,))
    gradients = noised_gradients(25, 10, stds)
    start = torch.cat([p.detach().flatten() for p in parameters]).numpy()
    optimizer = AdamBC(parameters, LR, BETAS, FLOOR)
    for gradient, std in zip(gradients, stds, strict=True):
        parameters[0].grad = torch.from_numpy(gradient[:6]).view(2, 3)
        parameters[1].grad = torch.from_numpy(gradient[6:])
        take_step(optimizer, std)
    found = torch.cat([p.detach().flatten() for p in parameters]).numpy()
    expected = naive_adam_bc(start, gradients, stds)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    if any(stds):
        uncorrected = naive_adam_bc(start, gradients, [0.0] * 25)
        assert np.abs(uncorrected - expected).max() > 1e-3  # or this would test nothing


def test_without_noise_it_is_adam() -> None:
    ours, theirs = weights((50,)), weights((50,))
    optimizer = AdamBC(ours, LR, BETAS, FLOOR)
    adam = torch.optim.Adam(theirs, LR, BETAS)
    for gradient in noised_gradients(40, 50, [0.1] * 40):
        ours[0].grad = theirs[0].grad = torch.from_numpy(gradient)
        take_step(optimizer, 0.0)
        take_step(adam, 0.0)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=1e-6)


def test_noise_hides_small_gradients_from_adam_but_not_from_the_corrected_one() -> None:
    """Two coordinates, one with a tenth of the other's gradient, both below the noise. Adam without noise moves both at
    one speed; with noise it moves them as their gradients are; corrected, at nearly one speed again."""
    random, std = torch.Generator().manual_seed(0), 1.0
    moved = {}
    for name in ("adam", "adam_bc"):
        trainer = TrainerConfig(optimizer=name, learning_rate=1e-3, beta2=0.9999, second_moment_floor=1e-3)
        theta = [nn.Parameter(torch.zeros(2, 64))]
        optimizer = private_optimizer(theta, trainer)
        for _ in range(20_000):
            theta[0].grad = torch.tensor([[0.05], [0.5]]) + std * torch.randn(2, 64, generator=random)
            take_step(optimizer, std)
        moved[name] = theta[0].detach().mean(1)
    ratio = {name: (slow / fast).item() for name, (slow, fast) in moved.items()}
    assert ratio["adam"] == pytest.approx(0.11, abs=0.02)
    assert ratio["adam_bc"] > 5 * ratio["adam"]


def test_the_floor_bounds_the_step_where_noise_exceeds_the_second_moment() -> None:
    theta = [nn.Parameter(torch.zeros(1))]
    optimizer = AdamBC(theta, LR, BETAS, FLOOR)
    theta[0].grad = torch.tensor([0.3])
    take_step(optimizer, 5.0)
    assert theta[0].item() == pytest.approx(-LR * 0.3 / (5.0 * math.sqrt(FLOOR)), rel=1e-5)


@pytest.mark.parametrize("std", [1e-4, 0.2, 30.0])
def test_pure_noise_is_stepped_on_at_about_the_learning_rate_whatever_its_size(std: float) -> None:
    trainer = TrainerConfig(optimizer="adam_bc", learning_rate=0.01)
    theta, random = [nn.Parameter(torch.zeros(5000))], torch.Generator().manual_seed(0)
    optimizer, steps = private_optimizer(theta, trainer), []
    for _ in range(300):
        before = theta[0].detach().clone()
        theta[0].grad = std * torch.randn(5000, generator=random)
        take_step(optimizer, std)
        steps.append((theta[0].detach() - before).square().mean().sqrt().item() / 0.01)
    assert 0.3 < steps[-1] < 1.5 and max(steps) < 4.5


def test_it_goes_on_from_its_state_bit_for_bit() -> None:
    unbroken, broken = weights((6,)), weights((6,))
    gradients, stds = noised_gradients(8, 6, [0.2] * 8), np.geomspace(0.4, 0.1, 8).tolist()
    first, second = AdamBC(unbroken, LR, BETAS, FLOOR), AdamBC(broken, LR, BETAS, FLOOR)
    for t, (gradient, std) in enumerate(zip(gradients, stds, strict=True)):
        if t == 4:
            stored = io.BytesIO()
            torch.save(second.state_dict(), stored)
            stored.seek(0)
            second = AdamBC(broken, LR, BETAS, FLOOR)
            second.load_state_dict(torch.load(stored, weights_only=True))
        for theta, optimizer in ((unbroken, first), (broken, second)):
            theta[0].grad = torch.from_numpy(gradient)
            take_step(optimizer, std)
    assert torch.equal(unbroken[0], broken[0])


def test_the_configuration_chooses() -> None:
    trainer = TrainerConfig(learning_rate=0.3, beta1=0.5, beta2=0.9)
    (adam,) = private_optimizer(weights((2,)), trainer).param_groups
    assert (adam["lr"], adam["betas"]) == (0.3, (0.5, 0.9))
    trainer.optimizer, trainer.second_moment_floor = "adam_bc", 0.2
    (bc,) = private_optimizer(weights((2,)), trainer).param_groups
    assert (bc["lr"], bc["betas"], bc["floor"]) == (0.3, (0.5, 0.9), 0.2)
    trainer.optimizer = "sgd"
    theta = weights((2,))
    before, optimizer = theta[0].detach().clone(), private_optimizer(theta, trainer)
    for _ in range(2):
        theta[0].grad = torch.ones(2, dtype=torch.float64)
        take_step(optimizer, 1.0)
    torch.testing.assert_close(theta[0].detach(), before - 0.3 * (1 + 1.5))


def test_a_summary_adds_up_what_was_released_round_after_round():
    weight, released = torch.nn.Parameter(torch.zeros(7)), torch.randn(3, 7)
    optimizer = private_optimizer([weight], TrainerConfig(optimizer="summary", learning_rate=1.0))
    for mean in released:
        weight.grad = -mean
        take_step(optimizer, noise_std=0.3)
    torch.testing.assert_close(weight.detach(), released.sum(0))
