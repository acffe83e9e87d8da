"""A patient's fakes are made as if he were alone, whatever the generator does with a batch; and it is refused if it
does anything."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imgsynth.models import GAN, FakeSource, GenerativeModel, PostProcessing, Private
from imgsynth.privacy.engines import get_engine
from imgsynth.privacy.fakes import how_many
from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.step import private_step
from imgsynth.training import loop
from imgsynth.training.fakes import check_fakes, made
from imgsynth.training.run import load_run, model_factory
from imgsynth.training.state import TrainingState
from imgsynth.training.steps import private_update
from imgsynth.types import InputError, PatientBatch

CPU = torch.device("cpu")
PLAN = PrivacyPlan(
    mode="dp", unit="patient", n=40, sampling_rate=0.1, steps=5, clipping_norm=0.05, noise_multiplier=0.0,
    images_per_patient=1, delta=1e-3,
)  # fmt: skip


class Shift(nn.Module):
    """A layer that couples the images of a batch, and is called nothing that is known for it."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def forward(self, x_BC):
        return x_BC - self.share * x_BC.mean(0, keepdim=True)


class Drawer(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.stem, self.layer, self.head = nn.Linear(4, 4 * 16), layer, nn.ConvTranspose2d(4, 1, 4, 2, 1)

    def forward(self, z_BL):
        return torch.tanh(self.head(F.relu(self.layer(4 * self.stem(z_BL).view(-1, 4, 4, 4)))))


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 1)

    def forward(self, x_BC, y_B, target_B):
        logit_B = self.head(F.relu(self.conv(x_BC)).mean((2, 3))).squeeze(1)
        return F.softplus(logit_B) - target_B * logit_B


class OtherGAN(GenerativeModel):
    """A user's own model. ``layer`` is what the test is about; ``balanced`` draws labels that depend on each other."""

    def __init__(self, shape, classes, layer=None, balanced=False):
        super().__init__()
        self.shape, self.classes, self.balanced = tuple(shape), classes, balanced
        self.G, self.D = Drawer(layer or nn.Identity()), Critic()

    def objectives(self):
        def draw(n, random):
            y_B = torch.randperm(n, generator=random) if self.balanced else torch.zeros(n, dtype=torch.long)
            return y_B, torch.randn(n, 4, generator=random)

        def make(y_B, z_BL):
            return self.G(z_BL) + 0.5 * y_B.view(-1, 1, 1, 1), y_B, torch.zeros_like(z_BL[:, 0])

        def fool(n, random):
            x_BC, y_B, _ = make(*draw(n, random))
            return self.D(x_BC, y_B, torch.ones(n)).mean()

        return [
            Private("d", self.D, lambda n, random: (torch.ones(n),), FakeSource(draw, make)),
            PostProcessing("g", self.G, fool),
        ]

    @property
    def generator(self):
        return self.G

    @torch.no_grad()
    def sample(self, y_B, random):
        return self.G(torch.randn(len(y_B), 4, generator=random))


def source_of(layer=None, **arguments):
    torch.manual_seed(0)
    model = OtherGAN((8, 8), 1, layer, **arguments).train()
    private, _ = model.objectives()
    return model, private.fakes


COUPLED = {
    "by hand": lambda: (Shift(0.9), False),
    "batch norm without statistics": lambda: (nn.BatchNorm2d(4, track_running_stats=False), False),
    "in the draws": lambda: (None, True),
}


