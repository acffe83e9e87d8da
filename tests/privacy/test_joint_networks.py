"""Several networks in one private objective are clipped together, over all of their parameters; two objectives are
refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imgsynth.models import GenerativeModel, PostProcessing, Private
from imgsynth.models.base import the_private
from imgsynth.privacy.engines import ENGINES, get_engine
from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.step import private_step
from imgsynth.schema import TrainerConfig
from imgsynth.training.state import TrainingState
from imgsynth.types import InputError, PatientBatch


class Hybrid(nn.Module):
    """A VAE-GAN after Larsen et al. 2016 (arXiv 1512.09300): encoder, decoder and discriminator on one image."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 6))
        self.decoder = nn.Sequential(nn.Linear(3, 16), nn.Tanh())
        self.discriminator = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 1))
        self.frozen = nn.Linear(3, 3).requires_grad_(False)  # a perceptual loss's features, say

    def forward(self, x_BC, y_B, eps_BL):
        mu_BL, logvar_BL = self.encoder(x_BC).chunk(2, dim=1)
        z_BL = mu_BL + (0.5 * logvar_BL).exp() * eps_BL
        made_BC = self.decoder(z_BL).view_as(x_BC)
        error_B = (made_BC - x_BC).square().flatten(1).mean(1) + self.frozen(z_BL).square().mean(1)
        kl_B = 0.5 * (mu_BL.square() + logvar_BL.exp() - 1 - logvar_BL).sum(1)
        real_B, fake_B = self.discriminator(x_BC).flatten(), self.discriminator(made_BC.detach()).flatten()
        return error_B + 0.1 * kl_B + F.softplus(-real_B) + F.softplus(fake_B)


PLAN = PrivacyPlan(
    mode="dp", unit="patient", n=20, sampling_rate=0.2, steps=5, clipping_norm=0.4, noise_multiplier=0.0,
    images_per_patient=2, delta=1e-3,
)  # fmt: skip


def hybrid_and_batch(patients=5):
    torch.manual_seed(0)
    module = Hybrid().double()
    x = torch.randn(patients, 2, 1, 4, 4, dtype=torch.float64)
    w = torch.full((patients, 2), 0.5, dtype=torch.float64)
    eps = torch.randn(patients * 2, 3, dtype=torch.float64)
    return module, PatientBatch(x, torch.zeros(patients, 2, dtype=torch.long), w), (eps,)


def clipped_by_hand(module, batch, aux, groups):
    """Σ_p over patients, each ``group`` of parameters clipped by itself to C, as one long vector each."""
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for p in range(len(batch)):
        loss = module(batch.x_PKC[p], batch.y_PK[p], aux[0][2 * p : 2 * p + 2]).mean()
        gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        for group in groups:
            names = [name for name in parameters if name.split(".")[0] in group]
            norm = torch.cat([gradients[name].flatten() for name in names]).norm()
            for name in names:
                sums[name] += gradients[name] * min(1.0, PLAN.clipping_norm / norm.item())
    return sums


@pytest.mark.parametrize("engine", ENGINES)
def test_all_networks_of_a_module_are_clipped_as_one(engine):
    module, batch, aux = hybrid_and_batch()
    together = clipped_by_hand(module, batch, aux, [("encoder", "decoder", "discriminator")])
    apart = clipped_by_hand(module, batch, aux, [("encoder",), ("decoder",), ("discriminator",)])
    private_step(PLAN, get_engine(engine), module, batch, aux, None, NoiseSource())
    for name, expected in together.items():
        torch.testing.assert_close(module.get_parameter(name).grad * PLAN.normaliser, expected, rtol=1e-9, atol=1e-12)
    assert any((together[name] - apart[name]).norm() > 0.05 for name in together)  # it makes a difference
    assert {name.split(".")[0] for name in together} == {"encoder", "decoder", "discriminator"}


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_frozen_stays_out(engine):
    module, batch, aux = hybrid_and_batch()
    module.discriminator.requires_grad_(False)
    expected = clipped_by_hand(module, batch, aux, [("encoder", "decoder")])
    private_step(PLAN, get_engine(engine), module, batch, aux, None, NoiseSource())
    for name, parameter in module.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad * PLAN.normaliser, expected[name], rtol=1e-9, atol=1e-12)
        else:
            assert parameter.grad is None


class Twice(GenerativeModel):
    """What is not accounted for: two networks that each take a noised step of their own on the same patients."""

    def __init__(self, private=2):
        super().__init__()
        self.shape, self.classes = (4, 4), 1
        self.networks = nn.ModuleList(nn.Linear(1, 1) for _ in range(3))
        self.private = private

    def objectives(self):
        def no_loss(n, random):
            return torch.zeros(())

        return [
            *(Private(f"network{i}", self.networks[i], lambda n, random: ()) for i in range(self.private)),
            PostProcessing("free", self.networks[2], no_loss),
        ]

    @property
    def generator(self):
        return self.networks[2]

    def sample(self, y_B, random):
        return torch.zeros(len(y_B), 1, 4, 4)


@pytest.mark.parametrize(("private", "named"), [(2, r"2 private ones \(network0, network1\)"), (0, "0 private ones")])
def test_two_private_objectives_or_none_are_refused(private, named):
    model = Twice(private)
    with pytest.raises(InputError, match=f"{named}.*one nn.Module"):
        the_private(model.objectives())
    with pytest.raises(InputError, match=named):
        TrainingState(model, PLAN, TrainerConfig(), patients=20, seed=None, device=torch.device("cpu"))
    assert the_private(Twice(1).objectives()).name == "network0"
