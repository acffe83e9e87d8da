"""Every layer that has a per-patient gradient of its own, in all its arguments, through every engine and every method.

The ghost engine must take these networks itself: one that it leaves to another engine would test nothing.
"""

import copy
import weakref

import pytest
import torch
from engine_oracle import CLASSES, TOLERANCE, disagreement, make_batch, oracle
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import grad
from torch.nn import functional as F

from imgsynth.privacy.engines import ENGINES, choice, get_engine, ghost, layers
from imgsynth.privacy.engines.contributions import ConvWeight, EmbeddingWeight, LinearWeight
from imgsynth.privacy.engines.convolution import Geometry
from imgsynth.privacy.engines.ghost import GhostEngine
from imgsynth.privacy.engines.patients import Images
from imgsynth.types import InputError, PatientBatch

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
METHODS = ["columns", "gram", "groups", "loop", "phases"]
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}


class OneLayer(nn.Module):
    """Image -> the layer -> a loss in which no two positions count alike."""

    def __init__(self, layer, prepare=lambda x: x):
        super().__init__()
        self.layer, self.prepare = layer, prepare

    def forward(self, x, y, t):
        h = torch.tanh(self.layer(self.prepare(x)))
        ramp = torch.linspace(0.5, 1.5, h[0].numel(), dtype=h.dtype).view(h.shape[1:])
        return (h * ramp).flatten(1).sum(1).sub(t).square()


def equal(engine, module, batch, aux, physical_batch=3, tolerance=None):
    """The engine's sums and norms against the oracle's, with a clipping norm that some patients reach."""
    dtype = batch.x_PKC.dtype
    norms = torch.tensor(oracle(module, batch, aux, 1.0)[1], dtype=torch.float64)
    clip = float(norms.median()) if len(norms) else 1.0
    expected, _ = oracle(module, batch, aux, clip)
    got = engine.clipped_sum(module, batch, aux, clip, physical_batch)
    tolerance = tolerance or TOLERANCE[dtype]
    whole = max(clip, *(float(v.abs().max()) for v in expected.values()))
    for name, e in expected.items():  # a sum that is zero but for rounding has no relative error
        assert float((got.sums[name] - e).abs().max()) <= tolerance * max(float(e.abs().max()), 1e-3 * whole), name
    torch.testing.assert_close(got.norms_P.double(), norms, rtol=tolerance, atol=tolerance * 1e-3)
    if engine.name == "ghost" and len(batch):
        assert GhostEngine.obstacle(module) is None


