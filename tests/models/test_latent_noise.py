"""Latent noise: what a patient adds, what slots say of codes, and what is left of them under noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from imgsynth.models import LatentNoise, Private, Update
from imgsynth.models.latent_noise import SHARE
from imgsynth.types import InputError
from tests.models.test_evolution import seeded

SOURCE = {"_target_": "imgsynth.models.VAE", "latent": 3, "channels": 2, "widest": 4}
HALVES = {"_target_": "tests.models.test_codegan.Halves"}


def latent_noise(**settings) -> LatentNoise:
    torch.manual_seed(0)
    return LatentNoise((8, 8), 2, **{"source": HALVES, "slots": 50, **settings})


def objectives(model: LatentNoise) -> tuple[Private, Update]:
    slots, update = model.objectives()
    assert isinstance(slots, Private) and isinstance(update, Update)
    return slots, update


def laid(model: LatentNoise, x_BC, y_B, slot_B) -> torch.Tensor:
    """What each image adds [B, S, D]: its gradient with the sign changed."""
    slots, _ = objectives(model)
    rows = []
    for i in range(len(x_BC)):
        loss = slots.module(x_BC[i : i + 1], y_B[i : i + 1], slot_B[i : i + 1])[0]
        rows.append(-torch.autograd.grad(loss, [model.private.held.weight])[0])
    return torch.stack(rows)


@pytest.mark.parametrize("size", [0.1, 1.0, 100.0])
def test_an_image_lays_one_vector_of_length_at_most_one_into_its_slot(size):
    model = latent_noise(source=SOURCE)
    with torch.no_grad():
        model.source.encoder.head.weight.normal_(std=size, generator=seeded(1))
    x_BC, y_B = torch.rand(6, 1, 8, 8, generator=seeded()) * 2 - 1, torch.arange(6) % 2
    slot_B = torch.tensor([0, 3, 3, 49, 7, 8])
    got_BSD = laid(model, x_BC, y_B, slot_B)
    mu_BL = model.source.encoder(x_BC, y_B)[0].detach()
    for got_SD, mu_L, y, s in zip(got_BSD, mu_BL, y_B, slot_B, strict=True):
        assert got_SD.norm() <= 1 + 1e-6
        assert got_SD[[i for i in range(50) if i != s]].abs().max() == 0
        radius = 1.2 * math.sqrt(3)
        one_2 = torch.eye(2)[y] * math.sqrt(SHARE)
        code_L = mu_L / radius * min(1.0, radius / float(mu_L.norm())) * math.sqrt(1 - SHARE)
        torch.testing.assert_close(got_SD[s], torch.cat([one_2, code_L]))


def test_slots_are_drawn_alike_whoever_the_patients_are():
    slots, _ = objectives(latent_noise(slots=4))
    (slot_B,) = slots.aux(40_000, seeded(2))
    assert np.abs(np.bincount(slot_B, minlength=4) / 10_000 - 1).max() < 0.05
    assert slots.rounds == 1


def release(model: LatentNoise, v_SD: torch.Tensor, sigma: float, patients: float) -> None:
    with torch.no_grad():
        model.private.held.weight.copy_(v_SD / patients)
    objectives(model)[1].update(seeded(), sigma / patients, patients)


def test_without_noise_slots_are_the_codes_themselves_each_by_its_class():
    model = latent_noise()
    c_BL = torch.tensor([[0.5, -0.2], [-0.4, 0.9], [0.1, 0.3]])
    y_B, slot_B = torch.tensor([0, 1, 1]), torch.tensor([5, 9, 30])
    v_SD = laid(model, model.source.image(c_BL, y_B), y_B, slot_B).sum(0)
    release(model, v_SD, 0.0, 3)
    torch.testing.assert_close(model.codes.chance_YS[0, 5], torch.tensor(1.0))
    torch.testing.assert_close(model.codes.chance_YS[1, [9, 30]], torch.tensor([0.5, 0.5]))
    got_BL = model.source.code(model.sample(torch.zeros(3, dtype=torch.long), seeded(3)), y_B)
    torch.testing.assert_close(got_BL, c_BL[:1].expand(3, 2), atol=1e-4, rtol=1e-4)


def test_a_slot_is_believed_as_far_as_bayes_says():
    """One latent dimension's posterior mean, spread and the odds of a code against none, by integration."""
    model, sigma, patients = latent_noise(), 0.6, 20.0
    v_SD = 0.5 * torch.randn(50, 4, generator=seeded(4))
    release(model, v_SD, sigma, patients)
    scale = math.sqrt(1 - SHARE) / model.private.radius

    def likelihood(seen: np.ndarray, c: float) -> float:
        return norm.pdf(seen, scale * c, sigma) * norm.pdf(c)

    v = v_SD.double().numpy()
    for s in (0, 17):
        for d in (0, 1):
            total, first, second = (
                quad(lambda c, p=p, s=s, d=d: c**p * likelihood(v[s, 2 + d], c), -9, 9)[0] for p in (0, 1, 2)
            )
            assert abs(first / total - float(model.codes.mean_SL[s, d])) < 1e-5
            assert abs(second / total - (first / total) ** 2 - float(model.codes.spread) ** 2) < 1e-5
    # P(one code of class 0 in the slot | slot), with Poisson's ratio of one code to none, for every slot.
    a, weight_S = math.sqrt(SHARE), []
    for s in range(50):
        code = [quad(lambda c, s=s, d=d: likelihood(v[s, 2 + d], c), -9, 9)[0] for d in (0, 1)]
        empty = np.prod([norm.pdf(x, 0, sigma) for x in v[s]])
        one = [
            patients / 50 / 2 * norm.pdf(v[s, y], a, sigma) * norm.pdf(v[s, 1 - y], 0, sigma) * np.prod(code)
            for y in (0, 1)
        ]
        weight_S.append(one[0] / (empty + sum(one)))
    np.testing.assert_allclose(model.codes.chance_YS[0], np.array(weight_S) / sum(weight_S), rtol=1e-4)


def test_under_heavy_noise_samples_are_the_public_generators_own():
    model = latent_noise()
    release(model, 40 * torch.randn(50, 4, generator=seeded(5)), 40.0, 20.0)
    c_BL = model.codes.draw(torch.zeros(4000, dtype=torch.long), seeded(6))
    assert c_BL.mean(0).abs().max() < 0.1 and (c_BL.std(0) - 1).abs().max() < 0.1


def test_no_slots_are_refused():
    with pytest.raises(InputError, match=r"model\.slots"):
        latent_noise(slots=0)


def test_the_epsilon_of_an_exchanged_image_is_what_the_docs_say():
    """Exact, by the closed form of Balle and Wang 2018 (theorem 8) at μ for one patient more, and at 2μ."""

    def delta(epsilon: float, mu: float) -> float:
        return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)

    for epsilon, exchanged in ((1, 2.2), (3, 6.7), (8, 19.1)):
        mu = brentq(lambda m, e=epsilon: delta(e, m) - 1e-5, 1e-3, 20)
        assert round(brentq(lambda e, m=mu: delta(e, 2 * m) - 1e-5, 0, 200), 1) == exchanged
