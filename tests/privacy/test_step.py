import dataclasses
import math

import pytest
import torch
from scipy.stats import kstest
from torch import nn

from imgsynth.privacy.clipping import ClippingNorm
from imgsynth.privacy.engines import ENGINES, get_engine
from imgsynth.privacy.fakes import how_many
from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.ranks import Ranks
from imgsynth.privacy.step import private_step
from imgsynth.types import PatientBatch

PLAN = PrivacyPlan(
    mode="dp",
    unit="patient",
    n=40,
    sampling_rate=0.1,
    steps=10,
    clipping_norm=1.0,
    noise_multiplier=0.0,
    images_per_patient=2,
    delta=1e-5,
)
ENGINE = get_engine("ghost")


class TwoWeights(nn.Module):
    """loss = a·x₀ + b·x₁, so that an image's gradient is its two pixels."""

    def __init__(self, size=2):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(1, dtype=torch.float64), requires_grad=False)

    def forward(self, x, y, shift):
        return (x.flatten(1) * self.weight).sum(1) + shift * 0


def batch_of(*patients):
    """Each patient a list of (pixels, weight)."""
    x = torch.tensor([[[pixels] for pixels, _ in images] for images in patients], dtype=torch.float64)
    w = torch.tensor([[weight for _, weight in images] for images in patients], dtype=torch.float64)
    if not patients:
        x, w = torch.zeros(0, 2, 1, 2, dtype=torch.float64), torch.zeros(0, 2, dtype=torch.float64)
    return PatientBatch(x, torch.zeros(w.shape, dtype=torch.long), w), (torch.zeros(w.numel(), dtype=torch.float64),)


ANNA = [([6.0, 8.0], 0.5), ([0.0, 0.0], 0.5)]  # mean (3, 4), norm 5
BERT = [([0.3, 0.0], 1.0), ([99.0, 99.0], 0.0)]  # mean (0.3, 0); the second image is padding


def step(plan, *patients, fakes=None, module=None, noise=None):
    module = module or TwoWeights()
    batch, aux = batch_of(*patients)
    info = private_step(plan, ENGINE, module, batch, aux, fakes, noise or NoiseSource())
    return module.weight.grad, info


def test_the_arithmetic_by_hand():
    grad, info = step(PLAN, ANNA, BERT)
    assert PLAN.normaliser == 4.0
    torch.testing.assert_close(grad, torch.tensor([(0.6 + 0.3) / 4, 0.8 / 4], dtype=torch.float64))
    assert info.public == {"noisy_gradient_norm": pytest.approx(grad.norm().item())}
    assert info.local == {
        "loss": 0.0,
        "mean_norm": pytest.approx((5 + 0.3) / 2),
        "clipped_share": 0.5,
        "dropped_share": 0.0,
    }


def test_the_normaliser_never_depends_on_the_drawn_batch():
    one, _ = step(PLAN, ANNA)
    for drawn in (2, 3, 7):
        many, _ = step(PLAN, *([ANNA] * drawn))
        torch.testing.assert_close(many, one * drawn)


def test_a_patient_is_clipped_once_however_many_images():
    one_image, _ = step(PLAN, [([30.0, 40.0], 1.0), ([0.0, 0.0], 0.0)])
    two_images, _ = step(PLAN, [([30.0, 40.0], 0.5), ([30.0, 40.0], 0.5)])
    torch.testing.assert_close(one_image, two_images)
    assert math.isclose(two_images.norm() * PLAN.normaliser, 1.0)