@st.composite
def convolutions(draw):
    """A convolution of any kind, and the number of its input channels and the images' side."""
    dims = draw(st.sampled_from([1, 2, 2, 3]))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = (groups * draw(st.integers(1, 3)) for _ in range(2))
    pick = st.integers

    def each(low, high):
        return tuple(draw(pick(low, high)) for _ in range(dims))

    kernel, stride, dilation, padding = each(1, 4), each(1, 3), each(1, 2), each(0, 3)
    bias, side = draw(st.booleans()), draw(pick(4, 7))
    torch.manual_seed(0)
    if draw(st.booleans()):
        extra = tuple(draw(pick(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
        sizes = [
            (side - 1) * s - 2 * p + d * (k - 1) + e + 1
            for s, p, d, k, e in zip(stride, padding, dilation, kernel, extra, strict=True)
        ]
        assume(min(sizes) >= 1)
        layer = TRANSPOSED[dims](inputs, outputs, kernel, stride, padding, extra, groups, bias, dilation)
    else:
        mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
        if max(stride) == 1 and draw(st.booleans()):
            padding = draw(st.sampled_from(["same", "valid"]))
        padded = side + 2 * min(padding) if isinstance(padding, tuple) else side
        assume(padded >= max(d * (k - 1) for d, k in zip(dilation, kernel, strict=True)) + 1)
        layer = CONV[dims](inputs, outputs, kernel, stride, padding, dilation, groups, bias, mode)
    return OneLayer(layer.double()), dims, inputs, side


@pytest.fixture(params=METHODS)
def method(request, monkeypatch):
    """Force the ghost engine to one method; ``groups`` needs equal numbers of images, as in ``choice``."""

    def forced(part, exact_only):
        return request.param if request.param != "groups" or part.images.uniform else "columns"

    monkeypatch.setattr(choice, "_choose", forced)
    return request.param


@settings(max_examples=25, **QUIET)
@given(made=convolutions(), patients=st.integers(1, 4), images=st.integers(1, 3), seed=st.integers(0, 1000))
def test_any_convolution_by_any_method(method, made, patients, images, seed):
    module, dims, channels, side = made
    batch, aux = make_batch(patients, images, dims, seed, channels=channels, side=side)
    equal(get_engine("ghost"), module, batch, aux)


class UsedTwice(nn.Module):
    """A convolution of many positions that is used twice: its norm is of the sum of both uses' W_p."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x, y, t):
        return self.conv(torch.tanh(self.conv(torch.cat([x, x.sin()], 1)))).flatten(1).square().sum(1).sub(t)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("layer", [nn.Conv2d(2, 3, 3, 2, 1), nn.ConvTranspose2d(2, 3, 4, 2, 1), None])
def test_patients_shared_among_threads(method, monkeypatch, layer, images):
    """Eleven patients in parts of one to six, three threads: every part arrives in its place."""
    monkeypatch.setattr(choice, "_TEMPORARY", 3000)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        module = UsedTwice() if layer is None else OneLayer(layer, lambda x: torch.cat([x, x.sin()], 1))
        batch, aux = make_batch(11, images, 2, 0)
        equal(get_engine("ghost"), module.double(), batch, aux, physical_batch=11)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("images", [1, 2])
def test_patients_without_images_add_nothing(method, monkeypatch, images):
    """Also where a part of the patients has none at all."""
    monkeypatch.setattr(choice, "_TEMPORARY", 1)
    for module in (OneLayer(nn.Conv2d(1, 3, 3, 2, 1)).double(), UsedTwice().double()):
        batch, aux = make_batch(9, images, 2, 0)
        batch.w_PK[2:7] = 0
        got = get_engine("ghost").clipped_sum(module, batch, aux, 1.0, 9)
        assert (got.norms_P[2:7] == 0).all()
        equal(get_engine("ghost"), module, batch, aux, physical_batch=9)


@pytest.mark.parametrize("name", sorted(ENGINES))
@settings(max_examples=20, **QUIET)
@given(made=convolutions(), patients=st.integers(1, 4), images=st.integers(1, 3), seed=st.integers(0, 1000))
def test_any_convolution_by_any_engine(name, made, patients, images, seed):
    module, dims, channels, side = made
    batch, aux = make_batch(patients, images, dims, seed, channels=channels, side=side)
    equal(get_engine(name), module, batch, aux)


class Labelled(nn.Module):
    """Embeddings (one with a padding row, read at several places) and a bias that is all there is to train beside."""

    def __init__(self):
        super().__init__()
        self.label = nn.Embedding(CLASSES, 3)
        self.token = nn.Embedding(5, 3, padding_idx=0)

    def forward(self, x, y, t):
        index = (x.flatten(1)[:, :4] * 10).long().abs() % 5
        h = self.token(index).sum(1) * self.label(y)
        return (torch.tanh(h).sum(1) - t).square()


class LinearOnPositions(nn.Module):
    """A linear layer on every row of an image, more rows than features, so that both forms of the norm come up."""

    def __init__(self, outputs):
        super().__init__()
        self.layer = nn.Linear(6, outputs)

    def forward(self, x, y, t):
        return torch.tanh(self.layer(x)).flatten(1).cumsum(1).sum(1).sub(t).square()


class Twice(nn.Module):
    """A convolution, a linear layer and an affine norm, each used several times on inputs of different sizes."""

    def __init__(self, wide):
        super().__init__()
        channels = 16 if wide else 2
        self.lift = nn.Conv2d(1, channels, 1)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, stride=2)
        self.norm = nn.GroupNorm(1, channels)
        self.head = nn.Linear(channels, channels)

    def forward(self, x, y, t):
        h = torch.sin(self.conv(self.lift(x)))
        h = self.norm(torch.sin(self.conv(self.norm(h))))
        h = self.head(torch.tanh(self.head(h.flatten(2).mean(2))))
        fake = self.head(torch.sin(self.conv(torch.roll(self.lift(x), 1, -1))).flatten(2).mean(2))
        return (h - 0.5 * fake).cumsum(1).sum(1).sub(t).square()


class Tied(nn.Module):
    """One weight in a linear layer and an embedding."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(CLASSES, 36), nn.Linear(36, CLASSES)
        self.out.weight = self.embed.weight

    def forward(self, x, y, t):
        logits = self.out(torch.tanh(x.flatten(1) + self.embed(y)))
        return nn.functional.cross_entropy(logits, y, reduction="none") + 0 * t


class InPlace(nn.Module):
    """Activations in place on every layer's output, as MONAI's blocks have them by default."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.LeakyReLU(0.1, inplace=True)
        )

    def forward(self, x, y, t):
        return self.net(x).flatten(1).cumsum(1).mean(1).sub(t).square()


class UnusedBranch(nn.Module):
    """A layer whose output has no part in the loss, and one that is never called."""

    def __init__(self):
        super().__init__()
        self.used, self.ignored, self.never = nn.Linear(36, 2), nn.Linear(36, 2), nn.Linear(36, 2)

    def forward(self, x, y, t):
        self.ignored(x.flatten(1))
        return (self.used(x.flatten(1)).sum(1) - t).square()


class FrozenParts(nn.Module):
    """A frozen bias beside a trained weight and the other way round, below a frozen layer."""

    def __init__(self):
        super().__init__()
        self.below, self.one, self.two = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 1)
        self.below.requires_grad_(False)
        self.one.bias.requires_grad_(False)
        self.two.weight.requires_grad_(False)

    def forward(self, x, y, t):
        h = torch.tanh(self.two(torch.tanh(self.one(self.below(x)))))
        return h.flatten(1).cumsum(1).mean(1).sub(t).square()


RAMP = torch.tensor([1.0, -0.5, 0.3])

LAYERS = {
    "group norm": lambda: OneLayer(nn.GroupNorm(2, 4), lambda x: torch.cat([x, 2 * x, x.sin(), x.flip(-1)], 1)),
    "group norm, 3D": lambda: OneLayer(nn.GroupNorm(2, 2), lambda x: torch.cat([x, x.sin()], 1)[..., None] * RAMP),
    "instance norm": lambda: OneLayer(nn.InstanceNorm2d(2, affine=True), lambda x: torch.cat([x, x.sin()], 1)),
    # What a norm passes on to what lies below it:
    "group norm above": lambda: OneLayer(nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4))),
    "instance norm above": lambda: OneLayer(nn.Sequential(nn.Conv2d(1, 3, 3), nn.InstanceNorm2d(3, affine=True))),
    "layer norm above": lambda: OneLayer(nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm((2, 4, 4)))),
    "layer norm over a row": lambda: OneLayer(nn.LayerNorm(6)),
    "layer norm over the image": lambda: OneLayer(nn.LayerNorm((1, 6, 6))),
    "layer norm without bias": lambda: OneLayer(nn.LayerNorm((6, 6), bias=False)),
    "prelu, one slope": lambda: OneLayer(nn.PReLU()),
    "prelu, a slope a channel": lambda: OneLayer(nn.PReLU(2), lambda x: torch.cat([x, -x], 1)),
    "prelu on vectors": lambda: OneLayer(nn.PReLU(36), lambda x: x.flatten(1)),
    "embeddings": Labelled,
    "linear on positions, few outputs": lambda: LinearOnPositions(2),
    "linear on positions, many outputs": lambda: LinearOnPositions(40),
    "several uses, wide": lambda: Twice(True),
    "several uses, narrow": lambda: Twice(False),
    "tied": Tied,
    "in place": InPlace,
    "unused": UnusedBranch,
    "partly frozen layers": FrozenParts,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", sorted(ENGINES))
def test_layers(name, layer, dtype):
    torch.manual_seed(0)
    module = LAYERS[layer]().to(dtype)
    for p in module.parameters():
        if p.ndim == 1:
            torch.nn.init.normal_(p)
    for images in (1, 3):
        batch, aux = make_batch(4, images, 2, dtype=dtype)
        equal(get_engine(name), module, batch, aux)


@pytest.mark.parametrize("method", METHODS, indirect=True)
def test_single_precision_of_every_method(method):
    torch.manual_seed(0)
    module = OneLayer(nn.Conv2d(8, 16, 4, stride=2, padding=1))
    batch, aux = make_batch(5, 2, 2, dtype=torch.float32, channels=8, side=16)
    equal(get_engine("ghost"), module, batch, aux)


@pytest.mark.parametrize("last", [torch.channels_last, torch.channels_last_3d], ids=str)
@pytest.mark.parametrize("method", METHODS, indirect=True)
def test_channels_last(method, last):
    dims = 2 if last == torch.channels_last else 3
    torch.manual_seed(0)
    net = nn.Sequential(CONV[dims](2, 4, 3, 2, 1), nn.GroupNorm(2, 4), nn.SiLU(), TRANSPOSED[dims](4, 2, 4, 2, 1))
    module = OneLayer(net.double().to(memory_format=last))
    batch, aux = make_batch(3, 2, dims, channels=2)
    equal(get_engine("ghost"), module, batch, aux)


class Alternating(nn.Module):
    """Position t counts (-1)^t: gradients of single positions are large and cancel in the sum."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 2)

    def forward(self, x, y, t):
        h = self.conv(64 + x)
        sign = 1 - 2 * (torch.arange(h[0, 0].numel()) % 2)
        return (h.flatten(2) * sign).sum((1, 2))


@pytest.mark.parametrize("form", ["gram", "phases"])
def test_cancellation_in_a_gram_norm_is_noticed(monkeypatch, form):
    monkeypatch.setattr(choice, "_choose", lambda part, exact_only: "loop" if exact_only else form)
    batch, aux = make_batch(3, 1, 2, dtype=torch.float32, side=9)
    module = Alternating()
    _, exact = oracle(copy.deepcopy(module).double(), as_double(batch), aux, 1.0)
    got = get_engine("ghost").clipped_sum(module, batch, aux, min(exact), 8)
    torch.testing.assert_close(got.norms_P, torch.tensor(exact), rtol=1e-4, atol=0)
    monkeypatch.setattr(ghost, "_LARGEST_ERROR", torch.inf)  # without the guard it is wrong
    parameters = dict(module.named_parameters())
    got = get_engine("ghost")._clipped(module, parameters, batch, (aux[0].view(3, 1),), min(exact))
    assert (got.norms_P / torch.tensor(exact) - 1).abs().max() > 1e-3


def geometry_of(layer):
    transposed = isinstance(layer, tuple(TRANSPOSED.values()))
    assume(layer.padding_mode == "zeros" and not isinstance(layer.padding, str))
    return Geometry(
        layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, transposed,
        layer.output_padding if transposed else (),
    )  # fmt: skip


@settings(max_examples=30, **QUIET)
@given(made=convolutions(), images=st.integers(1, 2))
def test_the_bound_on_the_terms_of_a_norm_is_that_of_its_definition(made, images):
    """(Σ_t |U_t||V_t|)² from the unfolded input, patient by patient, against what the Gram matrices' diagonals give."""
    module, dims, channels, side = made
    layer, geometry = module.layer, geometry_of(module.layer)
    x_PkC = torch.randn(2, images, channels, *(side,) * dims, dtype=torch.float64)
    y = layer(x_PkC.flatten(0, 1)).detach()
    g_PkC = torch.randn_like(y).view(2, images, *y.shape[1:])
    norms2, u2, v2 = geometry.norms2_by_phase(x_PkC, g_PkC)
    u, v = geometry.factors(x_PkC.flatten(0, 1), g_PkC.flatten(0, 1))
    terms = (u.square().sum(2) * v.square().sum(2)).sqrt().view(2, images, layer.groups, -1)
    torch.testing.assert_close((u2 * v2).sqrt().sum(1), terms.flatten(1).sum(1))
    w = torch.einsum("pkgrt,pkgst->pgsr", *(f.view(2, images, *f.shape[1:]) for f in (u, v)))
    torch.testing.assert_close(norms2, w.square().flatten(1).sum(1))


class Seen(nn.Module):
    """Pixels count where the image's last channel says so, ``scale`` each; g is 0 elsewhere, whatever a is."""

    def __init__(self, layer, scale):
        super().__init__()
        self.layer, self.scale = layer, scale

    def forward(self, x, y, t):
        counts, x = x[:, -1:], x[:, :-1]
        if isinstance(self.layer, nn.Linear):
            return (self.layer(x.flatten(2).mT).mT * counts.flatten(2)).flatten(1).sum(1) * self.scale
        out = self.layer(x)
        return (out * counts[..., : out.shape[2], : out.shape[3]]).flatten(1).sum(1) * self.scale


SEEN = {
    "gram": lambda: nn.Conv2d(16, 64, 1, bias=False),
    "phases": lambda: nn.Conv2d(16, 64, 3, bias=False),
    "groups": lambda: nn.Conv2d(16, 64, 3, bias=False),
    "linear": lambda: nn.Linear(64, 256, bias=False),
}


def unlike(patients, last, channels):
    """Images of small values; those of the last are all the same, and one pixel of it is large and unseen."""
    x = last[0] * torch.rand(patients, 1, channels + 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x[:, :, -1] = 1
    x[-1, :, :-1], x[-1, :, :-1, 0, 0], x[-1, :, -1, 0, 0] = last[0], last[1], 0
    return PatientBatch(x, torch.zeros(patients, 1, dtype=torch.long), torch.ones(patients, 1)), (
        torch.zeros(patients),
    )


@pytest.mark.parametrize("form", SEEN)
@pytest.mark.parametrize(
    ("small", "large", "scale"),
    [(2e-8, 1e15, 1e4), (1e-23, 1.0, 1e18), (1e18, 1e18, 1e-23), (1e-25, 1.0, 1e28), (1e-27, 1e-27, 1e37)],
)
def test_small_values_beside_large_ones_count(monkeypatch, form, small, large, scale):
    """Their squares may be below the smallest number, or g's above the largest, where their products are neither."""
    if form != "linear":
        monkeypatch.setattr(choice, "_choose", lambda part, exact_only: "loop" if exact_only else form)
        monkeypatch.setattr(choice, "_keeps", lambda part: False)
    torch.manual_seed(0)
    layer = SEEN[form]()
    module = Seen(layer, scale)
    batch, aux = unlike(4, (small, large), layer.weight.shape[1])
    clip = 1e-3
    twice = copy.deepcopy(module).double()
    expected, norms = oracle(twice, as_double(batch), (aux[0].double(),), clip)
    got = get_engine("ghost")._clipped(module, dict(module.named_parameters()), batch, (aux[0].view(4, 1),), clip)
    torch.testing.assert_close(got.norms_P.double(), torch.tensor(norms, dtype=torch.float64), rtol=1e-4, atol=0)
    torch.testing.assert_close(got.sums["layer.weight"].double(), expected["layer.weight"], rtol=0, atol=1e-4 * clip)


class Opposite(nn.Module):
    """Two outputs are subtracted, so that a patient with one image twice has large terms and no gradient."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, y, t):
        if isinstance(self.layer, nn.Linear):
            h = self.layer(x.flatten(2).mT)
            return (h[:, 0] - h[:, -1]).sum(1) * 2.0**-10
        h = self.layer(x)
        return (h[..., 0] - h[..., -1]).flatten(1).sum(1) * 2.0**-10


OPPOSITE = {  # method -> a layer of two or more positions, on 64 channels
    "gram": lambda: nn.Conv2d(64, 64, (1, 3)),
    "phases": lambda: nn.Conv2d(64, 64, (1, 3)),
    "columns": lambda: nn.Conv2d(64, 64, (1, 3)),
    "groups": lambda: nn.Conv2d(64, 64, (1, 3)),
    "loop": lambda: nn.Conv2d(64, 64, (1, 3)),
    "linear": lambda: nn.Linear(64, 64),
    "linear, few outputs": lambda: nn.Linear(64, 2),
}


@pytest.mark.parametrize("size", [2.0**12, 2.0**30])
@pytest.mark.parametrize("form", OPPOSITE)
def test_terms_that_cancel_leave_nothing_beside_other_patients(monkeypatch, form, size):
    """In one product over all patients they would leave rounding in proportion to them, which no clipping bounds."""
    if not form.startswith("linear"):
        apart = "loop" if form in ("gram", "phases") else form
        monkeypatch.setattr(choice, "_choose", lambda part, exact_only: apart if exact_only else form)
        monkeypatch.setattr(choice, "_keeps", lambda part: False)
    torch.manual_seed(0)
    module, clip, patients = Opposite(OPPOSITE[form]()), 0.1, 31
    x = torch.rand(patients, 1, 64, 1, 40)
    x[..., -1] *= 0.1
    x[7] = size
    batch = PatientBatch(x, torch.zeros(patients, 1, dtype=torch.long), torch.ones(patients, 1))
    others = torch.arange(patients) != 7
    sums = [
        get_engine("ghost")
        .clipped_sum(module, PatientBatch(b.x_PKC, b.y_PK, b.w_PK), (torch.zeros(len(b)),), clip, 64)
        .sums["layer.weight"]
        for b in (batch, PatientBatch(x[others], batch.y_PK[others], batch.w_PK[others]))
    ]
    assert (sums[0].double() - sums[1].double()).norm() < 1e-3 * clip
    assert GhostEngine.obstacle(module) is None


@pytest.mark.parametrize("form", ["gram", "phases"])
def test_a_patient_without_a_gradient_costs_no_second_pass(monkeypatch, form):
    monkeypatch.setattr(choice, "_choose", lambda part, exact_only: form)
    module = Seen(SEEN[form](), 1.0)
    batch, aux = unlike(4, (1.0, 1.0), 16)
    batch.x_PKC[0, :, :-1] = 0  # an image of zeros, and one whose gradient is zero everywhere
    batch.x_PKC[1, :, -1] = 0
    passes, watched = [], GhostEngine._pass
    monkeypatch.setattr(GhostEngine, "_pass", lambda *a, **k: passes.append(k) or watched(*a, **k))
    got = get_engine("ghost")._clipped(module, dict(module.named_parameters()), batch, (aux[0].view(4, 1),), 0.1)
    assert len(passes) == 1
    assert (got.norms_P > 0).tolist() == [False, False, True, True]


@settings(max_examples=30, **QUIET)
@given(made=convolutions(), images=st.integers(1, 3))
def test_terms_are_no_smaller_than_they_are(made, images):
    """What ``spread`` says without a product, against Σ_t |U_t||V_t|."""
    module, dims, channels, side = made
    layer, geometry = module.layer, geometry_of(module.layer)
    x = torch.randn(2 * images, channels, *(side,) * dims, dtype=torch.float64)
    g = torch.randn_like(layer(x).detach())
    part = ConvWeight(geometry, x, g, layer.weight.shape, Images(torch.ones(2, images)))
    u, v = geometry.factors(x, g)
    terms = (u.square().sum(2) * v.square().sum(2)).sqrt().flatten(1).sum(1).view(2, images).sum(1)
    assert (part.spread() >= terms * (1 - 1e-12)).all()


def test_terms_of_an_embedding_that_cancel_are_as_large_as_they_are():
    index, g = torch.tensor([[0, 0], [1, 2]]), torch.tensor([[[3.0, 4.0], [-3.0, -4.0]], [[6.0, 8.0], [0.0, 1.0]]])
    part = EmbeddingWeight(index, g, torch.Size([3, 2]), None, Images(torch.ones(1, 2)))
    assert part.per_patient()[0, 0].tolist() == [0, 0] and part.spread().tolist() == [5 + 5 + 10 + 1]


def as_double(batch):
    return PatientBatch(batch.x_PKC.double(), batch.y_PK, batch.w_PK.double())


# What must not be taken by the ghost engine, and what must be refused.


class Made(nn.Module):
    """A network with one layer and a forward pass of one line."""

    def __init__(self, forward, layer=None):
        super().__init__()
        self.layer = layer or nn.Linear(36, 1)
        self.drop = nn.Dropout(0.5)
        self.elsewhere = [self.layer.weight]
        self.own = forward

    def forward(self, x, y, t):
        return self.own(self, x, y, t)


def made(forward, layer=None):
    torch.manual_seed(0)
    return Made(forward, layer).double()


def squared(m, h):
    return m.layer(h).squeeze(1).square()


def no_grad(layer, x):
    with torch.no_grad():
        return layer(x.flatten(1)).squeeze(1)


def slope(m, x):
    inner = grad(lambda v: torch.tanh(m.layer(v.flatten(1))).sum())(x)
    return inner.flatten(1).square().sum(1)


LEFT = {
    "an axis merged with the images": lambda m, x, y, t: squared(m, x.expand(-1, 2, -1, -1).reshape(-1, 36))[::2],
    "a parameter in a function of our own": lambda m, x, y, t: (x.flatten(1) @ m.layer.weight.T).squeeze(1).square(),
    "under no_grad": lambda m, x, y, t: m.layer(x.flatten(1)).squeeze(1) * no_grad(m.layer, x),
    "a gradient within the loss": lambda m, x, y, t: slope(m, x),
}  # fmt: skip

COUPLED = {
    "the mean of the batch taken off": lambda m, x: x - x.mean(0),
    "weakly": lambda m, x: x + 2e-4 * x.mean(0),
    "sorted along the batch": lambda m, x: x.sort(0).values,
    "shifted along the batch": lambda m, x: 0.5 * x + 0.5 * torch.roll(x, 1, 0),
    "with the next but one": lambda m, x: 0.5 * x + 0.5 * torch.roll(x, 2, 0),
    "with the one half a batch away": lambda m, x: 0.5 * x + 0.5 * torch.roll(x, len(x) // 2, 0),
    "the mean taken off in training only, beside dropout": lambda m, x: m.drop(x - x.mean(0) if m.training else x),
    "mixed at random in training": lambda m, x: 0.5 * x + 0.5 * x[torch.randperm(len(x))] if m.training else x,
    "mixed at random": lambda m, x: 0.5 * x + 0.5 * x[torch.randperm(len(x))],
}


DETACHED = {
    "beside the layer": lambda m, x, y, t: m.layer(x.flatten(1)).squeeze(1) * m.layer.bias.detach(),
    "in a layer before it": lambda m, x, y, t: squared(m, x.flatten(1) * m.layer.weight.detach()),
    "as the layer's own scale": lambda m, x, y, t: squared(m, x.flatten(1)) / m.layer.weight.detach().norm(),
}


@pytest.mark.parametrize("where", DETACHED)
def test_a_detached_parameter_is_a_constant_and_needs_no_other_engine(where):
    (batch, aux), module, engine = make_batch(4, 1, 2), made(DETACHED[where]), get_engine("ghost")
    expected = get_engine("loop").clipped_sum(module, batch, aux, 0.1, 8)
    got = engine.clipped_sum(module, batch, aux, 0.1, 8)
    assert disagreement(got.sums, expected.sums) < 1e-12
    assert GhostEngine.obstacle(module) is None


@pytest.mark.parametrize("why", LEFT)
def test_what_ghost_does_not_know_is_left_to_functional_and_said_once(why, capsys):
    (batch, aux), module, engine = make_batch(4, 1, 2), made(LEFT[why]), get_engine("ghost")
    expected = get_engine("functional").clipped_sum(module, batch, aux, 0.1, 8)
    for _ in range(3):
        got = engine.clipped_sum(module, batch, aux, 0.1, 8)
        assert disagreement(got.sums, expected.sums) < 1e-12
    assert GhostEngine.obstacle(module) is not None
    assert capsys.readouterr().out.count("to the functional engine") == 1


@pytest.mark.parametrize("patients", [1, 4])
@pytest.mark.parametrize("how", COUPLED)
def test_a_network_that_mixes_the_images_of_a_batch_is_never_taken(how, patients):
    """However it hides: behind dropout, in training mode only, in a batch of one, by a little."""
    (batch, aux), mix = make_batch(patients, 1, 2), COUPLED[how]
    module = made(lambda m, x, y, t: squared(m, mix(m, x.flatten(1))))
    get_engine("ghost").clipped_sum(module, batch, aux, 0.1, 8)
    assert "independent" in (GhostEngine.obstacle(module) or "")


def test_what_a_pass_has_made_is_freed_with_it(monkeypatch):
    """The graph leads to what is kept of a pass; were there a way back, every examination would stay in memory."""
    forward = lambda m, x, y, t: m.layer(torch.tanh(m.layer(x.flatten(1)))).square().sum(1)  # noqa: E731
    (batch, aux), module = make_batch(4, 1, 2), made(forward, nn.Linear(36, 36))
    alive, watched = weakref.WeakSet(), LinearWeight.__init__

    def init(self, *args):
        alive.add(self)
        watched(self, *args)

    monkeypatch.setattr(LinearWeight, "__init__", init)
    for _ in range(4):
        get_engine("ghost").clipped_sum(module, batch, aux, 0.1, 8)
        assert len(alive) == 0


def test_norms_and_sums_are_in_full_precision_whatever_the_user_set(monkeypatch):
    batch, aux = make_batch(3, 1, 2, dtype=torch.float32)
    module, seen = OneLayer(nn.Conv2d(1, 4, 3)), []
    norms, weighted = ghost.norms2, ConvWeight.weighted

    def watched(function):
        def call(*args):
            seen.append(torch.get_float32_matmul_precision())
            return function(*args)

        return call

    monkeypatch.setattr(choice, "_keeps", lambda part: False)
    monkeypatch.setattr(ghost, "norms2", watched(norms))
    monkeypatch.setattr(ConvWeight, "weighted", watched(weighted))
    torch.set_float32_matmul_precision("medium")
    try:
        get_engine("ghost")._clipped(module, dict(module.named_parameters()), batch, (aux[0].view(3, 1),), 0.1)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert len(seen) >= 3 and set(seen) == {"highest"}


@pytest.mark.parametrize("shape", [(), (5,), (3, 4)])
@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_group_norm_of_any_shape_in_parts(monkeypatch, shape, weight, at_once):
    monkeypatch.setattr(layers, "_GROUPS", at_once)
    torch.manual_seed(0)
    w, b = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    x, g = (torch.randn(6, 4, *shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    layer = layers.GroupNorm(2, 1e-5, w if weight else None, b, lambda t: {id(w): "w", id(b): "b"}.get(id(t)))
    y, saved = layer.forward(x.detach())
    made = {name: part.per_patient() for name, part in layer.contributions(saved, g, Images(torch.ones(6, 1)))}
    # torch has no gradient of the bias without a weight.
    expected = F.group_norm(x, 2, w if weight else torch.ones(4, dtype=torch.float64), b)
    torch.testing.assert_close(y, expected)
    for i in range(6):
        some = torch.autograd.grad((expected * g)[i].sum(), [w, b] if weight else [b], retain_graph=True)
        for name, gradient in zip("wb" if weight else "b", some, strict=True):
            torch.testing.assert_close(made[name][i], gradient)
    (dx,) = torch.autograd.grad((expected * g).sum(), x)
    torch.testing.assert_close(layer.input_gradient(saved, g), dx)


def test_gradients_through_a_norm_are_made_once_and_not_kept(monkeypatch):
    """They are of the size of all images: memory that the layers below need."""
    (batch, aux), norm = make_batch(5, 1, 2), nn.GroupNorm(2, 4)
    module = OneLayer(nn.Sequential(nn.Conv2d(1, 4, 3), norm)).double()
    asked, ask = [], layers.GroupNorm._gradients

    def gradients(self, saved, g):
        found = ask(self, saved, g)
        asked.append((self, found[0]))
        return found

    monkeypatch.setattr(layers.GroupNorm, "_gradients", gradients)
    get_engine("ghost")._clipped(module, dict(module.named_parameters()), batch, (aux[0].view(5, 1),), 1.0)
    layer, gradient = asked[0]
    assert len(asked) == 3 and layer._made is None  # for weight, bias and input
    assert all(made is gradient for _, made in asked)


THROUGH = {
    "labels": lambda m, x, y, t: squared(m, x.flatten(1) * (1 + y - y.double().mean())[:, None]),
    "random inputs": lambda m, x, y, t: squared(m, x.flatten(1) * (1 + t - t.mean())[:, None]),
}


@pytest.mark.parametrize("what", THROUGH)
def test_mixing_through_labels_and_random_inputs_is_found(what):
    """The images never meet, and still each gradient follows who else is there."""
    (batch, aux), module = make_batch(6, 1, 2), made(THROUGH[what])
    get_engine("ghost").clipped_sum(module, batch, aux, 0.1, 8)
    assert "independent" in (GhostEngine.obstacle(module) or "")


def kinked(coupled_in_double):
    """As at the kink of a ReLU, where another order of summation lands on the other side: the gradient jumps by a
    hundredth when others are in the batch. In double precision it does not, unless it is no matter of rounding."""

    def forward(m, x, y, t):
        jump = coupled_in_double or x.dtype == torch.float32
        return squared(m, x.flatten(1)) * (1 + 0.01 * jump * (len(x) > 1))

    return made(forward).float()


def test_what_rounding_alone_does_is_no_mixing_and_what_it_does_not_is():
    batch, aux = make_batch(4, 1, 2, dtype=torch.float32)
    rounded, mixed = kinked(False), kinked(True)
    for module in (rounded, mixed):
        get_engine("ghost").clipped_sum(module, batch, aux, 0.1, 8)
    assert GhostEngine.obstacle(rounded) is None
    assert "independent" in GhostEngine.obstacle(mixed)
    # what a copy in double precision does not share with the network is not excused by it
    module = made(lambda m, x, y, t: squared(m, x.flatten(1)) + (x.flatten(1) @ m.before).squeeze(1)).float()
    module.before = module.layer.weight.T
    with pytest.raises(InputError, match="through lists or views"):
        get_engine("ghost").clipped_sum(module, batch, aux, 0.1, 8)


def test_a_call_in_which_the_probe_has_no_gradient_is_no_examination():
    """The first patient says nothing about a network that mixes the images of the others."""
    batch, aux = make_batch(4, 1, 2)
    batch.y_PK[:] = 1
    batch.y_PK[0] = 0
    module = made(lambda m, x, y, t: y * squared(m, x.flatten(1) - x.flatten(1).mean(0)))
    got = get_engine("ghost").clipped_sum(module, batch, aux, 0.1, 8)
    assert disagreement(got.sums, get_engine("functional").clipped_sum(module, batch, aux, 0.1, 8).sums) < 1e-12
    batch.y_PK[0] = 1
    get_engine("ghost").clipped_sum(module, batch, aux, 0.1, 8)
    assert "independent" in (GhostEngine.obstacle(module) or "")


def test_dropout_alone_is_no_mixing():
    (batch, aux), module = make_batch(4, 2, 2), made(lambda m, x, y, t: squared(m, m.drop(x.flatten(1))))
    get_engine("ghost").clipped_sum(module, batch, aux, 0.1, 8)
    assert GhostEngine.obstacle(module) is None


def test_a_parameter_that_reaches_the_loss_past_the_watch_is_found():
    """A view made before the forward pass carries the graph of a parameter, and functional_call misses it."""
    module = made(lambda m, x, y, t: squared(m, x.flatten(1)) + (x.flatten(1) @ m.before).squeeze(1))
    module.before = module.layer.weight.T
    with pytest.raises(InputError, match="through lists or views"):
        get_engine("ghost").clipped_sum(module, *make_batch(4, 1, 2), 0.1, 8)


def test_a_layers_input_that_is_changed_in_place_afterwards_is_refused_as_torch_does():
    def forward(m, x, y, t):
        h = 1 * x.flatten(1)
        z = m.layer(h)
        h.mul_(0.5)
        return (z + h.sum(1, keepdim=True)).squeeze(1).square()

    batch, aux = make_batch(4, 1, 2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        oracle(made(forward), batch, aux, 0.1)
    with pytest.raises((RuntimeError, InputError)):
        get_engine("ghost").clipped_sum(made(forward), batch, aux, 0.1, 8)
    module = made(forward)
    with pytest.raises(layers.Unsupported, match="changed in place"):  # found by itself, before any comparison
        get_engine("ghost")._clipped(module, dict(module.named_parameters()), batch, (aux[0].view(4, 1),), 0.1)


def test_a_layer_with_a_computed_weight_is_not_taken():
    weight = 2 * torch.ones(3, 4, requires_grad=True)
    with pytest.raises(layers.Unsupported, match="computed"):
        layers.Linear(weight, None, lambda tensor: None)


def test_what_functional_would_take_wrongly_is_left_to_nobody():
    """A parameter that is also kept in a list is missed by ``functional_call``; ghost sees it, and must be believed."""
    batch, aux = make_batch(4, 1, 2)
    module = made(lambda m, x, y, t: squared(m, x.flatten(1)) + F.linear(x.flatten(1), m.elsewhere[0]).squeeze(1))
    with pytest.raises(InputError, match="through lists or views"):
        get_engine("ghost").clipped_sum(module, batch, aux, 0.1, 8)
    get_engine("loop").clipped_sum(module, batch, aux, 0.1, 8)


def test_a_network_that_begins_to_mix_images_ends_the_run():
    class Turns(nn.Module):
        mixes = False

        def __init__(self):
            super().__init__()
            self.net = nn.Linear(36, 1)

        def forward(self, x, y, t):
            h = x.flatten(1)
            return self.net(h - h.mean(0) if self.mixes else h).squeeze(1).square()

    module, (batch, aux) = Turns().double(), make_batch(4, 1, 2)
    engine = get_engine("ghost")
    engine.clipped_sum(module, batch, aux, 0.1, 8)
    module.mixes = True
    with pytest.raises(InputError, match="earlier calls found nothing"):
        for _ in range(3):  # calls 2 and 4 compare
            engine.clipped_sum(module, batch, aux, 0.1, 8)


@pytest.mark.parametrize("wrong", ["double", "forgotten", "image by image"])
def test_the_comparison_notices_a_layer_taken_wrongly(monkeypatch, wrong):
    """The engine's own check, checked: break the engine, and it must not be believed."""
    from imgsynth.privacy.engines import contributions
    from imgsynth.privacy.engines.patients import Images

    if wrong == "double":
        original = contributions.ConvWeight.weighted
        monkeypatch.setattr(contributions.ConvWeight, "weighted", lambda self, c: 2 * original(self, c))
    if wrong == "forgotten":
        monkeypatch.setattr(layers.Layer, "names", lambda self: [n for n in (self.weight_name,) if n])
        keep = layers.Layer.contributions
        monkeypatch.setattr(layers.Layer, "contributions", lambda self, *a: list(keep(self, *a))[:1])
    if wrong == "image by image":
        folded = Images.sum_by_patient
        monkeypatch.setattr(Images, "sum_by_patient", lambda self, t: folded(self, t) / self.most**0.5)
    monkeypatch.setattr(choice, "_choose", lambda part, exact_only: "gram")
    module = OneLayer(nn.Conv2d(1, 3, 3).double())
    batch, aux = make_batch(4, 2, 2)
    get_engine("ghost").clipped_sum(module, batch, aux, 1e-3, 8)
    assert "independent" in (GhostEngine.obstacle(module) or "")


def test_a_hook_on_a_parameter_is_refused_by_every_engine():
    module, (batch, aux) = OneLayer(nn.Conv2d(1, 2, 3).double()), make_batch(2, 1, 2)
    module.layer.weight.register_hook(lambda g: 0 * g)
    for name in ENGINES:
        with pytest.raises(InputError, match="hooks on their gradients"):
            get_engine(name).clipped_sum(module, batch, aux, 1.0, 8)


@pytest.mark.parametrize(
    ("layer", "first"),
    [
        (nn.Conv2d(2, 2, 3, padding=1), "norm"),  # W_p are smaller than the input, which goes when they are there
        (nn.Conv2d(2, 24, 3, padding=1), "input's gradient"),  # they are larger
        (nn.Conv2d(2, 300, 6), "norm"),  # and too large to be kept
    ],
)
def test_what_takes_more_memory_than_the_input_is_made_after_the_gradient_of_the_input(monkeypatch, layer, first):
    seen, add, gradient = [], ghost._Record.add, Geometry.input_gradient
    monkeypatch.setattr(
        ghost._Record, "add", lambda self, name, parts: (seen.append("norm"), add(self, name, parts))[1]
    )
    monkeypatch.setattr(
        Geometry, "input_gradient", lambda self, *args: (seen.append("input's gradient"), gradient(self, *args))[1]
    )
    batch, aux = make_batch(5, 1, 2, dtype=torch.float32, side=6)
    module = OneLayer(nn.Sequential(nn.Conv2d(1, 2, 1), layer))
    get_engine("ghost")._clipped(module, dict(module.named_parameters()), batch, (aux[0].view(5, 1),), 1.0)
    assert seen[0] == first


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True)])
@pytest.mark.parametrize("name", sorted(ENGINES))
def test_bf16_keeps_norms_and_sums_in_single_precision(name, norm):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), norm, nn.SiLU(), nn.Conv2d(8, 4, 3))
    module = OneLayer(net)
    batch, aux = make_batch(6, 2, 2, dtype=torch.float32, side=12)
    full = get_engine(name).clipped_sum(module, batch, aux, 1e9, 8)
    half = get_engine(name, "bf16").clipped_sum(module, batch, aux, 1e9, 8)
    assert all(v.dtype == torch.float32 for v in (*half.sums.values(), half.norms_P, half.loss_P))
    torch.testing.assert_close(half.norms_P, full.norms_P, rtol=0.05, atol=0)
    assert not torch.equal(half.norms_P, full.norms_P)
    # What was clipped has the length it was clipped to: no rounding to bf16 after the norm.
    alone = PatientBatch(batch.x_PKC[:1], batch.y_PK[:1], batch.w_PK[:1])
    sums = get_engine(name, "bf16").clipped_sum(module, alone, (aux[0][:2],), 1e-3, 8).sums
    length = sum(float(v.double().square().sum()) for v in sums.values()) ** 0.5
    assert length == pytest.approx(1e-3, rel=1e-4)
