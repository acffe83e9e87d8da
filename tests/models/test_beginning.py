"""Generators that begin on a noised mean embedding and are held to it, and what else knows the answer."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from imgsynth.models import GAN, PATEGAN, VAEGAN, CodeGAN, Evolution, PostProcessing, Private, Query
from imgsynth.models.moments import matching_loss
from imgsynth.types import InputError

SMALL = {"latent": 4, "channels": 4, "widest": 8}
MODELS = {"gan": GAN, "vaegan": VAEGAN, "pategan": partial(PATEGAN, images=8)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=MODELS)
def make(request):
    torch.manual_seed(0)
    return partial(MODELS[request.param], (8, 8), 2, **SMALL)


def answered(model):
    """The query's answer as if patients had given it: the mean embedding of bright and dark squares, without noise."""
    x_BC = torch.full((20, model.image_channels, *model.shape), -0.9)
    x_BC[::2, 0, :, :4] = 0.9  # class 0 is bright on one side
    y_B = torch.arange(20) % 2
    one_hot_BC = torch.eye(2)[y_B]
    model.moments.mean.weight.data = (one_hot_BC.T @ model.moments.embed(x_BC)) / 20
    return x_BC, y_B


@pytest.mark.parametrize("structures", [0, 2])
def test_the_generator_is_asked_to_match_the_answer_and_sees_nothing_else(make, structures):
    model = make(warm_up=["moments"], structures=structures)
    query, begin, held = model.objectives()[:3]
    assert isinstance(query, Query) and query.when == "before" and query.norm == 1
    assert query.module is model.moments and query.answers == [model.moments.mean.weight]
    assert not query.answers[0].requires_grad
    assert isinstance(begin, PostProcessing) and isinstance(held, PostProcessing)
    assert begin.before and not held.before and held.due(1) and held.due(2)
    assert begin.module is held.module is model.generator
    assert sum(isinstance(o, Private) for o in model.objectives()) == 1
    other = copy.deepcopy(model)
    answered(other)
    for place in (1, 2):
        ours, same, theirs = (m.objectives()[place].loss(8, seeded(1)).item() for m in (model, model, other))
        assert ours == same != theirs


def test_turns_take_as_many_images_as_the_models_own(make):
    """For votes every patient is in a step, so that a batch would be the whole cohort."""
    model = make(warm_up=["moments"])
    assert [o.images for o in model.objectives()[1:3]] == [8 if isinstance(model, PATEGAN) else None] * 2


def test_its_loss_is_the_distance_of_what_it_samples_from_the_answer(make):
    model = make(warm_up=["moments"])
    answered(model)
    y_B = torch.arange(8) % 2
    expected = matching_loss(model.moments.features(model.sample(y_B, seeded(1))), model.moments.released())
    for objective in model.objectives()[1:3]:
        assert objective.loss(8, seeded(1)).item() == pytest.approx(expected.item(), rel=1e-6)


def test_by_it_alone_the_generator_learns_what_the_classes_look_like(make):
    model = make(warm_up=["moments"])
    x_BC, y_B = answered(model)
    begin = model.objectives()[1]
    optimizer = torch.optim.Adam(model.generator.parameters(), 5e-3)
    for step in range(150):
        optimizer.zero_grad()
        begin.loss(40, seeded(step)).backward()
        optimizer.step()
    made_BC = model.sample(y_B, seeded(1))
    error, swapped = ((made_BC - other).abs().mean().item() for other in (x_BC, x_BC.flip(0)))
    assert error < 0.2 < 0.8 < swapped  # the flip gives each image the other class's picture


def test_no_image_is_longer_than_what_the_query_clips_to(make):
    model = make(warm_up=["moments"], structures=1)
    x_BC = torch.cat([torch.rand(4, 2, 8, 8, generator=seeded()) * 2 - 1, torch.full((2, 2, 8, 8), 50.0)])
    assert model.moments.embed(x_BC).norm(dim=1).max() <= 1 + 1e-6


def test_what_an_image_added_to_the_answer_is_scored_as_what_was_released(make):
    model = make(warm_up=["moments"])
    x_BC, y_B = answered(model)
    expected_B = (model.moments.embed(x_BC) * model.moments.mean.weight[y_B]).sum(1)
    torch.testing.assert_close(model.white_box().released(x_BC, y_B), expected_B)
    assert make().white_box().released is None


@pytest.mark.parametrize("theirs", [[], ["moments"]], ids=str)
@pytest.mark.parametrize("ours", [[], ["moments"]], ids=str)
def test_public_weights_leave_their_own_answer_behind(make, ours, theirs):
    model, public = make(warm_up=ours), make(warm_up=theirs)
    for weight in public.parameters():
        weight.data += 1
    model.begin_with(public.state_dict())
    for name, value in model.state_dict().items():
        if name.startswith("moments."):
            assert not value.any(), name
        elif not name.startswith("every."):
            assert torch.equal(value, public.state_dict()[name]), name


def test_without_it_nothing_is_asked(make):
    assert not any(isinstance(o, Query) for o in make().objectives()) and make().moments is None
    for wrong in (True, "moments", ["means"], ["moments", "moments"], [["moments"]], 3):
        with pytest.raises(InputError, match=r"a list of moments(.|\n)*model\.warm_up=\[moments\]"):
            make(warm_up=wrong)


@pytest.mark.parametrize("model", [CodeGAN, partial(Evolution, candidates=3, frequencies=8)])
def test_inside_another_model_it_leaves_its_answer_behind(model):
    public = VAEGAN((8, 8), 2, **SMALL, warm_up=["moments"])
    answered(public)
    for warm_up in ([], ["moments"]):
        inside = model((8, 8), 2, source={"_target_": "imgsynth.models.VAEGAN", **SMALL, "warm_up": warm_up})
        inside.begin_with(public.state_dict())
        ours, theirs = inside.public_part.networks.state_dict(), public.networks.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
        assert not warm_up or not inside.public_part.moments.mean.weight.any()