@pytest.mark.parametrize("patients", [[], [ANNA, BERT]], ids=["empty", "two"])
def test_noise_on_the_sum_has_standard_deviation_sigma_C(patients):
    plan = dataclasses.replace(PLAN, noise_multiplier=1.7, clipping_norm=0.5)
    module, size = TwoWeights(20_000), 20_000
    wide = [[(pixels * (size // 2), weight) for pixels, weight in images] for images in patients]
    batch, aux = batch_of(*wide) if wide else batch_of()
    quiet, noisy = dataclasses.replace(plan, noise_multiplier=0.0), plan
    if wide:
        private_step(quiet, ENGINE, module, batch, aux, None, NoiseSource())
        signal = module.weight.grad.clone()
    else:
        signal = torch.zeros(size)
    private_step(noisy, ENGINE, module, batch, aux, None, NoiseSource())
    sample = ((module.weight.grad - signal) * plan.normaliser / (1.7 * 0.5)).numpy()
    assert kstest(sample, "norm").pvalue > 1e-6
    assert kstest(sample * 3 / 2, "norm").pvalue < 1e-6
    assert kstest(sample * 2 / 3, "norm").pvalue < 1e-6


def test_an_empty_batch_steps_on_noise_alone():
    grad, info = step(dataclasses.replace(PLAN, noise_multiplier=1.0))
    assert grad.abs().min() > 0
    assert info.local == {}
    assert info.public["noisy_gradient_norm"] > 0
    assert step(PLAN)[0].tolist() == [0.0, 0.0]


def test_noise_is_fresh_in_every_step_and_differs_between_parameters():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))

        def forward(self, x, y, shift):
            return x.flatten(1).sum(1) * (self.a + self.b).sum()

    module, noise, seen = Twins(), NoiseSource(0), []
    plan = dataclasses.replace(PLAN, noise_multiplier=1.0)
    batch, aux = batch_of()
    for _ in range(2):
        private_step(plan, ENGINE, module, batch, aux, None, noise)
        seen += [tuple(module.a.grad.tolist()), tuple(module.b.grad.tolist())]
    assert len(set(seen)) == 4


def test_what_is_written_has_the_parameters_type_and_frozen_ones_have_none():
    module = TwoWeights().float()
    batch, aux = batch_of(ANNA)
    batch = PatientBatch(batch.x_PKC.float(), batch.y_PK, batch.w_PK.float())
    private_step(PLAN, ENGINE, module, batch, (aux[0].float(),), None, NoiseSource())
    assert module.weight.grad.dtype == torch.float32
    assert module.frozen.grad is None


def fakes_of(*pixels):
    x = torch.tensor([[[p]] for p in pixels], dtype=torch.float64).reshape(len(pixels), 1, 1, 2)
    m = len(pixels)
    return PatientBatch(x, torch.zeros(m, 1, dtype=torch.long), torch.ones(m, 1, dtype=torch.float64)), (
        torch.zeros(m, dtype=torch.float64),
    )


PLAIN = dataclasses.replace(PLAN, fakes="plain")


def test_plain_fakes_are_an_ordinary_mean_over_their_own_number():
    fakes = fakes_of([3.0, 4.0], [0.0, 0.5], [0.0, 0.0], [0.0, 0.0])
    grad, info = step(PLAIN, BERT, fakes=fakes)
    torch.testing.assert_close(grad, torch.tensor([(0.3 + 3) / 4, (4 + 0.5) / 4], dtype=torch.float64))
    assert info.local["mean_norm"] == pytest.approx(0.3)
    alone, _ = step(PLAIN, fakes=fakes)
    torch.testing.assert_close(alone, torch.tensor([3 / 4, 4.5 / 4], dtype=torch.float64))


def test_plain_fakes_get_no_noise_and_do_not_change_the_patients_part():
    plan = dataclasses.replace(PLAIN, noise_multiplier=1.0)
    fakes = fakes_of(*[[0.1, 0.2]] * 4)
    without, _ = step(plan, ANNA, noise=NoiseSource(0))
    with_them, _ = step(plan, ANNA, fakes=fakes, noise=NoiseSource(0))
    torch.testing.assert_close(with_them - without, torch.tensor([0.1, 0.2], dtype=torch.float64))


def test_a_number_of_plain_fakes_that_follows_the_batch_is_refused():
    with pytest.raises(AssertionError, match="2 fakes, but the plan's public number is 4"):
        step(PLAIN, ANNA, BERT, fakes=fakes_of([0.1, 0.2], [0.1, 0.2]))


def test_joint_fakes_are_clipped_in_their_patients_unit():
    """K = 2 fakes each, averaged: Anna's (3, 4) becomes (0, 4), then clipped; Bert's (0.3, 0) becomes (0.3, 0.4)."""
    fakes = fakes_of([-4.0, 0.0], [-2.0, 0.0], [0.0, 0.4], [0.0, 0.4])
    grad, info = step(PLAN, ANNA, BERT, fakes=fakes)
    torch.testing.assert_close(grad, torch.tensor([0.3 / 4, (1 + 0.4) / 4], dtype=torch.float64))
    assert info.local["mean_norm"] == pytest.approx((4 + 0.5) / 2)
    unclipped, _ = step(dataclasses.replace(PLAN, mode="none"), ANNA, BERT, fakes=fakes)
    torch.testing.assert_close(unclipped, torch.tensor([0.3 / 4, 4.4 / 4], dtype=torch.float64))


def test_with_joint_fakes_a_patient_still_moves_the_sum_by_C_at_most():
    """For given fakes; that those of the others stay what they are is tested in training/test_fakes.py."""
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        drawn = [
            [(p, 0.5) for p in (4 * torch.randn(2, 2, generator=random, dtype=torch.float64)).tolist()]
            for _ in range(4)
        ]
        pixels = (9 * torch.randn(8, 2, generator=random, dtype=torch.float64)).tolist()
        with_him, _ = step(PLAN, *drawn, fakes=fakes_of(*pixels))
        without, _ = step(PLAN, *drawn[:3], fakes=fakes_of(*pixels[:6]))
        assert (with_him - without).norm() * PLAN.normaliser <= 1 + 1e-9


def test_joint_fakes_and_an_empty_batch_are_noise_alone():
    none = fakes_of()
    assert step(PLAN, fakes=none)[0].tolist() == [0.0, 0.0]
    noisy = dataclasses.replace(PLAN, noise_multiplier=1.0)
    with_none, _ = step(noisy, fakes=none, noise=NoiseSource(0))
    assert torch.equal(with_none, step(noisy, noise=NoiseSource(0))[0])


@pytest.mark.parametrize("made", [1, 3, 4])
def test_joint_fakes_are_as_many_for_every_patient(made):
    with pytest.raises(AssertionError, match=f"{made} fakes for 1 patients with 2 each"):
        step(PLAN, ANNA, fakes=fakes_of(*[[0.1, 0.2]] * made))


@pytest.mark.parametrize(("mode", "made"), [("joint", 6), ("plain", 4)])
def test_how_many_fakes_a_step_takes(mode, made):
    plan = dataclasses.replace(PLAN, fakes=mode)
    assert how_many(plan, 3) == made
    assert how_many(plan, 0) == {"joint": 0, "plain": 4}[mode]


def test_a_batch_with_another_K_is_refused():
    with pytest.raises(AssertionError, match="2 images a patient, the plan 3"):
        step(dataclasses.replace(PLAN, images_per_patient=3), ANNA)


@pytest.mark.parametrize("engine", ENGINES)
def test_copies_of_a_patients_images_are_one_mean_clipped_once(engine):
    """K = 2 images in M = 3 noisy copies: by hand, and a patient still moves the sum by C at most."""
    plan = dataclasses.replace(PLAN, augmentation_multiplicity=3)
    random = torch.Generator().manual_seed(0)
    pixels = (
        torch.randn(4, 6, 2, generator=random, dtype=torch.float64) * torch.tensor([5.0, 0.1, 1.0, 0.0])[:, None, None]
    )
    drawn = [[(p.tolist(), 1 / 6) for p in own] for own in pixels]
    means = pixels.mean(1)
    expected = (means / means.norm(dim=1, keepdim=True).clamp(min=1)).sum(0)
    found = []
    for patients in (drawn, drawn[1:]):
        module, (batch, aux) = TwoWeights(), batch_of(*patients)
        private_step(plan, get_engine(engine), module, batch, aux, None, NoiseSource())
        found.append(module.weight.grad * plan.normaliser)
    torch.testing.assert_close(found[0], expected)
    assert means[0].norm() > 1 and (found[0] - found[1]).norm().item() == pytest.approx(1)
    with pytest.raises(AssertionError, match="2 images a patient, the plan 6"):
        step(plan, ANNA)


@pytest.mark.parametrize("physical_batch", [1, 2, 32])
def test_mode_none_is_the_ordinary_gradient_over_the_same_normaliser(physical_batch):
    plan = dataclasses.replace(PLAIN, mode="none", physical_batch=physical_batch)
    fakes = fakes_of([3.0, 4.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0])
    grad, info = step(plan, ANNA, BERT, ANNA, fakes=fakes)
    expected = torch.tensor([(3 + 0.3 + 3) / 4 + 3 / 4, (4 + 4) / 4 + 4 / 4], dtype=torch.float64)
    torch.testing.assert_close(grad, expected)
    assert info.local == {"loss": 0.0}
    assert step(plan)[0].tolist() == [0.0, 0.0]


def test_mode_none_reports_each_patients_loss():
    module = TwoWeights()
    module.weight.data.fill_(1.0)
    _, info = step(dataclasses.replace(PLAN, mode="none"), ANNA, BERT, module=module)
    assert info.local["loss"] == pytest.approx((7.0 + 0.3) / 2)


def test_the_drawn_batchs_size_is_in_no_public_number():
    plan = dataclasses.replace(PLAN, noise_multiplier=1.0)
    assert set(step(plan, ANNA)[1].public) == {"noisy_gradient_norm"}


def test_an_optimizer_takes_it_from_there():
    module = TwoWeights()
    step(PLAN, ANNA, module=module)
    torch.optim.SGD(module.parameters(), lr=1.0).step()
    torch.testing.assert_close(module.weight.data, torch.tensor([-0.15, -0.2], dtype=torch.float64))


class Recorder(Ranks):
    """A rank that says what it would send; ``others`` is added to it, as the sums of the other ranks would be."""

    def __init__(self, part, others=None):
        self.part, self.others, self.finished = part, others, 0

    def combine(self, groups, finish):
        self.sent = [{name: total.clone() for name, total in group.items()} for group in groups]
        self.finished += 1
        if self.others is None:
            return finish(*groups)
        pairs = zip(groups, self.others, strict=True)
        return finish(*({name: mine[name] + theirs[name] for name in mine} for mine, theirs in pairs))

    def share(self, units):
        batch, aux = units
        batch = PatientBatch(batch.x_PKC[self.part], batch.y_PK[self.part], batch.w_PK[self.part])
        return batch, tuple(a[self.part] for a in aux)


@pytest.mark.parametrize("shares", [([ANNA, BERT], [ANNA]), ([ANNA], []), ([], [])], ids=["both", "one", "none"])
@pytest.mark.parametrize("adaptive", [False, True], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("mode", ["plain", "joint"])
def test_two_ranks_shares_make_the_step_of_one_process(shares, mode, adaptive):
    """Sums and count are added before the noise, which is that of one process; plain fakes are counted once."""
    plan = dataclasses.replace(PLAN, noise_multiplier=1.0, fakes=mode)
    if adaptive:
        plan = dataclasses.replace(plan, clipping_quantile=0.5, count_noise_multiplier=3.0)
    made = [[3.0, 4.0], [0.0, 1.0], [0.5, 0.0], [2.0, 0.0], [0.1, 0.0], [0.0, 0.7]]
    whole_norm, norms = ClippingNorm(plan), []
    own_fakes = made[: 2 * len(shares[0])], made[2 * len(shares[0]) :][: 2 * len(shares[1])]
    fakes = fakes_of(*own_fakes[0], *own_fakes[1]) if mode == "joint" else fakes_of(*made[:4])
    module, (batch, aux) = TwoWeights(), batch_of(*shares[0], *shares[1])
    private_step(plan, ENGINE, module, batch, aux, fakes, NoiseSource(1), clipping=whole_norm)
    whole = module.weight.grad
    other, own = Recorder(slice(1, None, 2)), Recorder(slice(0, None, 2))
    for rank, drawn, share in ((other, shares[1], own_fakes[1]), (own, shares[0], own_fakes[0])):
        module, (batch, aux) = TwoWeights(), batch_of(*drawn)
        own.others = getattr(other, "sent", None)
        norms.append(ClippingNorm(plan))
        fakes = fakes_of(*share) if mode == "joint" else fakes_of(*made[:4])
        info = private_step(plan, ENGINE, module, batch, aux, fakes, NoiseSource(1), rank, norms[-1])
    torch.testing.assert_close(module.weight.grad, whole, rtol=1e-12, atol=1e-12)
    assert own.finished == 1
    assert info.public["noisy_gradient_norm"] == pytest.approx(whole.norm().item())
    assert norms[-1].value == pytest.approx(whole_norm.value, rel=1e-12)
    assert (whole_norm.value != 1.0) == adaptive


def test_noise_does_not_depend_on_the_order_in_which_an_engine_lists_parameters():
    class Backwards(type(ENGINE)):
        def _sum(self, *arguments):
            found = super()._sum(*arguments)
            return found._replace(sums=dict(reversed(found.sums.items())))

    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.zeros(2, dtype=torch.float64))
            self.b = nn.Parameter(torch.zeros(2, dtype=torch.float64))

        def forward(self, x, y, shift):
            return (x.flatten(1) * (self.a + self.b)).sum(1)

    plan, found = dataclasses.replace(PLAN, noise_multiplier=1.0), []
    for engine in (ENGINE, Backwards()):
        module, (batch, aux) = Twins(), batch_of(ANNA)
        private_step(plan, engine, module, batch, aux, None, NoiseSource(3))
        found.append(torch.cat([module.a.grad, module.b.grad]))
    torch.testing.assert_close(*found, rtol=0, atol=0)
