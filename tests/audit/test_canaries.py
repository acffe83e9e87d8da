"""Coins, pseudo-patients, canaries' gradients through every engine, and readings against closed forms."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from canary_cohort import CLASSES, SHAPE, Cohort
from scipy import stats

from imgsynth.audit.canaries.coins import half_and_half, toss
from imgsynth.audit.canaries.kinds import LENGTH, RandomSign, SideDirac, WeightDirac
from imgsynth.audit.canaries.pseudo import WithCanaries, canary_patients
from imgsynth.audit.canaries.readings import InputReadings, evidence
from imgsynth.models import GAN, VAE
from imgsynth.models.base import the_private
from imgsynth.privacy.engines import ENGINES, GhostEngine, get_engine
from imgsynth.types import InputError, PatientBatch

C = 0.5


def test_coins_are_fair_and_fresh() -> None:
    coins = toss(4001)
    assert coins.shape == (4001,) and coins.dtype == bool
    assert abs(coins.mean() - 0.5) < 5 * 0.5 / 4001**0.5
    assert (toss(4001) != coins).any()
    assert (toss(50, seed=3) == toss(50, seed=3)).all()


def test_guesses_are_half_heads_half_tails() -> None:
    assert half_and_half(1000, 0.1) == (50, 50) and half_and_half(1000, 0.1).total == 100
    assert half_and_half(20, 0.01) == (1, 1)


@pytest.mark.parametrize("given", [True, False], ids=["buffer", "no buffer"])
def test_canaries_come_after_the_patients_with_as_many_images(given: bool) -> None:
    cohort, image_MC = Cohort(n=5, images=3), torch.arange(4.0)[:, None, None, None].expand(4, 1, *SHAPE)
    patients = WithCanaries(cohort, CLASSES, [1, 3], image_MC)
    assert len(patients) == 7 and patients.rows(2) == 6
    buffer = torch.full((20, 1, *SHAPE), 9.0) if given else None
    batch = patients.batch([0, 4, 6], buffer)
    assert batch.x_PKC.shape == (3, 3, 1, *SHAPE)
    assert torch.equal(batch.x_PKC[:2], cohort.x_PKC[[0, 4]])
    assert (batch.x_PKC[2] == 3).all() and (batch.y_PK[2] == CLASSES + 3).all()
    assert torch.allclose(batch.w_PK.sum(1), torch.ones(3))
    assert canary_patients(batch, CLASSES).tolist() == [False, False, True]
    assert len(patients.batch([], buffer)) == 0
    assert (patients.batch([5], buffer).y_PK == CLASSES + 1).all()


NETWORKS = {
    "vae-2d": lambda: VAE((8, 8), CLASSES, latent=2, channels=2, widest=4),
    "gan-2d": lambda: GAN((8, 8), CLASSES, latent=2, channels=2, widest=4),
    "vae-3d": lambda: VAE((8, 8, 8), CLASSES, latent=2, channels=2, widest=4),
}


def wrapped(network: str, kind: str, canaries: int = 6):
    torch.manual_seed(0)
    private = the_private(NETWORKS[network]().objectives())
    if kind == "side":
        return private, SideDirac(private, CLASSES, canaries, C)
    if kind == "input":
        return private, RandomSign(private, CLASSES, canaries)
    return private, WeightDirac(private, CLASSES, canaries, C, np.random.default_rng(0))


def batch_of(labels: list[int], shape: tuple[int, ...], images: int = 2) -> PatientBatch:
    x = torch.randn(len(labels), images, 1, *shape, generator=torch.Generator().manual_seed(1))
    y = torch.tensor(labels)[:, None].expand(-1, images)
    return PatientBatch(x, y, torch.full((len(labels), images), 1 / images))


@pytest.mark.parametrize("kind", ["weights", "side"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_dirac_canary_adds_C_at_its_own_coordinate_and_nothing_else(network: str, engine: str, kind: str) -> None:
    private, canaries = wrapped(network, kind)
    shape = (8,) * (3 if "3d" in network else 2)
    batch = batch_of([0, 1, CLASSES + 2, CLASSES + 5], shape)
    aux = private.aux(8, torch.Generator().manual_seed(2))
    both = get_engine(engine).clipped_sum(canaries, batch, aux, C, 3)
    bare = copy.deepcopy(private.module)
    real = PatientBatch(batch.x_PKC[:2], batch.y_PK[:2], batch.w_PK[:2])
    alone = get_engine(engine).clipped_sum(bare, real, tuple(a[:4] for a in aux), C, 3)
    left = {n: v - (alone.sums[n.removeprefix("network.")] if "network" in n else 0) for n, v in both.sums.items()}
    torch.testing.assert_close(canaries.read(left), torch.tensor([0, 0, C, 0, 0, C]), atol=1e-5, rtol=0)
    total = torch.cat([v.flatten() for v in left.values()])
    assert total.norm().item() == pytest.approx(C * 2**0.5, abs=1e-4)  # and so nothing anywhere else
    torch.testing.assert_close(both.norms_P[2:], torch.full((2,), LENGTH * C))
    if engine == "ghost":
        assert GhostEngine.obstacle(canaries) is None  # it is the ghost engine that was audited


def test_weight_canaries_are_in_every_layer_and_no_two_at_one_place() -> None:
    _, canaries = wrapped("vae-2d", "weights", canaries=60)
    assert all(len(set(at)) == len(at) for at in canaries.places.values())
    assert sum(len(at) for at in canaries.places.values()) == 60
    layers = {n for n, p in canaries.network.named_parameters() if p.ndim >= 2}
    assert set(canaries.places) == layers
    assert min(len(at) for at in canaries.places.values()) >= 8


def test_more_weight_canaries_than_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"audit\.canaries\.kinds"):
        wrapped("gan-2d", "weights", canaries=10**6)


def test_a_network_with_side_canaries_is_trained_as_without_them() -> None:
    private, canaries = wrapped("vae-2d", "side")
    x, y = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 0])
    aux = private.aux(3, torch.Generator().manual_seed(2))
    assert torch.equal(canaries(x, y, *aux), private.module(x, y, *aux))


def test_evidence_is_the_likelihood_ratio() -> None:
    x, sd, q = np.linspace(-4, 5, 30), 0.7, 0.15
    ratio = ((1 - q) * stats.norm.pdf(x, 0, sd) + q * stats.norm.pdf(x, 1, sd)) / stats.norm.pdf(x, 0, sd)
    np.testing.assert_allclose(evidence(x, sd, q), np.log(ratio), rtol=1e-12)
    np.testing.assert_allclose(evidence(x, sd, 1.0), (x - 0.5) / sd**2)
    assert (evidence(x, 0.0, q) == x).all()


def naive_gradients(canaries: RandomSign, image_MC: torch.Tensor) -> torch.Tensor:
    rows = []
    for j in range(canaries.canaries):
        loss = canaries(image_MC[j : j + 1], torch.tensor([CLASSES + j]), *canaries.own_aux(torch.tensor([j])))[0]
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(canaries.parameters()))]))
    return torch.stack(rows).double()


@pytest.mark.parametrize("held", [2**20, 700], ids=["at once", "in parts"])
@pytest.mark.parametrize("network", ["vae-2d", "gan-2d"])
def test_readings_of_overlapping_gradients_are_the_best_linear_estimate(network: str, held: int) -> None:
    """Against the textbook formula, cov(b, r) cov(r, r)⁻¹, in the space of the gradients themselves."""
    _, canaries = wrapped(network, "input", canaries=5)
    image_MC = canaries.images((8, 8), np.random.default_rng(0))
    weights = {n: p.detach() for n, p in canaries.named_parameters()}
    g_MD = naive_gradients(canaries, image_MC)
    c_MD = g_MD * (C / g_MD.norm(dim=1, keepdim=True)).clamp(max=1)
    std, q, drawn = 0.3, 0.4, torch.tensor([1.0, 0, 0, 1, 0], dtype=torch.float64)
    r_D = drawn @ c_MD + std * torch.randn(
        c_MD.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    sizes = [w.numel() for w in weights.values()]
    residual = {n: part.view(w.shape) for (n, w), part in zip(weights.items(), r_D.split(sizes), strict=True)}
    x_M, sd_M = InputReadings(canaries, image_MC, 2, held).read(weights, {}, residual, C, std, q)

    p, v = q / 2, q / 2 * (1 - q / 2)
    cov_DD = v * c_MD.T @ c_MD + std**2 * torch.eye(c_MD.shape[1], dtype=torch.float64)
    gain_MM = v * c_MD @ torch.linalg.inv(cov_DD)  # [M, D]
    estimate_M = p + gain_MM @ (r_D - p * c_MD.sum(0))
    own_M = (gain_MM * c_MD).sum(1)
    np.testing.assert_allclose(x_M, (p + (estimate_M - p) / own_M).numpy(), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(sd_M**2, (v * (1 - own_M) / own_M).numpy(), rtol=2e-3)


def test_without_noise_overlapping_gradients_are_told_apart_exactly() -> None:
    _, canaries = wrapped("vae-2d", "input", canaries=8)
    image_MC = canaries.images((8, 8), np.random.default_rng(0))
    weights = {n: p.detach() for n, p in canaries.named_parameters()}
    c_MD = naive_gradients(canaries, image_MC)
    c_MD *= (C / c_MD.norm(dim=1, keepdim=True)).clamp(max=1)
    drawn = torch.tensor([1.0, 0, 0, 1, 0, 1, 1, 0], dtype=torch.float64)
    sizes = [w.numel() for w in weights.values()]
    parts = (drawn @ c_MD).split(sizes)
    residual = {n: part.view(w.shape) for (n, w), part in zip(weights.items(), parts, strict=True)}
    x_M, _ = InputReadings(canaries, image_MC, 3).read(weights, {}, residual, C, 0.0, 0.3)
    np.testing.assert_allclose(x_M, drawn.numpy(), atol=0.02)


def test_generated_images_in_a_canarys_unit_have_no_loss() -> None:
    private, canaries = wrapped("gan-2d", "input")
    x, target = torch.randn(3, 1, 8, 8), torch.ones(3)
    loss = canaries(x, torch.tensor([1, CLASSES + 3, CLASSES + 6 + 3]), target)
    assert loss[0] == private.module(x[:1], torch.tensor([1]), target[:1])[0]
    assert loss[1] > 0 and loss[2] == 0
