"""Every gradient engine answers the same question. An engine joins this suite by being listed in ``ENGINES``."""

import copy
from functools import partial

import pytest
import torch
from engine_oracle import CLASSES, SIDE, TOLERANCE, disagreement, make_batch, oracle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import grad

from imgsynth.models import GAN, VAE, VAEGAN, Diffusion, LatentDiffusion, Pix2Pix, Private
from imgsynth.models.base import queries_of
from imgsynth.privacy.engines import ENGINES, Clipped, get_engine
from imgsynth.privacy.engines.ghost import GhostEngine
from imgsynth.privacy.engines.loop import LoopEngine
from imgsynth.types import InputError, PatientBatch


class Critic(nn.Module):
    """Conv, GroupNorm, label embedding, Linear."""

    def __init__(self, dims):
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
        self.body = nn.Sequential(
            conv(1, 4, 3, stride=2, padding=1), nn.GroupNorm(2, 4), nn.LeakyReLU(0.2), conv(4, 4, 3, padding=1)
        )
        self.label = nn.Embedding(CLASSES, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, x, y, target):
        h = self.body(x).flatten(2).mean(2) + self.label(y)
        return nn.functional.softplus(target * self.head(torch.tanh(h)).squeeze(1))


class Autoencoder(nn.Module):
    """Conv down, transposed conv up, InstanceNorm, reparameterisation noise from aux."""

    def __init__(self, dims):
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
        up = (nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 2]
        norm = (nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 2]
        self.down = conv(1, 4, 4, stride=2, padding=1, bias=False)  # a bias would be normalised away
        self.norm = norm(4, affine=True)
        self.up = up(4, 1, 4, stride=2, padding=1)

    def forward(self, x, y, noise):
        h = torch.tanh(self.norm(self.down(x)))
        scale = noise.reshape(-1, *(1 for _ in x.shape[1:]))
        return (self.up(h * (1 + 0.1 * scale)) - x).square().flatten(1).mean(1)


class Shared(nn.Module):
    """One layer used twice, one weight tied across two modules, an in-place activation, weight normalisation."""

    def __init__(self, dims):
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
        self.twice = conv(1, 1, 3, padding=1)
        self.inplace = nn.ReLU(inplace=True)
        self.first = nn.Linear(SIDE, SIDE)
        self.second = nn.Linear(SIDE, SIDE)
        self.second.weight = self.first.weight
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(SIDE, 2))

    def forward(self, x, y, shift):
        h = self.twice(torch.sin(self.twice(x)))
        h = self.inplace(h + 1)
        h = self.normed(self.second(torch.tanh(self.first(h))))
        return (h.flatten(1).mean(1) - shift).square()