@pytest.mark.parametrize("coupling", ["none", *COUPLED])
def test_end_to_end_with_joint_fakes_a_patient_moves_the_sum_by_C_at_most(coupling):
    """The fakes come from the generator, for as many patients as there are. Clipped all, each by C exactly: one who
    comes last adds a vector of length C, if the others' fakes stay what they were."""
    layer, balanced = COUPLED.get(coupling, lambda: (None, False))()
    model, source = source_of(layer, balanced=balanced)
    x_PKC = torch.randn(33, 1, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def total(patients, alone=True):
        fakes = made(source, how_many(PLAN, patients), torch.Generator().manual_seed(2), alone=alone)
        batch = PatientBatch(x_PKC[:patients], torch.zeros(patients, 1, dtype=torch.long), torch.ones(patients, 1))
        private_step(PLAN, get_engine("loop"), model.D, batch, (torch.ones(patients),), fakes, NoiseSource())
        return torch.cat([p.grad.flatten() for p in model.D.parameters()]) * PLAN.normaliser / PLAN.clipping_norm

    moved = [(total(patients + 1) - total(patients)).norm().item() for patients in (0, 1, 2, 4, 32)]
    assert max(moved) <= 1 + 1e-4
    if coupling != "none":  # made in one call, as fakes of the whole batch, they do break the bound
        assert max((total(p + 1, False) - total(p, False)).norm().item() for p in (1, 2, 4)) > 1.02


@pytest.mark.parametrize("coupling", ["none", *COUPLED])
def test_a_step_of_training_takes_them_so(coupling, configure):
    """Through the training state, with a generator that the start of a run would refuse."""
    x_PKC = torch.randn(5, 1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    layer, balanced = COUPLED.get(coupling, lambda: (None, False))()

    def total(patients):
        torch.manual_seed(0)
        model = OtherGAN((8, 8), 1, layer, balanced)
        trainer = configure("gan").trainer
        state = TrainingState(model, dataclasses.replace(PLAN, seeded=True), trainer, patients=5, seed=1, device=CPU)
        batch = PatientBatch(x_PKC[:patients], torch.zeros(patients, 1, dtype=torch.long), torch.ones(patients, 1))
        private_update(state, PLAN, batch)
        return torch.cat([p.grad.flatten() for p in model.D.parameters()]) * PLAN.normaliser / PLAN.clipping_norm

    for patients in (1, 2, 4):
        assert 0.5 < (total(patients + 1) - total(patients)).norm() <= 1 + 1e-4


@pytest.mark.parametrize("coupling", ["none", *COUPLED])
def test_the_first_fakes_are_the_same_however_many_there_are(coupling):
    layer, balanced = COUPLED.get(coupling, lambda: (None, False))()
    _, source = source_of(layer, balanced=balanced)
    few, few_aux = made(source, 2, torch.Generator().manual_seed(2), alone=True)
    many, many_aux = made(source, 9, torch.Generator().manual_seed(2), alone=True)
    torch.testing.assert_close(many.x_PKC[:2], few.x_PKC, rtol=1e-4, atol=1e-5)
    assert torch.equal(many.y_PK[:2], few.y_PK)
    assert torch.equal(many_aux[0][:2], few_aux[0])
    assert not torch.isclose(many.x_PKC[0], many.x_PKC[1]).all()


@pytest.mark.parametrize("model", ["gan", "vae"])
def test_a_run_of_an_earlier_version_does_not_go_on_with_other_fakes(model, configure, tmp_path, monkeypatch):
    cfg, folder = configure(model), tmp_path / "run"

    def stop(*_):
        raise KeyboardInterrupt

    def go_on():
        loop.train(cfg, folder, model_factory(cfg.model))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "private_update", stop)
        go_on()
    plan = json.loads((folder / "plan.json").read_text())
    assert plan.pop("fakes") == "joint"
    (folder / "plan.json").write_text(json.dumps(plan))
    if model == "gan":
        with pytest.raises(InputError, match="earlier version, which clipped each generated image by itself"):
            go_on()
        return
    go_on()  # it has no fakes
    assert load_run(folder).plan.fakes == "separate"


@pytest.mark.parametrize("alone", [True, False])
def test_what_is_made_are_units_of_one_image(alone):
    source = GAN((16, 16), 3, latent=4).objectives()[0].fakes
    for n in (0, 1, 5):
        units, aux = made(source, n, torch.Generator().manual_seed(0), alone=alone)
        assert units.x_PKC.shape == (n, 1, 1, 16, 16)
        assert torch.equal(units.w_PK, torch.ones(n, 1))
        assert units.y_PK.shape == (n, 1)
        assert [a.tolist() for a in aux] == [[0.0] * n]
        assert not units.x_PKC.requires_grad


def test_one_by_one_they_are_what_the_generator_makes_at_once():
    source = GAN((16, 16), 3, latent=4).objectives()[0].fakes
    drawn = []
    recorded = FakeSource(lambda n, random: drawn.append(source.draw(n, random)) or drawn[-1], source.make)
    units, _ = made(recorded, 6, torch.Generator().manual_seed(0), alone=True)
    x_BC, y_B, _ = source.make(*map(torch.cat, zip(*drawn, strict=True)))
    torch.testing.assert_close(units.x_PKC[:, 0], x_BC, rtol=1e-4, atol=1e-5)
    assert torch.equal(units.y_PK[:, 0], y_B)
    assert len(drawn) == 6


@pytest.mark.parametrize(
    ("layer", "got"),
    [
        (lambda: Shift(0.9), "depend on those made with them"),
        (lambda: Shift(0.1), "depend on those made with them"),
        (lambda: nn.BatchNorm2d(4, track_running_stats=False), "depend on those made with them"),
        (lambda: nn.BatchNorm2d(4), "cannot be mapped over images"),
        (lambda: nn.InstanceNorm2d(4, track_running_stats=True), "cannot be mapped over images"),
    ],
)
def test_a_generator_that_couples_its_images_is_refused_at_the_start(layer, got):
    _, source = source_of(layer())
    with pytest.raises(InputError, match=got) as caught:
        check_fakes(source, CPU)
    assert "privacy.fakes=plain" in caught.value.faults[0].remedy


@pytest.mark.parametrize("layer", [nn.Identity, lambda: nn.GroupNorm(2, 4), lambda: nn.Dropout(0.5)])
def test_a_generator_that_treats_each_image_alone_passes_and_no_random_state_moves(layer):
    _, source = source_of(layer())
    before = torch.get_rng_state()
    check_fakes(source, CPU)
    assert torch.equal(before, torch.get_rng_state())


def test_what_a_generator_draws_itself_is_another_for_every_fake():
    _, source = source_of(nn.Dropout(0.5))
    same = dataclasses.replace(source, draw=lambda n, random: (torch.zeros(n, dtype=torch.long), torch.ones(n, 4)))
    units, _ = made(same, 2, torch.Generator(), alone=True)
    assert not torch.isclose(units.x_PKC[0], units.x_PKC[1]).all()


@pytest.mark.parametrize(
    ("privacy", "layer", "refused"),
    [
        ({}, lambda: nn.BatchNorm2d(4), "model, layer G.layer.*BatchNorm2d"),
        ({}, lambda: nn.InstanceNorm2d(4, track_running_stats=True), "model, layer G.layer.*running statistics"),
        ({}, lambda: Shift(0.9), "model, fakes"),
        ({"fakes": "plain"}, lambda: nn.BatchNorm2d(4), None),
        ({"mode": "none", "noise_multiplier": None}, lambda: nn.BatchNorm2d(4), None),
    ],
    ids=["batch norm", "running statistics", "mixing", "batch norm, plain fakes", "batch norm, no privacy"],
)
def test_a_run_refuses_it_before_anything_is_on_record(privacy, layer, refused, configure, tmp_path):
    cfg = configure("gan", privacy=privacy)

    def factory(shape, classes):
        return OtherGAN(shape, classes, layer())

    if refused is None:
        loop.train(cfg, tmp_path / "run", factory)
        return
    with pytest.raises(InputError, match=refused):
        loop.train(cfg, tmp_path / "run", factory)
    assert not (tmp_path / "run" / "config.json").exists() and not (tmp_path / "ledger" / "ledger.sqlite").exists()
