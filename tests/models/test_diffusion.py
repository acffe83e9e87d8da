import copy
import dataclasses

import pytest
import torch

from imgsynth.models import Diffusion
from imgsynth.models.base import PostProcessing, Private, Query
from imgsynth.privacy.engines import get_engine
from imgsynth.types import InputError, PatientBatch

SHAPES = [(12, 8), (8, 8, 16)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def diffusion(shape=(12, 8), classes=2, **more) -> Diffusion:
    """With weights that are not at their start, where the network is 0."""
    torch.manual_seed(0)
    model = Diffusion(shape, classes, channels=4, widest=8, **{"sampler_steps": 4, **more})
    with torch.no_grad():
        for parameter in model.denoising.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images(model: Diffusion, n: int = 4):
    x_BC = torch.rand(n, model.image_channels, *model.shape, generator=seeded(1)) * 2 - 1
    return x_BC, torch.arange(n) % model.classes


@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_is_the_squared_error_of_the_network_for_its_own_target(shape):
    """λ ‖D - x‖² and ‖F - (x - c_skip x') / c_out‖² are one, by the paper's equation 8."""
    model = diffusion(shape)
    x_BC, y_B = images(model)
    sigma_B, eps_BC, keep_B = model._draw(4, seeded())
    noise = model.denoising.noise
    ones = (-1, *(1 for _ in x_BC.shape[1:]))
    skip, out, into, told = (c.view(ones) for c in noise.preconditioning(sigma_B))
    noisy_BC = x_BC + sigma_B.view(ones) * eps_BC
    f_BC = model.denoising.network(into * noisy_BC, told.flatten(), y_B, keep_B)
    expected_B = (f_BC - (x_BC - skip * noisy_BC) / out).square().flatten(1).mean(1)
    torch.testing.assert_close(model.denoising(x_BC, y_B, sigma_B, eps_BC, keep_B), expected_B, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_before_training_the_denoiser_is_that_of_gaussian_data(shape):
    model = Diffusion(shape, 2, channels=4, widest=8)
    x_BC, y_B = images(model)
    sigma_B = torch.tensor([0.05, 0.5, 2.0, 40.0])
    denoised_BC = model.denoising.denoised(x_BC, sigma_B, y_B, torch.ones(4))
    skip_B = 0.25 / (0.25 + sigma_B.square())
    torch.testing.assert_close(denoised_BC, skip_B.view(-1, *(1 for _ in x_BC.shape[1:])) * x_BC)


def test_many_noise_levels_are_one_patients_mean_and_clipped_once():
    """Noise multiplicity: M copies with noise of their own; the patient moves the sum by C at most, by any engine."""
    model = diffusion()
    (private,) = [o for o in model.objectives() if isinstance(o, Private)]
    patients, copies, clip = 3, 4, 0.01
    x_BC, y_B = images(model, patients)
    x_PKC, y_PK = x_BC[:, None].repeat(1, copies, 1, 1, 1), y_B[:, None].repeat(1, copies)
    aux = private.aux(patients * copies, seeded(3))
    batch = PatientBatch(x_PKC, y_PK, torch.full((patients, copies), 1 / copies))
    expected = {name: torch.zeros_like(p) for name, p in private.module.named_parameters()}
    for p in range(patients):
        own = [a[p * copies : (p + 1) * copies] for a in aux]
        loss = private.module(x_PKC[p], y_PK[p], *own).mean()
        gradient = torch.autograd.grad(loss, list(private.module.parameters()))
        norm = torch.cat([g.flatten() for g in gradient]).norm()
        assert norm > clip
        for name, g in zip(expected, gradient, strict=True):
            expected[name] += g * (clip / norm)
    for engine in ("ghost", "functional"):
        got = get_engine(engine, "float32").clipped_sum(private.module, batch, aux, clip, physical_batch=2)
        for name, value in expected.items():
            torch.testing.assert_close(got.sums[name], value, rtol=1e-3, atol=1e-6)


def test_labels_are_dropped_by_public_coins_and_then_not_looked_at():
    model = diffusion(label_dropping=0.3)
    keep_B = model._draw(20_000, seeded())[2]
    assert set(keep_B.tolist()) == {0.0, 1.0}
    assert keep_B.mean().item() == pytest.approx(0.7, abs=0.015)
    x_BC, _ = images(model)
    sigma_B = torch.ones(4)
    by_class = [model.denoising.denoised(x_BC, sigma_B, torch.full((4,), y), torch.zeros(4)) for y in (0, 1)]
    assert torch.equal(*by_class)
    told = [model.denoising.denoised(x_BC, sigma_B, torch.full((4,), y), torch.ones(4)) for y in (0, 1)]
    assert not torch.isclose(*told).all()


def test_guidance_is_the_stated_combination():
    """One step from σ to 0 is the denoiser itself: there the samples of three strengths are on one line."""
    y_B = torch.tensor([0, 1, 1])
    made = {}
    for w in (0.0, 1.0, 3.0):
        model = diffusion(guidance=w, sampler_steps=1)
        model.denoising.noise = model.denoising.noise.__class__(largest=0.3)  # small: nothing is cut off at ±1
        made[w] = model.sample(y_B, seeded(5))
    inside = (made[3.0].abs() < 1) & (made[1.0].abs() < 1) & (made[0.0].abs() < 1)
    assert inside.float().mean() > 0.8
    torch.testing.assert_close(
        made[3.0][inside], (made[0.0] + 3 * (made[1.0] - made[0.0]))[inside], rtol=1e-4, atol=1e-4
    )
    assert not torch.isclose(made[3.0], made[1.0])[inside].all()


def test_more_sampler_steps_and_churn_change_samples_and_are_repeatable():
    y_B = torch.zeros(3, dtype=torch.long)
    model = diffusion(sampler_steps=6)
    plain = model.sample(y_B, seeded(5))
    model.sampling = dataclasses.replace(model.sampling, churn=5.0)
    churned = model.sample(y_B, seeded(5))
    assert not torch.equal(plain, churned) and torch.equal(churned, model.sample(y_B, seeded(5)))


def test_wrong_settings_are_refused_all_at_once():
    with pytest.raises(InputError) as caught:
        Diffusion((8, 8), 1, label_dropping=1.0, guidance=-1, sampler_steps=0, churn=-1)
    assert {f.where for f in caught.value.faults} == {
        "model.label_dropping", "model.guidance", "model.sampler_steps", "model.churn",
    }  # fmt: skip
    with pytest.raises(InputError, match="told"):
        Diffusion((8, 8), 1, label_dropping=0.0, guidance=2.0)


def test_warm_up_sees_the_means_alone():
    """The post-processing loss follows the query's answer, and nothing else that is not drawn."""
    model = diffusion(warm_up=["means"])
    query, post, private = model.objectives()
    assert isinstance(query, Query) and isinstance(post, PostProcessing) and isinstance(private, Private)
    assert post.before and not any(post.due(step) for step in range(1, 20)) and post.module is private.module
    before = post.loss(6, seeded(1)).item()
    other = copy.deepcopy(model)
    other.means.mean_YC += 0.5
    assert post.loss(6, seeded(1)).item() == before != other.objectives()[1].loss(6, seeded(1)).item()


@pytest.mark.parametrize("begin", [["moments"], ["means", "moments"]])
def test_warm_up_on_moments_is_of_a_generator_that_knows_the_moments_alone(begin):
    """First the generator learns from the answer to the query, then the network from the generator."""
    model = diffusion(warm_up=begin)
    *_, generator, network, private = model.objectives()
    query = next(o for o in model.objectives() if o.name == "moments")
    assert isinstance(query, Query) and isinstance(generator, PostProcessing) and isinstance(network, PostProcessing)
    assert query.when == "before" and query.module is model.auxiliary.embedding
    assert generator.before and network.before and isinstance(private, Private) and network.module is private.module
    assert query.answers == [model.auxiliary.embedding.mean.weight] and not query.answers[0].requires_grad
    assert generator.module is model.auxiliary.G
    answered, taught = copy.deepcopy(model), copy.deepcopy(model)
    answered.auxiliary.embedding.mean.weight.data += torch.rand(query.answers[0].shape, generator=seeded(3))
    for weight in taught.auxiliary.G.parameters():
        weight.data += 0.1 * torch.rand(weight.shape, generator=seeded(4))
    losses = [[o.loss(8, seeded(1)).item() for o in m.objectives()[-3:-1]] for m in (model, answered, taught)]
    assert losses[0][0] != losses[1][0] and losses[0][1] == losses[1][1] != losses[2][1]


@pytest.mark.parametrize("begin", ["means", "moments"])
def test_a_network_warms_up_on_each_image_with_its_own_class_as_it_trains_on_patients(begin, monkeypatch):
    """The mean of the private loss, on images of all classes, told as what they are."""
    model, seen = diffusion(warm_up=[begin]), []
    brightness_Y = torch.tensor([-0.8, 0.0, 0.8])[: model.classes]
    if begin == "means":
        model.means.mean_YC += brightness_Y.view(-1, *(1 for _ in model.means.mean_YC.shape[1:]))
    else:
        made = lambda y_B, random: brightness_Y[y_B].view(-1, 1, 1, 1).expand(-1, 1, *model.shape)  # noqa: E731
        monkeypatch.setattr(model.auxiliary, "sample", made)
    forward = model.denoising.forward
    monkeypatch.setattr(
        model.denoising, "forward", lambda x_BC, y_B, *more: seen.append((x_BC, y_B)) or forward(x_BC, y_B, *more)
    )
    warm_up = next(o for o in model.objectives() if o.name == f"warm_up_on_{begin}")
    loss = warm_up.loss(60, seeded(1))
    ((x_BC, y_B),) = seen
    told = [x_BC[y_B == y].mean().item() for y in range(model.classes)]
    assert len(x_BC) == 60 and set(y_B.tolist()) == set(range(model.classes))
    assert told == pytest.approx(brightness_Y.tolist(), abs=0.2)
    random = seeded(1)
    (model.means.around(60, random) if begin == "means" else torch.randint(model.classes, (60,), generator=random))
    expected = forward(x_BC, y_B, *model._draw(60, random)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_what_an_image_added_to_answers_is_scored_as_what_was_released():
    """For audits: the sum over answers of <w, v(x, y)>."""
    model = diffusion(warm_up=["means", "moments"])
    x_BC, y_B = torch.rand(5, 1, *model.shape, generator=seeded()) * 2 - 1, torch.arange(5) % model.classes
    model.means.w.weight.data += torch.randn(model.means.w.weight.shape, generator=seeded(1))
    moments = model.auxiliary.embedding.mean.weight
    moments.data += torch.randn(moments.shape, generator=seeded(2))
    expected_B = (model.means.vectors(x_BC, y_B) * model.means.w.weight[0]).sum(1)
    expected_B = expected_B + (model.auxiliary.embedding.embed(x_BC) * moments[y_B]).sum(1)
    torch.testing.assert_close(model.white_box().released(x_BC, y_B), expected_B)
    assert diffusion().white_box().released is None


def test_public_weights_to_begin_with_leave_their_own_answers_behind():
    ours, public = diffusion(warm_up=["means", "moments"]), diffusion(warm_up=["means", "moments"])
    for weight in (*public.parameters(), *public.buffers()):
        if weight.is_floating_point():
            weight.data += 1
    answers = {n: t.clone() for n, t in ours.state_dict().items() if n.startswith(("means.", "auxiliary.embedding."))}
    ours.begin_with(public.state_dict())
    for name, value in ours.state_dict().items():
        assert torch.equal(value, answers[name] if name in answers else public.state_dict()[name]), name
    assert len(answers) == 3 and any(name.startswith("auxiliary.G.") for name in ours.state_dict())


def test_a_generator_that_only_this_run_begins_on_is_its_own():
    ours, theirs = diffusion(warm_up=["moments"]), diffusion(warm_up=[])
    own = {n: t.clone() for n, t in ours.state_dict().items() if n.startswith("auxiliary.")}
    for weight in theirs.parameters():
        weight.data += 1
    ours.begin_with(theirs.state_dict())
    assert all(torch.equal(value, own.get(n, theirs.state_dict().get(n))) for n, value in ours.state_dict().items())


def test_no_image_enters_the_moments_longer_than_1():
    """The public norm to which the plan clips the answer to the query."""
    model = diffusion(warm_up=["moments"], structures=2)
    query = model.objectives()[0]
    x_BC = torch.rand(6, 3, *model.shape, generator=seeded()) * 2 - 1
    x_BC[:2], x_BC[2:4] = 1, 100.0
    assert [q.norm for q in diffusion(warm_up=["means", "moments"]).objectives()[:2]] == [1, 1]
    assert query.norm == 1 and query.module.embed(x_BC).norm(dim=1).max() <= 1 + 1e-6


def test_queries_come_first_and_beginnings_in_the_order_that_is_asked():
    for begin in (["means", "moments"], ["moments", "means"]):
        found = [o.name for o in diffusion(warm_up=begin).objectives()]
        assert {*found[:2]} == {"class means", "moments"} and found[-1] == "denoising"
        assert [n for n in found if n.startswith("warm_up")] == [f"warm_up_on_{name}" for name in begin]
    for wrong in (True, "means", ["mean"], ["means", "mean"], ["means", "means"], [["means"]], [{}], 3):
        with pytest.raises(InputError, match=r"means, moments(.|\n)*model\.warm_up=\[means\]"):
            diffusion(warm_up=wrong)


def test_a_network_learns_two_classes_and_samples_them():
    """The whole method without privacy, small: bright and dark squares, told apart by class."""
    torch.manual_seed(0)
    model = Diffusion((8, 8), 2, channels=8, widest=8, sampler_steps=8)
    (private,) = model.objectives()
    optimizer, random = torch.optim.Adam(private.module.parameters(), 1e-2), seeded()
    for _ in range(150):
        y_B = torch.randint(2, (64,), generator=random)
        x_BC = torch.full((64, 1, 8, 8), -0.5)
        x_BC[y_B == 1, :, 2:6, 2:6] = 0.6
        optimizer.zero_grad()
        private.module(x_BC, y_B, *private.aux(64, random)).mean().backward()
        optimizer.step()
    y_B = torch.arange(16) % 2
    made_BC = model.sample(y_B, seeded(4))
    middle_B, edge_B = made_BC[:, 0, 3:5, 3:5].mean((1, 2)), made_BC[:, 0, 0].mean(1)
    assert middle_B[y_B == 1].mean() > 0.1
    assert middle_B[y_B == 0].mean().item() == pytest.approx(-0.5, abs=0.15)
    assert edge_B.mean().item() == pytest.approx(-0.5, abs=0.15)