class GradientPenalty(nn.Module):
    """A loss with the gradient of the network with respect to its input inside (WGAN-GP, arXiv 1704.00028)."""

    def __init__(self, dims):
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
        self.net = nn.Sequential(conv(1, 3, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(3 * SIDE**dims, 1))

    def forward(self, x, y, t):
        slope = grad(lambda v: self.net(v).sum())(x).flatten(1).norm(dim=1)
        return t * self.net(x).squeeze(1) + 10 * (slope - 1).square()


class PartlyFrozen(nn.Module):
    """A frozen layer before a trained one, and a scalar parameter."""

    def __init__(self, dims):
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
        self.frozen = conv(1, 2, 3, padding=1).requires_grad_(False)
        self.trained = conv(2, 1, 1)
        self.temperature = nn.Parameter(torch.tensor(0.7))

    def forward(self, x, y, t):
        return (self.temperature * self.trained(torch.tanh(self.frozen(x)))).flatten(1).mean(1).sub(t).square()


NETWORKS = (Critic, Autoencoder, Shared, GradientPenalty, PartlyFrozen)


def make_network(kind, dims, dtype=torch.float64):
    torch.manual_seed(0)
    return kind(dims).to(dtype)


def median_norm(module, batch, aux):
    """A clipping norm that some patients reach and some do not."""
    return float(torch.tensor(oracle(module, batch, aux, 1.0)[1]).median())


@pytest.fixture(params=sorted(ENGINES))
def engine(request):
    return get_engine(request.param)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", NETWORKS)
def test_equals_the_oracle(engine, kind, dims, dtype):
    module = make_network(kind, dims, dtype)
    batch, aux = make_batch(4, 3, dims, dtype=dtype)
    clip = median_norm(module, batch, aux)
    expected, _ = oracle(module, batch, aux, clip)
    assert all(v.abs().max() > 1e-4 for v in expected.values()), "a parameter without gradient tests nothing"
    agrees(engine, module, batch, aux, clip)


def agrees(engine, module, batch, aux, clip):
    dtype = batch.x_PKC.dtype
    expected, norms = oracle(module, batch, aux, clip)
    got = engine.clipped_sum(module, batch, aux, clip, physical_batch=3)
    assert disagreement(got.sums, expected) < TOLERANCE[dtype]
    torch.testing.assert_close(got.norms_P, torch.tensor(norms, dtype=dtype), rtol=TOLERANCE[dtype], atol=0)


OURS = {
    "vae": VAE,
    "gan": GAN,
    "gan, lipschitz": partial(GAN, loss="wasserstein", critic="lipschitz"),
    "gan, penalty": partial(GAN, loss="wasserstein", critic="penalty", channels=2),
    "vaegan": VAEGAN,
    "diffusion": partial(Diffusion, channels=4, widest=8),
    "latent diffusion": partial(LatentDiffusion, source={"_target_": "imgsynth.models.VAE"}, width=8, depth=1),
    "pix2pix": partial(Pix2Pix, structures=2),
}


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 8)], ids=str)
@pytest.mark.parametrize("model", OURS)
def test_the_private_objectives_of_our_models(engine, model, shape):
    torch.manual_seed(0)
    made = OURS[model](shape, CLASSES)
    (objective,) = [o for o in made.objectives() if isinstance(o, Private)]
    aux = objective.aux(6, torch.Generator().manual_seed(0))
    sums_to_the_oracles(engine, objective.module.double(), shape, aux, made.image_channels)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 8)], ids=str)
def test_the_queries_of_our_models(engine, shape):
    """Only the answers have gradients; nothing is left to another engine."""
    torch.manual_seed(0)
    (query,) = queries_of(VAE(shape, CLASSES, prior="fitted").objectives())
    torch.nn.init.normal_(query.module.encoder.head.weight)
    module = query.module.double().requires_grad_(False)
    for answer in query.answers:
        answer.requires_grad_(True)
    sums_to_the_oracles(engine, module, shape, ())
    assert GhostEngine.obstacle(module) is None


def sums_to_the_oracles(engine, module, shape, aux, channels=1):
    x = torch.rand(3, 2, channels, *shape, dtype=torch.float64) * 2 - 1
    batch = PatientBatch(x, torch.tensor([[0, 1], [2, 0], [1, 1]]), torch.tensor([[0.3, 0.7], [0.5, 0.5], [1.0, 0.0]]))
    batch.w_PK = batch.w_PK.double()
    aux = tuple(a.double() for a in aux)
    clip = median_norm(module, batch, aux)
    expected, _ = oracle(module, batch, aux, clip)
    assert disagreement(engine.clipped_sum(module, batch, aux, clip, 2).sums, expected) < 1e-9


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(NETWORKS),
    dims=st.sampled_from([2, 3]),
    patients=st.integers(0, 5),
    images=st.integers(1, 3),
    physical_batch=st.integers(1, 6),
    clip=st.floats(1e-3, 1e3),
    seed=st.integers(0, 10**6),
)
def test_equals_the_oracle_for_any_batch(engine, kind, dims, patients, images, physical_batch, clip, seed):
    module = make_network(kind, dims)
    batch, aux = make_batch(patients, images, dims, seed)
    got = engine.clipped_sum(module, batch, aux, clip, physical_batch)
    assert disagreement(got.sums, oracle(module, batch, aux, clip)[0]) < 1e-9
    assert got.norms_P.shape == got.loss_P.shape == (patients,)


