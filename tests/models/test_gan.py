"""The GAN's losses against torch's, what its batches are labelled, and that the networks pull against each other."""

import pytest
import torch
import torch.nn.functional as F

from imgsynth.models import GAN, PostProcessing, Private
from imgsynth.models.adversarial import discriminator_loss, generator_loss


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parts(model: GAN) -> tuple[Private, PostProcessing]:
    private, post = model.objectives()
    return private, post


@torch.no_grad()
def fakes(private: Private, n: int, random: torch.Generator | None = None) -> tuple[torch.Tensor, ...]:
    return private.fakes.make(*private.fakes.draw(n, random or seeded()))


def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def test_losses_are_binary_cross_entropies():
    logit_B = torch.linspace(-30, 30, 13)
    for target in (0.0, 1.0):
        target_B = torch.full((13,), target)
        expected_B = F.binary_cross_entropy_with_logits(logit_B, target_B, reduction="none")
        torch.testing.assert_close(discriminator_loss(logit_B, target_B), expected_B)
    torch.testing.assert_close(generator_loss(logit_B), -F.logsigmoid(logit_B))


def test_real_images_have_target_one_and_fakes_zero():
    private, _ = parts(GAN((16, 16), 2, latent=4))
    assert [a.tolist() for a in private.aux(3, seeded())] == [[1.0, 1.0, 1.0]]
    assert fakes(private, 4)[2].tolist() == [0.0, 0.0, 0.0, 0.0]


def test_fake_labels_are_public_and_uniform():
    _, y_B, _ = fakes(parts(GAN((8, 8), 4, latent=4, channels=4))[0], 4000)
    share = torch.bincount(y_B, minlength=4) / 4000
    assert (share - 0.25).abs().max() < 0.03


def test_fakes_are_what_the_generator_draws_now():
    model = GAN((16, 16), 2, latent=4)
    private, _ = parts(model)
    before = fakes(private, 4)[0]
    with torch.no_grad():
        model.G.stem.weight.mul_(-1)
    assert not torch.equal(before, fakes(private, 4)[0])


def test_the_generators_loss_is_the_discriminators_opinion_of_the_same_images():
    model = GAN((16, 16), 2, latent=4)
    private, post = parts(model)
    x_BC, y_B, _ = fakes(private, 8, seeded(3))
    logit_B = model.D.logits(x_BC, y_B)
    torch.testing.assert_close(post.loss(8, seeded(3)), -F.logsigmoid(logit_B).mean())


def test_n_d_is_handed_to_the_trainer():
    assert parts(GAN((16, 16), 1, every=7))[1].every == 7


def test_the_pace_is_told_the_share_of_fakes_that_the_discriminator_knows():
    torch.manual_seed(0)
    model = GAN((16, 16), 2, latent=4, adaptive=True)
    private, post = parts(model)
    x_BC, y_B, _ = fakes(private, 50, seeded(3))
    logit_B = model.D.logits(x_BC, y_B)
    share = float((logit_B < 0).float().mean())
    assert 0 < share < 1
    assert post.accuracy(50, seeded(3)).item() == pytest.approx(share)
    assert not post.accuracy(2, seeded(3)).requires_grad


def test_it_learns_where_each_class_is_bright():
    torch.manual_seed(0)
    random = seeded()
    model = GAN((16, 16), 2, latent=4, channels=4)
    private, post = parts(model)
    optimizers = [torch.optim.Adam(o.module.parameters(), lr=2e-3, betas=(0.5, 0.99)) for o in (private, post)]
    for _ in range(300):
        y_B = torch.randint(2, (16,), generator=random)
        x_BC = -0.8 * torch.ones(16, 1, 16, 16)
        x_BC[y_B == 0, 0, :8] = 0.5
        x_BC[y_B == 1, 0, 8:] = 0.5
        made_BC, made_B, *made_aux = fakes(private, 16, random)
        real = private.module(x_BC, y_B, *private.aux(16, random)).mean()
        fake = private.module(made_BC, made_B, *made_aux).mean()
        step(optimizers[0], real + fake)
        step(optimizers[1], post.loss(16, random))
    upper_BC, lower_BC = (model.sample(torch.full((32,), y), seeded(5)) for y in (0, 1))
    assert upper_BC[..., :7, :].mean() - upper_BC[..., 9:, :].mean() > 0.7  # 1.3 in the data
    assert lower_BC[..., 9:, :].mean() - lower_BC[..., :7, :].mean() > 0.7
