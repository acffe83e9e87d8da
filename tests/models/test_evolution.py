"""Private Evolution: who is voted for, what votes choose, and that candidates come to look like the patients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from imgsynth.models import Evolution, GenerativeModel, Private, Update
from imgsynth.models.white_box import LatentMap, WhiteBox
from imgsynth.types import InputError

VAE = {"_target_": "imgsynth.models.VAE", "latent": 3, "channels": 2, "widest": 4}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Bright(GenerativeModel):
    """A public generator that is known: the left half as bright as z₀ says, the right as z₁."""

    def __init__(self, shape, classes):
        super().__init__()
        self.shape, self.classes, self.G = shape, classes, nn.Linear(1, 1)

    def objectives(self):
        return []

    @property
    def generator(self):
        return self.G

    def image(self, z_BL: Tensor, y_B: Tensor) -> Tensor:
        level_B2 = torch.tanh(z_BL / 2)
        half = self.shape[1] // 2
        return level_B2.repeat_interleave(half, 1)[:, None, None, :].expand(-1, 1, *self.shape)

    def sample(self, y_B, random):
        return self.image(torch.randn(len(y_B), 2, generator=random), y_B)

    def white_box(self):
        return WhiteBox(latent=LatentMap(2, self.image))


def evolution(**settings) -> Evolution:
    torch.manual_seed(0)
    return Evolution((8, 8), 2, **{"source": {"_target_": f"{__name__}.Bright"}, "candidates": 40, **settings})


def objectives(model: Evolution) -> tuple[Private, Update]:
    votes, update = model.objectives()
    assert isinstance(votes, Private) and isinstance(update, Update)
    return votes, update


def voted(model: Evolution, x_BC: Tensor, y_B: Tensor) -> Tensor:
    """One gradient for each image."""
    votes, _ = objectives(model)
    weight = model.votes.votes.weight
    loss_B = (votes.module(x_C[None], y[None])[0] for x_C, y in zip(x_BC, y_B, strict=True))
    return torch.stack([-torch.autograd.grad(loss, [weight])[0] for loss in loss_B])


def test_an_image_votes_once_for_the_nearest_candidate_of_its_class():
    model = evolution(source=VAE, candidates=7)
    x_BC, y_B = torch.rand(20, 1, 8, 8, generator=seeded()) * 2 - 1, torch.arange(20) % 2
    for got_YN, x_C, y in zip(voted(model, x_BC, y_B), x_BC, y_B, strict=True):
        shown = model.source.decoder(model.population.z_YNL[y], torch.full((7,), int(y)))
        distance_N = (model.votes.features(shown) - model.votes.features(x_C[None])).norm(dim=1)
        expected_YN = torch.zeros(2, 7)
        expected_YN[y, distance_N.argmin()] = 1
        assert torch.equal(got_YN, expected_YN)


def vote(model: Evolution, share_YN: Tensor, noise_std: float, seed: int = 0) -> None:
    with torch.no_grad():
        model.votes.votes.weight.copy_(share_YN)
    objectives(model)[1].update(seeded(seed), noise_std, 200)


def test_votes_below_their_noise_are_not_heard_and_a_silent_class_is_left_to_chance():
    model = evolution(rounds=1)
    share_YN = torch.full((2, 40), 0.009)
    share_YN[0, :2] = torch.tensor([0.31, 0.11])
    vote(model, share_YN, 0.01)
    assert torch.allclose(model.population.chance_YN[0, :2], torch.tensor([0.75, 0.25]))
    assert model.population.chance_YN[0, 2:].abs().max() == 0
    assert torch.allclose(model.population.chance_YN[1], torch.tensor(1 / 40))
    assert torch.equal(model.votes.votes.weight, torch.zeros(2, 40)), "the next round starts from nothing"


def test_every_round_but_the_last_makes_a_population_of_children_of_those_that_were_chosen():
    model = evolution(rounds=2, step=0.1)
    before, share_YN = model.population.z_YNL.clone(), torch.zeros(2, 40)
    share_YN[:, 5] = 0.5
    phi = model.votes.phi_YND.clone()
    vote(model, share_YN, 0.01)
    after = model.population.z_YNL.clone()
    assert (after - before[:, 5:6]).norm(dim=2).max() < 0.6 and not torch.equal(after[:, 0], after[:, 1])
    assert not torch.equal(model.votes.phi_YND, phi)
    shown = model.votes.features(Bright((8, 8), 2).image(after[1], torch.ones(40)))
    torch.testing.assert_close(model.votes.phi_YND[1], shown)
    vote(model, share_YN, 0.01)
    assert torch.equal(model.population.z_YNL, after), "the last votes weigh and do not move"
    assert model.population.chance_YN[0, 5] == 1


def test_a_child_keeps_the_spread_of_the_prior():
    model = evolution(candidates=4000)
    z_BL = model.population.descend(torch.zeros(20_000, dtype=torch.long), 0.7, seeded())
    assert abs(z_BL.std() - 1) < 0.02
    parents = model.population.descend(torch.zeros(4000, dtype=torch.long), 0.0, seeded())
    assert all((parents[i] == model.population.z_YNL[0]).all(1).any() for i in range(0, 4000, 400))


@pytest.mark.parametrize(("noise_std", "near"), [(0.004, True), (1.0, False)])
def test_samples_come_to_look_like_the_patients_where_votes_are_heard(noise_std, near):
    """200 patients, class 0 bright on the left, class 1 on the right; noise of the votes 0.004 is that of σ = 0.8."""
    model, random = evolution(), seeded(5)
    levels = torch.tensor([[0.7, -0.7], [-0.7, 0.7]])
    y_B = torch.arange(200) % 2
    level_B2 = levels[y_B] + 0.05 * torch.randn(200, 2, generator=random)
    x_BC = level_B2.repeat_interleave(4, 1)[:, None, None, :].expand(-1, 1, 8, 8)
    for round_ in range(4):
        share_YN = voted(model, x_BC, y_B).mean(0)
        vote(model, share_YN + noise_std * torch.randn(2, 40, generator=random), noise_std, seed=round_)
    got = model.sample(torch.arange(400) % 2, seeded(6))
    means = torch.stack([got[c::2].reshape(200, 8, 2, 4).mean((0, 1, 3)) for c in (0, 1)])
    assert bool(((means - levels).abs() < 0.2).all()) == near


def test_a_source_that_is_no_generator_of_codes_is_refused():
    with pytest.raises(InputError, match=r"model\.source"):
        evolution(source={"_target_": "torch.nn.Linear"})
    with pytest.raises(InputError, match="latent codes"):
        evolution(source={"_target_": f"{__name__}.Blind"})


class Blind(Bright):
    def white_box(self):
        return WhiteBox()


def test_it_begins_with_the_weights_of_the_public_generator():
    from imgsynth.models import VAE as Source

    torch.manual_seed(3)
    public = Source((8, 8), 2, latent=3, channels=2, widest=4)
    model = evolution(source=VAE)
    phi = model.votes.phi_YND.clone()
    model.begin_with(public.state_dict())
    y_B = torch.arange(4) % 2
    z_BL = model.population.descend(y_B, model.population.step, seeded(1))
    np.testing.assert_array_equal(model.sample(y_B, seeded(1)), public.decoder(z_BL, y_B).detach())
    assert not torch.equal(phi, model.votes.phi_YND)
    assert not any(p.requires_grad for p in model.source.parameters())