class ImageByImage(LoopEngine):
    """Clips every image by itself."""

    def _sum(self, module, parameters, batch, aux_PK, clipping_norm, physical_batch):
        one = PatientBatch(*(t.flatten(0, 1)[:, None] for t in (batch.x_PKC, batch.y_PK, batch.w_PK)))
        aux = tuple(a.flatten(0, 1)[:, None] for a in aux_PK)
        found = super()._sum(module, parameters, one, aux, clipping_norm, physical_batch)
        norms = found.norms_P.view(batch.w_PK.shape).norm(dim=1)
        return Clipped(found.sums, norms, found.loss_P.view(batch.w_PK.shape).sum(1))


class OneLayerLeftOut(LoopEngine):
    """Forgets the head's weight in the norm."""

    def _patient_gradient(self, module, parameters, batch, aux_PK, p):
        gradient, loss = super()._patient_gradient(module, parameters, batch, aux_PK, p)
        kept = [g for name, g in zip(parameters, gradient, strict=True) if name != "head.weight"]
        short = float(torch.stack([g.norm() for g in kept]).norm() / torch.stack([g.norm() for g in gradient]).norm())
        return [g / short if short else g for g in gradient], loss


class StaleBuffer(GhostEngine):
    """Reads the first output gradient that a layer ever had."""

    def _clipped(self, *arguments):
        if not hasattr(self, "kept"):
            self.kept = super()._clipped(*arguments)
        return self.kept


@pytest.mark.parametrize("broken", [ImageByImage, OneLayerLeftOut, StaleBuffer])
def test_broken_engines_fail_the_suite(broken):
    """The suite's own test, run on an engine with a mistake in it."""
    with pytest.raises(AssertionError):
        for seed in range(2):
            module, (batch, aux) = make_network(Critic, 2), make_batch(4, 3, 2, seed)
            agrees(broken(), module, batch, aux, min(oracle(module, batch, aux, 1.0)[1]) / 2)


@pytest.mark.parametrize("mistake", [{"unit": "image"}, {"leave_out": "head.weight"}], ids=str)
def test_the_suite_notices_broken_clipping(engine, mistake):
    module = make_network(Critic, 2)
    batch, aux = make_batch(6, 3, 2)
    clip = min(oracle(module, batch, aux, 1.0)[1]) / 2
    got = engine.clipped_sum(module, batch, aux, clip, 4).sums
    broken, _ = oracle(module, batch, aux, clip, **mistake)
    assert disagreement(got, oracle(module, batch, aux, clip)[0]) < 1e-9
    assert disagreement(got, broken) > 1e-2


def test_physical_batch_changes_nothing(engine):
    module, (batch, aux) = make_network(Autoencoder, 2), make_batch(7, 2, 2)
    one, many = (engine.clipped_sum(module, batch, aux, 0.1, size) for size in (1, 100))
    assert disagreement(one.sums, many.sums) < 1e-12


def test_losses_are_the_weighted_means(engine):
    module, (batch, aux) = make_network(Critic, 2), make_batch(3, 2, 2)
    with torch.no_grad():
        loss_PK = module(batch.x_PKC.flatten(0, 1), batch.y_PK.flatten(), *aux).view(3, 2)
    got = engine.clipped_sum(module, batch, aux, 1.0, 8).loss_P
    torch.testing.assert_close(got, (batch.w_PK * loss_PK).sum(1))


@pytest.mark.parametrize("kind", [Autoencoder, Critic, Shared])
def test_empty_batch_gives_zeros_for_every_layer(engine, kind):
    """Transposed convolutions too: a Poisson batch may be empty, and must then take a noisy step."""
    module, (batch, aux) = make_network(kind, 2), make_batch(0, 2, 2)
    got = engine.clipped_sum(module, batch, aux, 1.0, 8)
    assert got.sums.keys() == dict(module.named_parameters()).keys()
    assert all(v.shape == module.get_parameter(n).shape and not v.any() for n, v in got.sums.items())
    assert len(got.norms_P) == len(got.loss_P) == 0


