"""Few trained parameters: what is frozen stays, what learns is clipped alone, and adapters are what they say."""

from __future__ import annotations

import pytest
import torch
from engine_oracle import disagreement, oracle
from torch import nn

from imgsynth.models import GAN, MERF, VAE
from imgsynth.models.adapt import LowRank, restrict
from imgsynth.models.base import PostProcessing, the_private
from imgsynth.privacy.engines import get_engine
from imgsynth.privacy.engines.ghost import GhostEngine
from imgsynth.types import InputError, PatientBatch

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (6,)),
    "conv1d": (lambda: nn.Conv1d(3, 5, 3, stride=2, padding=2, dilation=2), (3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 5, 4, stride=2, padding=1, padding_mode="replicate"), (3, 8, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 5, 3, padding=1, bias=False), (2, 4, 5, 4)),
    "transposed1d": (lambda: nn.ConvTranspose1d(3, 5, 4, stride=2, padding=1), (3, 7)),
    "transposed2d": (lambda: nn.ConvTranspose2d(3, 5, 3, stride=2, padding=1, output_padding=1), (3, 5, 4)),
    "transposed3d": (lambda: nn.ConvTranspose3d(2, 1, 4, stride=2, padding=1), (2, 4, 4, 2)),
}
MODELS = {
    "vae": lambda shape: VAE(shape, 2, latent=3, channels=4, widest=8),
    "vae with a query": lambda shape: VAE(shape, 2, latent=3, channels=4, widest=8, prior="fitted"),
    "gan": lambda shape: GAN(shape, 2, latent=3, channels=4, widest=8),
}
SHAPES = {"2d": (16, 16), "3d": (8, 8, 16)}  # in 2D with a doubling, and so a GroupNorm, which no adapter is beside


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture(params=SHAPES)
def model(request, name):
    torch.manual_seed(0)
    return MODELS[name](SHAPES[request.param])


def learning(model) -> dict[str, nn.Parameter]:
    return {name: p for name, p in the_private(model.objectives()).module.named_parameters() if p.requires_grad}


def woken(model):
    """B is 0 at first, which closes the way to A."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def drawn(model, patients=4, images=2):
    random = torch.Generator().manual_seed(1)
    x = torch.rand(patients, images, 1, *model.shape, generator=random) * 2 - 1
    y = torch.randint(2, (patients, images), generator=random)
    aux = the_private(model.objectives()).aux(patients * images, random)
    return PatientBatch(x, y, torch.full((patients, images), 1 / images)), aux


@pytest.mark.parametrize("kind", LAYERS)
def test_an_adapter_is_nothing_at_first_and_then_a_change_of_its_rank(kind: str) -> None:
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer, x = make(), torch.randn(3, *shape)
    before = layer(x)
    adapted = LowRank(layer, 2)
    assert torch.equal(adapted(x), before)
    assert not any(p.requires_grad for p in layer.parameters())
    learned = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert learned == {"A.weight", "B.weight"}
    nn.init.normal_(adapted.B.weight)
    change = adapted(x) - before
    assert change.abs().max() > 0
    torch.testing.assert_close(change, adapted.B(adapted.A(x)), rtol=1e-4, atol=1e-5)
    outputs = change.transpose(0, 1).flatten(1)  # [outputs, images and voxels]
    assert torch.linalg.matrix_rank(outputs, rtol=1e-4) == min(2, len(outputs))


def test_rank_4_of_a_vae_has_fewer_parameters_than_the_whole() -> None:
    whole, adapted = VAE((32, 32, 32), 2), VAE((32, 32, 32), 2)
    restrict(adapted, "all", 4)
    assert sum(p.numel() for p in learning(adapted).values()) < 0.6 * sum(p.numel() for p in learning(whole).values())


def test_all_and_no_rank_changes_nothing(model) -> None:
    before = dict(model.named_parameters())
    restrict(model)
    assert dict(model.named_parameters()).keys() == before.keys()
    assert all(p.requires_grad for name, p in before.items() if "moments.w" not in name)


def test_only_the_named_learn_and_what_sees_no_patient_learns_as_ever(model) -> None:
    head = {name for name in learning(model) if "head" in name}
    restrict(model, ["head"])
    assert learning(model).keys() == head and head
    for objective in model.objectives():
        if isinstance(objective, PostProcessing):
            assert all(p.requires_grad for p in objective.module.parameters())


def test_adapters_beside_the_named_layers_and_nothing_else(model) -> None:
    private = the_private(model.objectives()).module
    state = private.state_dict()
    restrict(model, ["trunk"], 2)
    private = the_private(model.objectives()).module
    adapted = {n for n, m in private.named_modules() if isinstance(m, LowRank)}
    assert learning(model).keys() == {f"{n}.{part}.weight" for n in adapted for part in "AB"}
    assert adapted and all("trunk" in n for n in adapted)
    now = {n.replace(".layer.", "."): v for n, v in private.state_dict().items() if ".A." not in n and ".B." not in n}
    assert now.keys() == state.keys() and all(torch.equal(now[n], state[n]) for n in now)


@pytest.mark.parametrize(("train", "rank"), [("all", 0), (["head"], 0), ("all", 2), (["trunk", "head"], 1)],
                         ids=["all", "heads", "adapters", "some adapters"])  # fmt: skip
@pytest.mark.parametrize("engine", ["ghost", "functional", "loop"])
def test_every_engine_clips_what_learns_and_only_that(model, train, rank, engine) -> None:
    """Against ordinary backward passes, in which frozen parameters have no gradient and no part in the norm."""
    restrict(model, train, rank)
    woken(model)
    module = the_private(model.objectives()).module
    batch, aux = drawn(model)
    sums, norms = oracle(module, batch, aux, 0.1)
    found = get_engine(engine).clipped_sum(module, batch, aux, 0.1, 3)
    assert found.sums.keys() == learning(model).keys()
    assert disagreement(found.sums, sums) < 1e-3
    torch.testing.assert_close(found.norms_P, torch.tensor(norms), rtol=1e-3, atol=1e-5)
    if rank or train != "all":
        assert min(norms) > 0
    if engine == "ghost":
        assert GhostEngine.obstacle(module) is None


def test_what_matches_nothing_is_said_with_all_names(model) -> None:
    with pytest.raises(InputError) as caught:
        restrict(model, ["head", "heart", r"\d{9}"])
    assert len(caught.value.faults) == 2
    assert all(name in caught.value.faults[0].expected for name in learning(model))
    with pytest.raises(InputError, match="convolution"):
        restrict(model, ["bias"], 2)


def test_no_adapter_makes_a_bounded_critic_steeper() -> None:
    critic = GAN((8, 8), 2, latent=3, channels=4, widest=8, critic="lipschitz", loss="wasserstein")
    with pytest.raises(InputError, match="slope"):
        restrict(critic, "all", 2)
    restrict(critic, ["head"])
    assert all("head" in name for name in learning(critic))


def test_a_summary_has_nothing_to_freeze() -> None:
    for train, rank in (("all", 2), (["mean"], 0)):
        with pytest.raises(InputError, match="one noised mean"):
            restrict(MERF((8, 8), 2, latent=2, channels=2, frequencies=30), train, rank)
