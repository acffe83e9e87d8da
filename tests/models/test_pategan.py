"""PATE-GAN's own pieces, and that it learns what a class looks like."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from imgsynth.models.adversarial import discriminator_loss
from imgsynth.models.pategan import PATEGAN, more_real, soft_label
from imgsynth.training.steps import post_processing_updates, vote_update
from tests.training.voting import Ward, class_of, plan_of, small


def test_the_loss_is_the_binary_cross_entropy() -> None:
    logit_B, target_B = torch.randn(40), (torch.rand(40) > 0.5).float()
    wanted = binary_cross_entropy_with_logits(logit_B, target_B, reduction="none")
    torch.testing.assert_close(discriminator_loss(logit_B, target_B), wanted)


def test_a_teacher_votes_for_the_half_that_it_finds_more_real_whatever_its_scale() -> None:
    logit_KM = torch.tensor([[4.0, -1.0, 0.0, 9.0], [-4.0, -9.0, -5.0, -6.0]])
    wanted = torch.tensor([[True, False, False, True], [True, False, True, False]])
    assert torch.equal(more_real(logit_KM), wanted)
    assert torch.equal(more_real(logit_KM * 7 - 100), wanted)
    assert not more_real(torch.full((1, 4), torch.nan)).any()


def apart(ward: Ward) -> float:
    """By how much generated images of class 1 are brighter than those of class 0, after 160 steps with little noise."""
    model = small(5, teacher_batch=8, images=16, diversity=0.0)
    trainer = {"learning_rate": 3e-3, "generator_learning_rate": 3e-3, "ema": 0.95}
    state, teachers = class_of(model, ward, plan := plan_of(len(ward), 5, 160, 0.3), **trainer)
    for _ in range(160):
        state.step += 1
        vote_update(state, plan, teachers)
        post_processing_updates(state, plan.companion_size)
        state.ema.update(state.model)
    x_BC = state.ema.model.sample(torch.arange(200) % 2, torch.Generator().manual_seed(0))
    return (x_BC[1::2].mean() - x_BC[::2].mean()).item()


def test_with_little_noise_it_learns_which_class_is_bright() -> None:
    ward = Ward.of(100)  # class 0 is dark, class 1 is bright
    assert apart(ward) > 0.15
    ward.y_N = 1 - ward.y_N
    assert apart(ward) < -0.15


def test_a_label_says_how_clear_the_votes_were() -> None:
    margin_M = torch.tensor([-300.0, -5.0, 0.0, 5.0, 10.0, 300.0])
    torch.testing.assert_close(soft_label(margin_M, 0.0, 40), torch.tensor([0, 0.375, 0.5, 0.625, 0.75, 1]))
    torch.testing.assert_close(
        soft_label(margin_M, math.sqrt(1200), 40), torch.tensor([0, 0.4375, 0.5, 0.5625, 0.625, 1])
    )


@pytest.mark.parametrize("shape", [(28, 28), (8, 8, 16)], ids=str)
def test_teachers_learn_and_vote_in_two_and_three_dimensions(shape: tuple[int, ...]) -> None:
    random = torch.Generator().manual_seed(0)
    ward = Ward(torch.rand(12, 1, *shape, generator=random) * 2 - 1, torch.arange(12) % 2)
    model = PATEGAN(shape, 2, latent=3, channels=2, widest=4, teachers=3, images=6)
    state, teachers = class_of(model, ward, plan := plan_of(12, 3))
    before = {name: weight.detach().clone() for name, weight in teachers._weights.items()}
    public, _ = vote_update(state, plan, teachers)
    assert all((weight != before[name]).flatten(1).any(1).all() for name, weight in teachers._weights.items())
    assert 0 < public["mean_label"] < 1
    assert state.told[0][0].shape == (6, 1, *shape)