def test_empty_batch_gives_zeros(engine):
    module, (batch, aux) = make_network(PartlyFrozen, 2), make_batch(0, 2, 2)
    got = engine.clipped_sum(module, batch, aux, 1.0, 8)
    assert {n: v.abs().sum().item() for n, v in got.sums.items()} == {
        "trained.weight": 0.0,
        "trained.bias": 0.0,
        "temperature": 0.0,
    }


def test_padding_contributes_nothing_even_when_it_is_not_a_number(engine):
    module, (batch, aux) = make_network(Critic, 2), make_batch(4, 3, 2)
    expected = engine.clipped_sum(module, batch, aux, 0.1, 8).sums
    padding_PK = batch.w_PK == 0
    assert padding_PK.any()
    batch.x_PKC[padding_PK] = torch.nan
    aux[0][padding_PK.flatten()] = torch.inf
    got = engine.clipped_sum(module, batch, aux, 0.1, 8)
    assert disagreement(got.sums, expected) < 1e-12
    assert got.norms_P.isfinite().all()


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, 1e200])
@pytest.mark.parametrize("kind", [Shared, Autoencoder])
def test_a_patient_with_a_non_finite_gradient_contributes_zero(engine, kind, poison):
    module, (batch, aux) = make_network(kind, 2), make_batch(4, 1, 2)
    keep = [0, 1, 3]
    rest = PatientBatch(batch.x_PKC[keep], batch.y_PK[keep], batch.w_PK[keep])
    expected = engine.clipped_sum(module, rest, (aux[0][keep],), 0.1, 8).sums
    aux[0][2] = poison  # (h - 1e200)² overflows
    got = engine.clipped_sum(module, batch, aux, 0.1, 8)
    assert not got.norms_P[2].isfinite()
    assert disagreement(got.sums, expected) < 1e-12


def test_a_patient_without_images_contributes_zero(engine):
    module, (batch, aux) = make_network(Critic, 2), make_batch(2, 2, 2)
    expected = engine.clipped_sum(
        module, PatientBatch(batch.x_PKC[:1], batch.y_PK[:1], batch.w_PK[:1]), (aux[0][:2],), 0.1, 8
    ).sums
    batch.w_PK[1] = 0
    assert disagreement(engine.clipped_sum(module, batch, aux, 0.1, 8).sums, expected) < 1e-12


def test_neither_module_nor_batch_is_changed(engine):
    module, (batch, aux) = make_network(PartlyFrozen, 2), make_batch(3, 2, 2)
    before = copy.deepcopy((module.state_dict(), batch.x_PKC, aux))
    engine.clipped_sum(module, batch, aux, 0.1, 8)
    torch.testing.assert_close((module.state_dict(), batch.x_PKC, aux), before, rtol=0, atol=0)
    assert all(p.grad is None for p in module.parameters())


class EatsItsInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.eat, self.net = nn.ReLU(inplace=True), nn.Conv2d(1, 1, 3)

    def forward(self, x, y, t):
        return self.net(self.eat(x)).flatten(1).mean(1)


def test_an_in_place_first_layer_leaves_the_batch_alone(engine):
    batch, aux = make_batch(3, 2, 2)
    before = batch.x_PKC.clone()
    engine.clipped_sum(EatsItsInput().double(), batch, aux, 1.0, 8)
    assert torch.equal(batch.x_PKC, before)


