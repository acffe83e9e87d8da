"""What every generative model promises. A model joins by one line in ``MODELS``."""

import copy
from collections import defaultdict
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from imgsynth.models import (
    GAN,
    MEPF,
    MERF,
    PATEGAN,
    VAE,
    VAEGAN,
    CodeGAN,
    Diffusion,
    Evolution,
    GenerativeModel,
    LatentDiffusion,
    LatentNoise,
    Pix2Pix,
    PostProcessing,
    Private,
    Query,
    Update,
)
from imgsynth.models.pace import Pace

SMALL_VAE = {"_target_": "imgsynth.models.VAE", "latent": 4, "channels": 4, "widest": 8}
MODELS = {
    "vae": lambda shape, classes: VAE(shape, classes, latent=4, channels=4, widest=8),
    "vae, fitted prior": lambda shape, classes: VAE(shape, classes, latent=4, channels=4, widest=8, prior="fitted"),
    "gan": partial(GAN, latent=4, channels=4, widest=8),
    "gan, lipschitz": partial(GAN, latent=4, channels=4, widest=8, loss="wasserstein", critic="lipschitz"),
    "gan, penalty": partial(GAN, latent=4, channels=4, widest=8, loss="wasserstein", critic="penalty"),
    "gan, adaptive": partial(GAN, latent=4, channels=4, widest=8, loss="hinge", adaptive=True),
    "gan, warm-up": partial(GAN, latent=4, channels=4, widest=8, warm_up=["moments"]),
    "vaegan": partial(VAEGAN, latent=4, channels=4, widest=8),
    "vaegan, warm-up, masks": partial(VAEGAN, latent=4, channels=4, widest=8, warm_up=["moments"], structures=2),
    "evolution": partial(Evolution, source=SMALL_VAE, candidates=6),
    "codegan": partial(CodeGAN, source=SMALL_VAE, hidden=8),
    "latent_noise": partial(LatentNoise, source=SMALL_VAE, slots=30),
    "merf": lambda shape, classes: MERF(shape, classes, latent=4, channels=4, widest=8, frequencies=50, images=12),
    "pategan": lambda shape, classes: PATEGAN(shape, classes, latent=4, channels=4, widest=8, images=8),
    "pategan, warm-up": partial(PATEGAN, latent=4, channels=4, widest=8, images=8, warm_up=["moments"]),
    "mepf": lambda shape, classes: MEPF(shape, classes, latent=4, channels=4, widest=8, images=12),
    "diffusion": partial(Diffusion, channels=4, widest=8, label_dropping=0.0, sampler_steps=3),
    "diffusion, warm-up": partial(
        Diffusion, channels=4, widest=8, label_dropping=0.0, sampler_steps=3, churn=2.0, warm_up=["means"]
    ),
    "diffusion, warm-up on moments": partial(
        Diffusion, channels=4, widest=8, label_dropping=0.0, sampler_steps=3, warm_up=["means", "moments"]
    ),
    "diffusion, masks": partial(Diffusion, channels=4, widest=8, label_dropping=0.0, sampler_steps=3, structures=2),
    "latent diffusion": partial(
        LatentDiffusion, source=SMALL_VAE, width=8, depth=2, label_dropping=0.0, sampler_steps=3
    ),
    "vae, masks": partial(VAE, latent=4, channels=4, widest=8, structures=2),
    "gan, masks": partial(GAN, latent=4, channels=4, widest=8, structures=2),
    "vaegan, masks": partial(VAEGAN, latent=4, channels=4, widest=8, structures=2),
    "pix2pix, masks": partial(Pix2Pix, latent=4, mask_latent=3, channels=4, widest=8, structures=2),
    "pix2pix, one structure, masks": partial(Pix2Pix, latent=4, mask_latent=3, channels=4, widest=8, structures=1),
    "merf, masks": partial(MERF, latent=4, channels=4, widest=8, frequencies=50, images=12, structures=2),
    "pategan, masks": partial(PATEGAN, latent=4, channels=4, widest=8, images=8, structures=2),
    "evolution, masks": partial(Evolution, source=SMALL_VAE, candidates=6, structures=2),
    "codegan, masks": partial(CodeGAN, source=SMALL_VAE, hidden=8, structures=2),
    "latent_noise, masks": partial(LatentNoise, source=SMALL_VAE, slots=30, structures=2),
}
SHAPES = {"2d": (16, 24), "odd2d": (28, 28), "3d": (8, 16, 8)}
CLASSES = 3


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture(params=SHAPES)
def model(request, name) -> GenerativeModel:
    torch.manual_seed(0)
    return awake(MODELS[name](SHAPES[request.param], CLASSES))


