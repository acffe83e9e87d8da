"""Losses against their formulas, the penalty against differences, slopes against what they must not exceed."""

import pytest
import torch
import torch.nn.functional as F

from imgsynth.models import GAN, PostProcessing, Private
from imgsynth.models.adversarial import LOSSES, Penalised, discriminator_loss, generator_loss, slope
from imgsynth.models.lipschitz import GroupSort, HalvingConvolution, ProjectionHead, spectral_norm
from imgsynth.privacy.engines import get_engine
from imgsynth.privacy.engines.ghost import GhostEngine
from imgsynth.types import PatientBatch

SHAPES = [(16, 24), (8, 8, 16)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, shape: tuple[int, ...], seed: int = 1) -> torch.Tensor:
    return torch.rand(n, 1, *shape, generator=seeded(seed)) * 2 - 1


def critic(shape: tuple[int, ...], kind: str, scale: float = 1.0, loss: str = "wasserstein") -> GAN:
    torch.manual_seed(0)
    model = GAN(shape, 3, latent=4, channels=4, widest=8, loss=loss, critic=kind)
    with torch.no_grad():
        for parameter in model.D.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3).mul_(scale)
    return model


def test_losses_are_those_of_the_papers():
    logit_B = torch.linspace(-5, 5, 11)
    real_B, fake_B = torch.ones(11), torch.zeros(11)
    expected = {
        "non_saturating": (-F.logsigmoid(logit_B), -F.logsigmoid(-logit_B), -F.logsigmoid(logit_B)),
        "hinge": ((1 - logit_B).clamp(min=0), (1 + logit_B).clamp(min=0), -logit_B),
        "wasserstein": (-logit_B, logit_B, -logit_B),
    }
    assert set(expected) == set(LOSSES)
    for loss, (real, fake, made) in expected.items():
        torch.testing.assert_close(discriminator_loss(logit_B, real_B, loss), real)
        torch.testing.assert_close(discriminator_loss(logit_B, fake_B, loss), fake)
        torch.testing.assert_close(generator_loss(logit_B, loss), made)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_slope_is_what_differences_find(shape):
    d = critic(shape, "plain", loss="hinge").D.double()
    x_BC, y_B = images(3, shape).double(), torch.tensor([0, 1, 2])
    found_B = slope(d, x_BC, y_B)
    x_BC.requires_grad_()
    (g_BC,) = torch.autograd.grad(d.logits(x_BC, y_B).sum(), x_BC)
    unit_BC = g_BC / g_BC.flatten(1).norm(dim=1).view(-1, *(1 for _ in g_BC.shape[1:]))
    with torch.no_grad():
        rise_B = (d.logits(x_BC + 1e-6 * unit_BC, y_B) - d.logits(x_BC - 1e-6 * unit_BC, y_B)) / 2e-6
    torch.testing.assert_close(found_B.detach(), rise_B, rtol=1e-4, atol=0)
    assert len({round(s.item(), 6) for s in found_B}) == 3


def test_the_unit_of_a_penalty_is_a_real_image_a_fake_and_one_between_them():
    model = critic((16, 16), "penalty")
    private, _ = model.objectives()
    assert isinstance(private, Private) and private.fakes is None
    x_BC, y_B = images(4, (16, 16)), torch.tensor([0, 1, 2, 0])
    fake_BC, fake_y_B, u_B = private.aux(4, seeded(3))
    torch.testing.assert_close(fake_BC, model.G(*reversed(model._draw(4, seeded(3)))))
    assert not fake_BC.requires_grad and u_B.min() >= 0 and u_B.max() <= 1 and len(set(u_B.tolist())) == 4
    d = model.D
    between_BC = u_B.view(-1, 1, 1, 1) * x_BC + (1 - u_B.view(-1, 1, 1, 1)) * fake_BC
    expected_B = d.logits(fake_BC, fake_y_B) - d.logits(x_BC, y_B) + 10 * (slope(d, between_BC, y_B) - 1).square()
    torch.testing.assert_close(private.module(x_BC, y_B, fake_BC, fake_y_B, u_B), expected_B)