class OddLoss(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.net, self.shape = nn.Linear(1, 1), shape

    def forward(self, x, y, t):
        loss = self.net(x.flatten(1).mean(1, keepdim=True)).square()
        return {"(B, 1)": loss, "()": loss.mean()}[self.shape]


@pytest.mark.parametrize("shape", ["(B, 1)", "()"])
@pytest.mark.parametrize("images", [1, 2])
def test_losses_of_another_shape_are_refused(engine, shape, images):
    batch, aux = make_batch(3, images, 2)
    with pytest.raises(InputError, match=r"one loss for each image.*\.mean\(1\)"):
        engine.clipped_sum(OddLoss(shape).double(), batch, aux, 1.0, 8)


class Keeps(nn.Module):
    """Writes to itself in the forward pass, in ways of which torch's own book-keeping sees only some."""

    def __init__(self, how, dropout):
        super().__init__()
        self.how, self.net, self.drop = how, nn.Linear(1, 1), nn.Dropout(0.5 if dropout else 0.0)
        self.register_buffer("seen", torch.zeros(()))
        self.frozen = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x, y, t):
        if self.how == "a buffer":
            self.seen += 1
        if self.how == "a buffer's data":
            self.seen.data.add_(1)
        if self.how == "a buffer replaced":
            self.seen = self.seen + 1
        if self.how == "a frozen parameter":
            self.frozen.data.add_(1)
        if self.how == "a frozen parameter replaced":
            self.frozen = nn.Parameter(self.frozen + 1, requires_grad=False)
        if self.how == "a trained parameter":
            self.net.bias.data.add_(1)
        return self.net(self.drop(x.flatten(1).mean(1, keepdim=True))).squeeze(1).square()


KEPT = ["a buffer", "a buffer's data", "a buffer replaced", "a frozen parameter", "a frozen parameter replaced",
        "a trained parameter"]  # fmt: skip


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("how", KEPT)
def test_what_changes_in_the_forward_pass_is_refused(engine, how, dropout):
    batch, aux = make_batch(2, 1, 2)
    with pytest.raises(InputError, match=r"pass the clipping|torch.func can follow|other gradients"):
        engine.clipped_sum(Keeps(how, dropout).double(), batch, aux, 1.0, 8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_parameters_are_refused(engine, dtype):
    """Sums of clipped gradients rounded to 8 bits move by more than C."""
    batch, aux = make_batch(2, 1, 2, dtype=torch.float32)
    with pytest.raises(InputError, match="float32 or float64"):
        engine.clipped_sum(make_network(Critic, 2, dtype), batch, aux, 1.0, 8)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)

    def forward(self, x, y, t):
        loss = self.net(x.flatten(1).mean(1, keepdim=True)).squeeze(1).square()
        return loss if loss.max() > 1 else 2 * loss


def test_what_torch_func_cannot_follow_is_explained():
    batch, aux = make_batch(2, 1, 2)
    with pytest.raises(InputError, match=r"privacy\.engine=loop"):
        get_engine("functional").clipped_sum(Branches().double(), batch, aux, 1.0, 8)
    get_engine("loop").clipped_sum(Branches().double(), batch, aux, 1.0, 8)


def test_a_frozen_network_is_refused(engine):
    module, (batch, aux) = make_network(Critic, 2).requires_grad_(False), make_batch(2, 1, 2)
    with pytest.raises(InputError, match="no trainable parameter"):
        engine.clipped_sum(module, batch, aux, 1.0, 8)


def test_dropout_draws_anew_for_every_patient(engine):
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.drop = nn.Linear(SIDE * SIDE, 1), nn.Dropout(0.5)

        def forward(self, x, y, t):
            return self.net(self.drop(x.flatten(1))).squeeze(1)

    batch, aux = make_batch(2, 1, 2)
    batch.x_PKC[1] = batch.x_PKC[0]
    assert len(set(engine.clipped_sum(Dropped().double(), batch, aux, 1.0, 8).norms_P.tolist())) == 2