def awake(model: GenerativeModel) -> GenerativeModel:
    """Move weights that start at zero, so that no test holds because a path through the network is closed."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def private(model: GenerativeModel) -> Private:
    (objective,) = [o for o in model.objectives() if isinstance(o, Private)]
    return objective


def batch(model: GenerativeModel, n: int = 5):
    x_BC = torch.rand(n, 1, *model.shape, generator=seeded(1)) * 2 - 1
    if model.structures:
        label_B = torch.randint(model.structures + 1, (n, *model.shape), generator=seeded(2))
        x_BC = torch.cat([x_BC, *((label_B == k + 1)[:, None] * 2.0 - 1 for k in range(model.structures))], dim=1)
    return x_BC, torch.arange(n) % CLASSES, private(model).aux(n, seeded(2))


def test_objectives_are_one_private_and_post_processing_ones(model):
    objectives = model.objectives()
    assert all(isinstance(o, Private | PostProcessing | Query | Update) for o in objectives)
    assert len([o for o in objectives if isinstance(o, Private)]) == 1
    assert len({o.name for o in objectives}) == len(objectives)
    paces = [o.every for o in objectives if isinstance(o, PostProcessing)]
    assert all((p if isinstance(p, int) else p.every) >= 1 for p in paces)


def moved(objective) -> list[nn.Parameter]:
    if isinstance(objective, Query):
        return list(objective.answers)
    return [p for p in objective.module.parameters() if p.requires_grad]


def test_every_parameter_is_trained_or_asked_for_and_never_by_two_of_a_kind(model):
    """What sees no data may move what a private step has moved; the answer of a query nothing trains. What is trained
    before the first private step has its turn alone, and a generator is held to moments in a turn of its own."""
    kinds = defaultdict(list)
    for o in model.objectives():
        if not isinstance(o, Update):
            own_turn = getattr(o, "before", False) or o.name == "held_to_moments"
            kinds[o.name if own_turn else type(o)] += [id(p) for p in moved(o)]
    assert all(len(ids) == len(set(ids)) for ids in kinds.values())
    asked = set(kinds.pop(Query, []))
    moved_by_others = set().union(*kinds.values())
    assert not asked & moved_by_others
    assert moved_by_others == {id(p) for p in model.parameters() if p.requires_grad}


def test_no_layer_couples_images_or_keeps_something_of_them(model):
    assert not [m for m in model.modules() if isinstance(m, _BatchNorm | nn.Dropout)]
    assert not [m for m in model.modules() if getattr(m, "inplace", False)]
    kept = [b for name, b in model.named_buffers() if name in model.state_dict()]
    if kept:  # by what follows from noised sums alone
        paced = any(isinstance(m, Pace) for m in model.modules())
        assert paced or any(isinstance(o, Query | Update) for o in model.objectives())
    before = [b.clone() for b in kept]
    x_BC, y_B, aux_B = batch(model)
    private(model).module(x_BC, y_B, *aux_B)
    assert all(torch.equal(b, was) for b, was in zip(kept, before, strict=True))


def test_loss_is_one_finite_number_per_image_with_finite_gradients(model):
    x_BC, y_B, aux_B = batch(model)
    module = private(model).module
    loss_B = module(x_BC, y_B, *aux_B)
    assert loss_B.shape == (5,)
    assert loss_B.isfinite().all()
    gradients = torch.autograd.grad(loss_B.sum(), [p for p in module.parameters() if p.requires_grad])
    assert all(g.isfinite().all() for g in gradients)
    assert all(g.abs().max() > 0 for g in gradients)


def test_the_loss_of_an_image_is_deaf_to_the_other_images(model):
    x_BC, y_B, aux_B = batch(model)
    module = private(model).module
    before_B = module(x_BC, y_B, *aux_B)
    x_BC, y_B = x_BC.clone(), y_B.clone()
    x_BC[1:], y_B[1:] = -x_BC[1:], (y_B[1:] + 1) % CLASSES
    after_B = module(x_BC, y_B, *aux_B)
    torch.testing.assert_close(after_B[0], before_B[0])
    assert not torch.isclose(after_B[1:], before_B[1:], rtol=1e-6).any()
    alone_B = module(x_BC[:1], y_B[:1], *(a[:1] for a in aux_B))
    torch.testing.assert_close(alone_B, after_B[:1])


def test_the_loss_listens_to_the_label(model):
    x_BC, y_B, aux_B = batch(model)
    module = private(model).module
    other_B = module(x_BC, (y_B + 1) % CLASSES, *aux_B)
    assert not torch.isclose(other_B, module(x_BC, y_B, *aux_B), rtol=1e-6).any()


def test_vmap_gives_the_gradients_of_ordinary_backward_passes(model):
    x_BC, y_B, aux_B = batch(model, 4)
    x_PKC, y_PK, aux_PK = x_BC.unflatten(0, (2, 2)), y_B.unflatten(0, (2, 2)), [a.unflatten(0, (2, 2)) for a in aux_B]
    module = private(model).module
    parameters = {k: p.detach() for k, p in module.named_parameters() if p.requires_grad}

    def loss(theta, x_KC, y_K, *aux_K):
        return functional_call(module, theta, (x_KC, y_K, *aux_K)).mean()

    by_patient = vmap(grad(loss), in_dims=(None, 0, 0, *(0 for _ in aux_PK)))(parameters, x_PKC, y_PK, *aux_PK)
    for p in range(2):
        twin = copy.deepcopy(module)
        twin(x_PKC[p], y_PK[p], *(a[p] for a in aux_PK)).mean().backward()
        for key, parameter in twin.named_parameters():
            if parameter.requires_grad:
                torch.testing.assert_close(by_patient[key][p], parameter.grad, rtol=1e-3, atol=1e-5)
        for key in parameters:
            parameter = twin.get_parameter(key)
            torch.testing.assert_close(by_patient[key][p], parameter.grad, rtol=1e-3, atol=1e-5)


def test_a_teacher_decides_alone_and_gives_bits(model):
    votes = private(model).votes
    if votes is None:
        pytest.skip("no votes: this objective sums gradients of patients")
    teacher = votes.teacher()
    drawn, again = (votes.fakes.draw(6, seeded(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
    with torch.no_grad():
        x_BC, y_B = votes.fakes.make(*drawn)
        logit_B = teacher.logits(x_BC, y_B)
        torch.testing.assert_close(teacher.logits(x_BC[:1], y_B[:1]), logit_B[:1])
    assert not list(teacher.buffers()) and x_BC.shape == (6, model.image_channels, *model.shape)
    assert teacher(x_BC, y_B, torch.ones(6)).shape == (6,)
    logit_KM = torch.stack([logit_B.detach(), torch.randn(6, generator=seeded(6))])
    changed = torch.stack([logit_B.detach(), torch.full((6,), torch.nan)])
    bits, other = votes.choose(logit_KM), votes.choose(changed)
    assert bits.dtype == torch.bool and bits.shape == (2, 6)
    assert bits.any() and not bits.all()
    assert torch.equal(bits[0], other[0])


def test_random_inputs_come_from_the_given_generator_and_know_no_data(model):
    objective = private(model)
    draws = [objective.aux(6, seeded(seed)) for seed in (3, 3, 4)]
    for a, b, other in zip(*draws, strict=True):
        assert len(a) == 6
        assert torch.equal(a, b)
        assert a.shape == other.shape


def test_fakes_are_generated_images_in_the_number_asked_for(model):
    objective = private(model)
    if objective.fakes is None:
        pytest.skip("no fakes: this objective compares with no generated images")
    state = torch.get_rng_state()
    drawn, again = (objective.fakes.draw(7, seeded(5)) for _ in range(2))
    x_BC, y_B, *aux_B = objective.fakes.make(*drawn)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
    assert x_BC.shape == (7, model.image_channels, *model.shape)
    assert y_B.shape == (7,)
    assert set(y_B.tolist()) <= set(range(CLASSES))
    assert objective.module(x_BC, y_B, *aux_B).shape == (7,)
    for i in range(7):  # each is the same by itself
        for alone, among in zip(objective.fakes.make(*(d[i : i + 1] for d in drawn)), (x_BC, y_B, *aux_B), strict=True):
            torch.testing.assert_close(alone[0], among[i], rtol=1e-4, atol=1e-5)


def test_post_processing_moves_its_own_module_and_sees_no_data(model):
    for objective in model.objectives():
        if isinstance(objective, PostProcessing):
            loss = objective.loss(6, seeded(6))
            assert loss.shape == ()
            torch.testing.assert_close(loss, objective.loss(6, seeded(6)))
            gradients = torch.autograd.grad(loss, [p for p in objective.module.parameters() if p.requires_grad])
            assert all(g.isfinite().all() and g.abs().max() > 0 for g in gradients)


def test_samples_have_the_shape_and_the_range(model):
    x_BC = model.sample(torch.arange(4) % CLASSES, seeded(7))
    assert x_BC.shape == (4, model.image_channels, *model.shape)
    assert x_BC.dtype == torch.float32
    assert not x_BC.requires_grad
    assert x_BC.abs().max() <= 1


def test_a_sample_gives_each_voxel_one_distribution_over_background_and_structures(model):
    p_BM = (model.sample(torch.arange(4) % CLASSES, seeded(7))[:, 1:] + 1) / 2
    assert p_BM.shape[1] == model.structures
    assert (p_BM >= 0).all() and (p_BM.sum(1) <= 1 + 1e-5).all()


def test_samples_are_decided_by_generator_and_labels_alone(model):
    y_B = torch.zeros(4, dtype=torch.long)
    torch.manual_seed(1)
    first = model.sample(y_B, seeded(8))
    torch.manual_seed(2)
    assert torch.equal(first, model.sample(y_B, seeded(8)))
    assert not torch.equal(first, model.sample(y_B, seeded(9)))
    assert not torch.equal(first, model.sample(y_B + 1, seeded(8)))
    assert len({x.sum().item() for x in first}) == 4
    assert model.sample(y_B[:0], seeded(8)).shape == (0, model.image_channels, *model.shape)


def test_the_generator_is_all_that_sampling_needs(model, name):
    """EMA averages ``generator``, and a release ships nothing else: a fresh model with its weights samples the same."""
    torch.manual_seed(3)
    fresh = MODELS[name](model.shape, CLASSES)
    y_B = torch.arange(3)
    assert not torch.equal(fresh.sample(y_B, seeded(10)), model.sample(y_B, seeded(10)))
    fresh.generator.load_state_dict(copy.deepcopy(model.generator).state_dict())
    assert torch.equal(fresh.sample(y_B, seeded(10)), model.sample(y_B, seeded(10)))


def test_a_model_is_restored_from_its_state(model, name, tmp_path):
    torch.manual_seed(4)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    fresh = MODELS[name](model.shape, CLASSES)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    x_BC, y_B, aux_B = batch(model)
    ours, theirs = private(model).module(x_BC, y_B, *aux_B), private(fresh).module(x_BC, y_B, *aux_B)
    assert torch.equal(ours, theirs)


def test_one_class_is_enough(name):
    model = MODELS[name]((16, 16), 1)
    x_BC = torch.zeros(2, model.image_channels, 16, 16)
    y_B = torch.zeros(2, dtype=torch.long)
    assert private(model).module(x_BC, y_B, *private(model).aux(2, seeded())).shape == (2,)
    assert model.sample(y_B, seeded()).shape == x_BC.shape


DEFAULTS = {
    "vae": VAE,
    "vae, fitted prior": partial(VAE, prior="fitted"),
    "gan": GAN,
    "gan, lipschitz": partial(GAN, loss="wasserstein", critic="lipschitz"),
    "gan, penalty": partial(GAN, loss="wasserstein", critic="penalty"),
    "gan, adaptive": partial(GAN, loss="hinge", adaptive=True),
    "gan, warm-up": partial(GAN, warm_up=["moments"]),
    "vaegan": VAEGAN,
    "diffusion": Diffusion,
    "diffusion, warm-up": partial(Diffusion, warm_up=["means"]),
    "diffusion, warm-up on moments": partial(Diffusion, warm_up=["means", "moments"]),
    "latent diffusion": partial(LatentDiffusion, source={"_target_": "imgsynth.models.VAE"}),
    "merf": MERF,
    "mepf": MEPF,
    "evolution": partial(Evolution, source={"_target_": "imgsynth.models.VAE"}),
    "codegan": partial(CodeGAN, source={"_target_": "imgsynth.models.VAE"}),
    "latent_noise": partial(LatentNoise, source={"_target_": "imgsynth.models.VAE"}),
}


@pytest.mark.parametrize("shape", [(28, 28), (64, 64), (32, 32, 32), (40, 56, 40)])
def test_default_sizes_are_what_a_patient_cohort_can_bear(name, shape):
    """The noise's norm is σ C √d / (q n): at σ = 1 and q n = 128, d = 200,000 makes it 3.5 C; more hardly trains."""
    if name.endswith(", masks"):
        pytest.skip("a channel more or two at either end are a few hundred weights")
    if private(MODELS[name]((16, 16), 2)).votes is not None:
        pytest.skip("the noise is in the votes, whatever the size")
    model = DEFAULTS[name](shape, 2)
    d = sum(p.numel() for p in private(model).module.parameters())
    print(f"{name} {shape}: {d:,} private parameters of {sum(p.numel() for p in model.parameters()):,}")
    assert d < 200_000
