"""Attacks with the weights in hand: the parts that models name, scores against naive loops and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hybrid import Hybrid, Sampler

from imgsynth.audit.attacks import inversion, posterior
from imgsynth.audit.attacks.attack import NotApplicable, Released, Tools
from imgsynth.audit.attacks.inversion import REGULARISER, invert, nearest_starts
from imgsynth.audit.attacks.model_parts import parts_as_sampled, parts_as_trained
from imgsynth.audit.registry import build
from imgsynth.audit.roc import auc, auc_interval
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.models import GAN, MERF, VAE, VAEGAN, Diffusion, GenerativeModel, Pix2Pix
from imgsynth.models.white_box import LatentMap
from imgsynth.schema import AuditConfig
from imgsynth.training.checkpoint import load_checkpoint
from imgsynth.training.run import load_run, trained_model

SHAPES = {"2d": (8, 12), "3d": (8, 8, 16)}
MODELS = {
    "gan": lambda shape: GAN(shape, 2, latent=3, channels=2, widest=4),
    "vae": lambda shape: VAE(shape, 2, latent=3, channels=2, widest=4),
    "merf": lambda shape: MERF(shape, 2, latent=3, channels=2, widest=4, frequencies=2000),
    "vaegan": lambda shape: VAEGAN(shape, 2, latent=3, channels=2, widest=4, encoder_channels=2),
    "diffusion": lambda shape: Diffusion(shape, 2, channels=2, widest=4),
    "vae, masks": lambda shape: VAE(shape, 2, latent=3, channels=2, widest=4, structures=2),
    "pix2pix": lambda shape: Pix2Pix(shape, 2, latent=3, mask_latent=2, channels=2, widest=4, structures=2),
    "hybrid": lambda shape: Hybrid(shape, 2),
    "sampler": lambda shape: Sampler(shape, 2),
}
APPLIES = {
    "logan": {"gan", "vaegan", "pix2pix", "hybrid"},
    "posterior/reconstruction": {"vae", "vae, masks", "vaegan", "pix2pix", "diffusion", "hybrid"},
    "posterior/elbo": {"vae", "vae, masks", "vaegan", "pix2pix", "diffusion", "hybrid"},
    "latent_inversion": {"gan", "vae", "vae, masks", "vaegan", "pix2pix", "merf", "hybrid"},
    "released_mean": {"merf"},
}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return SHAPES[request.param]


def made(name: str, shape: tuple[int, ...]) -> GenerativeModel:
    torch.manual_seed(0)
    model = MODELS[name](shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def patients(shape: tuple[int, ...], images: int = 7, people: int = 4, structures: int = 0) -> Images:
    """Voxels at random; so are their masks, if there are structures: each voxel in one of them, or in none."""
    random = np.random.default_rng(1)
    owner = np.arange(images) % people
    x_NC = random.uniform(-1, 1, (images, 1, *shape)).astype(np.float32)
    where_N = random.integers(0, structures + 1, (images, *shape))
    masks = [np.where(where_N == m + 1, 1, -1)[:, None].astype(np.float32) for m in range(structures)]
    return Images.of(np.concatenate([x_NC, *masks], axis=1), owner % 2, np.array([f"p{k}" for k in owner]))


def tools(dims: int) -> Tools:
    return Tools(get_encoder("random_conv", dims, 0), AuditConfig())


def setting(model: GenerativeModel) -> Released:
    y_N = np.arange(4) % model.classes
    x_BC = model.sample(torch.from_numpy(y_N), torch.Generator().manual_seed(0))
    return Released(synthetic_images(x_BC.numpy(), y_N), model=model)  # masks are further channels


def scored(attack_name: str, model: GenerativeModel, people: Images) -> np.ndarray:
    attack = build(attack_name, tools(len(model.shape)))
    attack.prepare(setting(model))
    return attack.scores(people)


@pytest.mark.parametrize("attack", APPLIES)
@pytest.mark.parametrize("name", MODELS)
def test_attacks_apply_to_the_parts_that_a_model_names_and_to_no_others(
    attack: str, name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inversion, "STEPS", 2)
    model = made(name, shape)
    if name in APPLIES[attack]:
        score_P = scored(attack, model, patients(shape, structures=model.structures))
        assert score_P.shape == (4,)
        assert np.isfinite(score_P).all()
    else:
        with pytest.raises(NotApplicable, match="the model "):
            scored(attack, model, patients(shape, structures=model.structures))


def test_a_release_without_its_model_has_no_parts() -> None:
    x_NC = np.zeros((2, 1, 8, 8), np.float32)
    attack = build("logan", tools(2))
    with pytest.raises(NotApplicable):
        attack.prepare(Released(synthetic_images(x_NC, np.zeros(2, int))))


@pytest.mark.parametrize("name", ["gan", "pix2pix", "hybrid"])
def test_logan_is_the_mean_logit_of_a_patients_images_each_with_its_own_label(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(name, shape)
    people = patients(shape, structures=model.structures)
    monkeypatch.setattr("imgsynth.audit.attacks.model_parts.VOXELS_AT_ONCE", 1)  # one image at a time
    score_P = scored("logan", model, people)
    judge = model.white_box().discriminator
    for p in range(4):
        logits = [
            judge(torch.from_numpy(people.whole_NC[i : i + 1]), torch.tensor([int(people.y_N[i])])).item()
            for i in range(7)
            if people.patients_N[i] == f"p{p}"
        ]
        assert score_P[p] == pytest.approx(np.mean(logits), rel=1e-5)
    other = people.select(np.arange(7))
    other.y_N[:] = 1 - other.y_N
    assert not np.isclose(scored("logan", model, other), score_P, rtol=1e-4).any()


def test_who_is_in_a_released_mean_is_found_by_it_unless_there_is_noise() -> None:
    model, n = MERF((8, 8), 2, frequencies=2000), 40
    people, others = patients((8, 8), n, n), patients((8, 8), n, n)
    others.x_NC[:] = np.random.default_rng(2).uniform(-1, 1, others.x_NC.shape)
    y_N = torch.from_numpy(people.y_N)
    psi_ND = model.embedding.embed(torch.from_numpy(people.x_NC)).detach()
    mean = torch.stack([(psi_ND * (y_N == c)[:, None]).sum(0) for c in range(2)]) / n
    areas = []
    for noise in (0.0, 5.0):
        with torch.no_grad():
            random = torch.Generator().manual_seed(3)
            model.embedding.mean.weight.copy_(mean + noise / n * torch.randn(mean.shape, generator=random))
        found = [scored("released_mean", model, group) for group in (people, others)]
        areas.append(auc(*found))
    weight = model.embedding.mean.weight.detach().numpy()
    naive = [float(weight[int(y)] @ psi.numpy()) for y, psi in zip(people.y_N, psi_ND, strict=True)]
    np.testing.assert_allclose(np.sort(scored("released_mean", model, people)), np.sort(naive), rtol=1e-4, atol=1e-6)
    assert areas[0] > 0.95 and 0.3 < areas[1] < 0.7


@pytest.mark.parametrize("name", ["vae", "vae, masks", "pix2pix", "hybrid"])
@pytest.mark.parametrize("statistic", ["reconstruction", "elbo"])
def test_posterior_scores_are_means_over_draws_then_over_images(
    name: str, statistic: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posterior, "DRAWS", 5)
    model = made(name, shape)
    people = patients(shape, structures=model.structures)
    score_P = scored(f"posterior/{statistic}", model, people)
    part = model.white_box().posterior
    drawn_S = part.draw(5, torch.Generator().manual_seed(0))
    for p in range(4):
        errors = []
        for i in np.flatnonzero(people.patients_N == f"p{p}"):
            x_BC, y_B = torch.from_numpy(people.whole_NC[i : i + 1]), torch.tensor([int(people.y_N[i])])
            drawn = [tuple(d[s : s + 1] for d in drawn_S) for s in range(5)]
            errors += [part.errors(x_BC, y_B, *one)[statistic == "elbo"].item() for one in drawn]
        assert score_P[p] == pytest.approx(-np.mean(errors), rel=1e-5)
    one = people.select(np.flatnonzero(people.patients_N == "p2"))  # nobody's score follows the others
    np.testing.assert_allclose(scored(f"posterior/{statistic}", model, one), score_P[2:3], rtol=1e-5)


def test_vae_errors_add_up_to_the_loss_that_was_trained() -> None:
    model = made("vae", (8, 8))
    people = patients((8, 8))
    x_BC, y_B = torch.from_numpy(people.x_NC), torch.from_numpy(people.y_N)
    (objective,) = model.objectives()
    (eps_BL,) = objective.aux(7, torch.Generator().manual_seed(1))
    part = model.white_box().posterior
    assert torch.equal(part.errors(x_BC, y_B, eps_BL)[1], objective.module(x_BC, y_B, eps_BL))
    assert torch.equal(part.draw(7, torch.Generator().manual_seed(1))[0], eps_BL)


@pytest.mark.parametrize("name", ["gan", "vae", "vae, masks", "pix2pix", "hybrid"])
def test_the_latent_map_is_what_sampling_uses(name: str, shape: tuple[int, ...]) -> None:
    model = made(name, shape)
    latent, y_B = model.white_box().latent, torch.tensor([0, 1, 1])
    z_BL = latent.codes(y_B, torch.Generator().manual_seed(5))
    assert z_BL.shape == (3, latent.size)
    assert torch.equal(latent.image(z_BL, y_B), model.sample(y_B, torch.Generator().manual_seed(5)))


# An affine generator whose columns are orthonormal: the nearest image to x is its projection, in closed form.
VOXELS, SIZE = 64, 3
Q = torch.linalg.qr(torch.randn(VOXELS, SIZE, generator=torch.Generator().manual_seed(2)))[0]


def affine(z_BL: torch.Tensor, y_B: torch.Tensor) -> torch.Tensor:
    return (z_BL @ Q.T + 0.1 * y_B[:, None]).unflatten(1, (1, 8, 8))


def test_inversion_finds_the_projection_on_an_affine_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inversion, "REGULARISER", 0.0)
    latent = LatentMap(SIZE, affine)
    random = torch.Generator().manual_seed(3)
    y_B = torch.tensor([0, 1, 0, 1])
    z_BL = torch.randn(4, SIZE, generator=random)
    away_BC = torch.randn(4, VOXELS, generator=random) * torch.tensor([0.0, 0.0, 0.3, 0.6])[:, None]
    x_BC = affine(z_BL, y_B) + away_BC.unflatten(1, (1, 8, 8))
    residual_BC = away_BC - (away_BC @ Q) @ Q.T  # what no z can make
    people = Images(x_BC.numpy(), y_B.numpy(), np.arange(4))
    z_BRL = nearest_starts(latent, people, torch.randn(64, SIZE, generator=random), 3)
    found_B = invert(latent, x_BC, y_B, z_BRL, 300)
    np.testing.assert_allclose(found_B, residual_BC.square().mean(1), atol=2e-5)


def test_inversion_keeps_latent_vectors_where_the_prior_has_them() -> None:
    """An image made by an absurd z must not look like one that the generator makes."""
    latent = LatentMap(SIZE, affine)
    z_BL = torch.tensor([[1.0, 1.0, 1.0], [9.0, 9.0, 9.0]])
    y_B = torch.zeros(2, dtype=torch.long)
    people = Images(affine(z_BL, y_B).numpy(), y_B.numpy(), np.arange(2))
    z_BRL = nearest_starts(latent, people, torch.randn(64, SIZE, generator=torch.Generator().manual_seed(0)), 2)
    found_B = invert(latent, torch.from_numpy(people.x_NC), y_B, z_BRL, 300)
    assert found_B[0] < 1e-4 < 0.1 < found_B[1]
    cost = REGULARISER * (z_BRL.square().sum(2) - SIZE).square()  # without a step: the objective at the nearest start
    distance = affine(z_BRL.flatten(0, 1), y_B.repeat_interleave(2)) - torch.from_numpy(people.x_NC)[[0, 0, 1, 1]]
    start_BR = distance.square().flatten(1).mean(1).unflatten(0, (2, 2)) + cost
    x_BC = torch.from_numpy(people.x_NC)
    torch.testing.assert_close(invert(latent, x_BC, y_B, z_BRL.flip(1), 0), start_BR.amin(1))  # the best start, last


def test_starts_are_the_nearest_candidates_of_the_images_own_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inversion, "VOXELS_AT_ONCE", 5 * VOXELS)
    latent = LatentMap(SIZE, affine)
    people = patients((8, 8))
    z_ML = torch.randn(23, SIZE, generator=torch.Generator().manual_seed(4))
    found_NRL = nearest_starts(latent, people, z_ML, 3)
    for i in range(len(people)):
        label = torch.tensor([int(people.y_N[i])])
        costs = [
            ((affine(z[None], label) - torch.from_numpy(people.x_NC[i])) ** 2).mean()
            + REGULARISER * (z.square().sum() - SIZE) ** 2
            for z in z_ML
        ]
        assert torch.equal(found_NRL[i], z_ML[torch.stack(costs).argsort()[:3]])


def test_a_patient_is_as_well_made_as_his_best_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inversion, "STEPS", 5)
    model, people = made("gan", (8, 8)), patients((8, 8))
    each = Images(people.x_NC, people.y_N, np.array([f"i{k}" for k in range(7)]))
    score_N, score_P = scored("latent_inversion", model, each), scored("latent_inversion", model, people)
    for p in range(4):
        assert score_P[p] == pytest.approx(score_N[people.patients_N == f"p{p}"].max(), rel=1e-5)


def test_trained_parts_are_of_the_last_step_and_sampled_parts_of_the_average(small_run) -> None:  # type: ignore[no-untyped-def]
    run = load_run(small_run("vae"))
    state = load_checkpoint(run.root / "checkpoints" / "last.pt")["state"]
    last = {key.removeprefix("decoder."): value for key, value in state["model"].items() if key.startswith("decoder.")}
    average = {key.removeprefix("generator."): value for key, value in state["ema"].items() if key != "updates"}
    trained = trained_model(run)
    for key, value in trained.decoder.state_dict().items():
        assert torch.equal(value, last[key])
        assert not torch.equal(value, average[key])
        assert torch.equal(run.model.decoder.state_dict()[key], average[key])
    for key, value in trained.encoder.state_dict().items():
        assert torch.equal(value, run.model.encoder.state_dict()[key])
    assert not any(parameter.requires_grad for parameter in trained.parameters())
    released = Released(
        synthetic_images(np.zeros((1, 1, 8, 8), np.float32), np.zeros(1, int)), model=run.model, run=run
    )
    z_BL, y_B = torch.ones(1, 2), torch.zeros(1, dtype=torch.long)
    assert torch.equal(parts_as_sampled(released).latent.image(z_BL, y_B), run.model.decoder(z_BL, y_B))
    assert torch.equal(parts_as_trained(released).latent.image(z_BL, y_B), trained.decoder(z_BL, y_B))


def test_a_generator_that_knows_its_patients_is_caught_by_its_errors_and_strangers_are_not_told_apart() -> None:
    """A hybrid that is told to remember: the members are in the decoder's span."""
    random = np.random.default_rng(0)
    basis = random.standard_normal((3, 64)).astype(np.float32) * 0.3
    inside = np.tanh(random.standard_normal((30, 3)).astype(np.float32) @ basis)
    outside = np.tanh(random.standard_normal((60, 3)).astype(np.float32) @ (0.3 * random.standard_normal((3, 64))))
    model = Hybrid((8, 8), 1)
    with torch.no_grad():
        model.networks.decoder.weight.zero_()
        model.networks.decoder.bias.zero_()
        model.networks.decoder.weight[:, :3] = torch.from_numpy(basis.T)
        model.networks.encoder.weight.copy_(torch.from_numpy(np.linalg.pinv(basis).T))
        model.networks.encoder.bias.zero_()
    model.eval().requires_grad_(False)

    def people(x: np.ndarray, name: str) -> Images:
        x_NC = x.astype(np.float32).reshape(-1, 1, 8, 8)
        return Images(x_NC, np.zeros(len(x), int), np.array([f"{name}{i:03d}" for i in range(len(x))]))

    for attack in ("posterior/reconstruction", "latent_inversion"):
        known, first, second = (
            scored(attack, model, p)
            for p in (people(inside, "in"), people(outside[:30], "out"), people(outside[30:], "other"))
        )
        assert auc(known, first) > 0.95
        low, high = auc_interval(auc(second, first), 30, 30)
        assert low < 0.5 < high