class WassersteinUnit(nn.Module):
    """WGAN-GP's critic: one unit is {real, fake, interpolate} of one image; the interpolate holds private pixels."""

    def __init__(self, dims):
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
        self.net = nn.Sequential(conv(1, 3, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(3 * SIDE**dims, 1))

    def forward(self, x, y, fake, share):
        mix = share.view(-1, *(1 for _ in x.shape[1:])) * (x - fake) + fake
        slope = grad(lambda v: self.net(v).sum())(mix).flatten(1).norm(dim=1)
        return (self.net(fake) - self.net(x)).squeeze(1) + 10 * (slope - 1).square()


@pytest.mark.parametrize("dims", [2, 3])
def test_the_unit_of_a_gradient_penalty_is_real_fake_and_interpolate(engine, dims):
    module, (batch, _) = make_network(WassersteinUnit, dims), make_batch(4, 2, dims)
    random = torch.Generator().manual_seed(5)
    fake = torch.randn(8, *batch.x_PKC.shape[2:], generator=random, dtype=torch.float64)
    aux = (fake, torch.rand(8, generator=random, dtype=torch.float64))
    clip = median_norm(module, batch, aux)
    expected, norms = oracle(module, batch, aux, clip)
    got = engine.clipped_sum(module, batch, aux, clip, 3)
    assert disagreement(got.sums, expected) < 1e-9
    torch.testing.assert_close(got.norms_P, torch.tensor(norms, dtype=torch.float64), rtol=1e-9, atol=0)


class RealAndFake(nn.Module):
    """A discriminator called twice in one step, on the patient's image and on a generated one."""

    def __init__(self, dims):
        super().__init__()
        self.critic = Critic(dims)

    def forward(self, x, y, fake, scale):
        return self.critic(x, y, scale) + self.critic(fake, y, -scale)


def test_a_network_called_twice_in_a_step_is_clipped_once(engine):
    """Clipped call by call, the two gradients would be cut apart and the sum could be twice as long."""
    module, (batch, (scale,)) = make_network(RealAndFake, 2), make_batch(4, 2, 2)
    aux = (torch.randn(8, *batch.x_PKC.shape[2:], dtype=torch.float64), scale)
    clip = min(oracle(module, batch, aux, 1.0)[1]) / 2
    got = engine.clipped_sum(module, batch, aux, clip, 3)
    assert disagreement(got.sums, oracle(module, batch, aux, clip)[0]) < 1e-9
    apart = oracle(module.critic, batch, (scale,), clip)[0]
    for name, value in oracle(module.critic, fakes_of(batch, aux[0]), (-scale,), clip)[0].items():
        apart[name] += value
    assert disagreement({n.removeprefix("critic."): v for n, v in got.sums.items()}, apart) > 1e-2


def fakes_of(batch, fake):
    return PatientBatch(fake.view_as(batch.x_PKC), batch.y_PK, batch.w_PK)


def test_opacus_agrees(engine):
    """A second library's per-sample gradients, for one image a patient."""
    from opacus.grad_sample import GradSampleModule

    module, (batch, aux) = make_network(Critic, 2), make_batch(5, 1, 2)
    wrapped = GradSampleModule(copy.deepcopy(module), loss_reduction="sum")
    wrapped(batch.x_PKC[:, 0], batch.y_PK[:, 0], *aux).sum().backward()
    samples = {n.removeprefix("_module."): p.grad_sample for n, p in wrapped.named_parameters()}
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in samples.values()]).norm(dim=0)
    clip = float(norms.median())
    got = engine.clipped_sum(module, batch, aux, clip, 8)
    torch.testing.assert_close(got.norms_P, norms)
    factors = (clip / norms).clamp(max=1)
    assert disagreement(got.sums, {n: torch.tensordot(factors, g, 1) for n, g in samples.items()}) < 1e-9


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(images=st.integers(1, 4), scale=st.floats(1e-6, 1e6), clip=st.floats(1e-2, 10), seed=st.integers(0, 10**6))
def test_one_more_patient_moves_the_sum_by_at_most_C(engine, images, scale, clip, seed):
    module = make_network(Shared, 2)
    batch, aux = make_batch(3, images, 2, seed)
    batch.x_PKC[2] *= scale
    aux[0][2 * images :] *= scale
    fewer = PatientBatch(batch.x_PKC[:2], batch.y_PK[:2], batch.w_PK[:2])
    with_all = engine.clipped_sum(module, batch, aux, clip, 8)
    without = engine.clipped_sum(module, fewer, (aux[0][: 2 * images],), clip, 8).sums
    moved = sum(float((with_all.sums[n] - v).square().sum()) for n, v in without.items()) ** 0.5
    assert moved <= clip * (1 + 1e-9)
    torch.testing.assert_close(moved, min(clip, float(with_all.norms_P[2])), rtol=1e-6, atol=1e-9 * clip)


def test_an_unknown_engine_is_refused_by_name():
    with pytest.raises(InputError, match="one of ghost, functional, loop"):
        get_engine("fast")