def test_a_penalty_trains_the_discriminator_alone():
    model = critic((16, 16), "penalty")
    private, post = model.objectives()
    private.module(images(2, (16, 16)), torch.tensor([0, 1]), *private.aux(2, seeded())).sum().backward()
    assert all(p.grad is None for p in model.G.parameters())
    assert isinstance(post, PostProcessing) and post.module is model.G


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_two_images_are_scored_further_apart_than_they_are(shape, scale):
    d = critic(shape, "lipschitz", scale).D
    x_BC, y_B = images(64, shape), torch.arange(64) % 3
    near_BC = x_BC + 0.01 * torch.randn(x_BC.shape, generator=seeded(2))
    for other_BC in (near_BC, images(64, shape, 5), -x_BC):
        moved_B = (d.logits(x_BC, y_B) - d.logits(other_BC, y_B)).abs()
        assert (moved_B <= (x_BC - other_BC).flatten(1).norm(dim=1) * (1 + 1e-4)).all()
    assert slope(d, x_BC, y_B).max() <= 1 + 1e-4
    assert slope(d, x_BC, y_B).mean() > 0.01  # and not because it is flat


def test_a_plain_discriminator_is_steeper_than_that():
    d = critic((16, 24), "plain", 3.0, loss="hinge").D
    assert slope(d, images(8, (16, 24)), torch.zeros(8, dtype=torch.long)).min() > 1


@pytest.mark.parametrize("dims", [2, 3])
def test_the_bound_of_a_convolution_holds_and_is_not_far_off(dims):
    """Against the largest singular value of the convolution itself, found by power iteration."""
    torch.manual_seed(0)
    layer = HalvingConvolution(dims, 2, 4).double()
    x = torch.randn(1, 2, *(8,) * dims, dtype=torch.float64)
    linear = layer.conv
    linear.bias.data.zero_()
    for _ in range(200):
        x = (x / x.norm()).requires_grad_()
        y = layer(x)
        (x,) = torch.autograd.grad(y, x, y.detach())
    largest = x.norm().sqrt().item()
    assert 0.4 < largest <= 1 + 1e-9


def test_the_steepest_class_of_a_head_has_slope_one():
    torch.manual_seed(0)
    head = ProjectionHead(5, 1 + 3).double()
    rise = head(torch.eye(5, dtype=torch.float64)) - head.bias  # [H, 1 + classes]
    steepness = (rise[:, :1] + rise[:, 1:]).norm(dim=0)
    torch.testing.assert_close(steepness.max().item(), 1.0)
    assert steepness.min() < 0.95


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_the_spectral_norm_is_the_largest_singular_value(shape):
    w = torch.randn(shape, generator=seeded())
    torch.testing.assert_close(spectral_norm(w).float(), torch.linalg.svdvals(w)[0])


def test_sorting_in_pairs_loses_nothing():
    x_BC = torch.randn(5, 6, 3, generator=seeded())
    y_BC = GroupSort()(x_BC)
    assert (y_BC[:, :3] >= y_BC[:, 3:]).all()
    torch.testing.assert_close(y_BC.square().sum(1), x_BC.square().sum(1))


@pytest.mark.parametrize(("kind", "obstacle"), [("lipschitz", None), ("penalty", "gradient taken within the loss")])
def test_the_ghost_engine_takes_the_layers_and_leaves_the_penalty_to_the_functional_one(kind, obstacle):
    model = critic((16, 16), kind)
    private = model.objectives()[0]
    x_PKC = images(6, (16, 16)).unflatten(0, (3, 2))
    batch = PatientBatch(x_PKC, torch.arange(6).view(3, 2) % 3, torch.full((3, 2), 0.5))
    aux = private.aux(6, seeded(4))
    found = {name: get_engine(name).clipped_sum(private.module, batch, aux, 0.7, 2) for name in ("ghost", "loop")}
    for name, expected in found["loop"].sums.items():
        torch.testing.assert_close(found["ghost"].sums[name], expected, rtol=1e-3, atol=1e-5)
    said = GhostEngine.obstacle(private.module)
    assert said is None if obstacle is None else said is not None and obstacle in said
    assert isinstance(private.module, Penalised) == (kind == "penalty")
