"""Which loss trains which network: the ELBO encoder and decoder, the discriminator's loss the discriminator, and what
sees no data the decoder."""

import pytest
import torch
import torch.nn.functional as F

from imgsynth.models import VAEGAN, PostProcessing, Private
from imgsynth.models.vae import kl_to_prior
from imgsynth.types import InputError

SHAPES = [(16, 24), (8, 8, 16)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(shape: tuple[int, ...], **arguments: float) -> tuple[VAEGAN, Private, PostProcessing]:
    torch.manual_seed(0)
    model = VAEGAN(shape, 3, latent=4, channels=4, widest=8, encoder_channels=4, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    private, post = model.objectives()
    return model, private, post


def batch(private: Private, shape: tuple[int, ...], n: int = 5):
    x_BC = torch.rand(n, 1, *shape, generator=seeded(1)) * 2 - 1
    return x_BC, torch.arange(n) % 3, *private.aux(n, seeded(2))


def gradients(loss: torch.Tensor, model: VAEGAN) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.networks.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_loss_is_the_elbo_and_the_opinion_of_an_image_and_two_fakes(shape):
    model, private, _ = made(shape, gamma=0.3, beta=0.01)
    x_BC, y_B, eps_BL, z_BL, made_y_B = batch(private, shape)
    networks = model.networks
    mu_BL, logvar_BL = networks.elbo.encoder(x_BC, y_B)
    rebuilt_BC = model.decoder(mu_BL + (0.5 * logvar_BL).exp() * eps_BL, y_B)
    d = networks.discriminator
    elbo_B = (x_BC - rebuilt_BC).abs().flatten(1).mean(1) + 0.01 * kl_to_prior(mu_BL, logvar_BL)
    real_B = -F.logsigmoid(d.logits(x_BC, y_B))
    fakes_B = -F.logsigmoid(-d.logits(rebuilt_BC, y_B)) - F.logsigmoid(
        -d.logits(model.decoder(z_BL, made_y_B), made_y_B)
    )
    expected_B = elbo_B + 0.3 * (real_B + 0.5 * fakes_B)
    torch.testing.assert_close(private.module(x_BC, y_B, eps_BL, z_BL, made_y_B), expected_B)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_discriminators_loss_trains_the_discriminator_alone(shape):
    """Through its fakes the decoder would be trained to be *caught*, and through them the encoder."""
    model, private, _ = made(shape)
    inputs = batch(private, shape)
    whole = gradients(private.module(*inputs).sum(), model)
    elbo = gradients(model.networks.elbo(*inputs[:3]).sum(), model)
    for name, gradient in whole.items():
        if name.startswith("discriminator."):
            assert elbo[name].abs().max() == 0 and gradient.abs().max() > 0
        else:
            torch.testing.assert_close(gradient, elbo[name])


def test_gamma_scales_the_discriminators_gradient_and_no_other():
    found = {}
    for gamma in (0.1, 0.4):
        model, private, _ = made((16, 24), gamma=gamma)
        found[gamma] = gradients(private.module(*batch(private, (16, 24))).sum(), model)
    for name, gradient in found[0.1].items():
        factor = 4 if name.startswith("discriminator.") else 1
        torch.testing.assert_close(found[0.4][name], factor * gradient)


def test_the_adversarial_part_of_the_decoder_sees_no_data_and_moves_the_decoder():
    model, _, post = made((16, 24))
    assert post.module is model.decoder and post.every == 1
    z_BL, y_B = model._sample(8, seeded(3))
    logit_B = model.networks.discriminator.logits(model.decoder(z_BL, y_B), y_B)
    torch.testing.assert_close(post.loss(8, seeded(3)), -F.logsigmoid(logit_B).mean())


def test_fakes_are_samples_with_public_uniform_labels_drawn_afresh():
    _, private, _ = made((16, 24))
    eps_BL, z_BL, y_B = private.aux(6000, seeded(4))
    assert ((torch.bincount(y_B, minlength=3) / 6000 - 1 / 3).abs() < 0.03).all()
    assert abs(z_BL.std().item() - 1) < 0.03 and abs((eps_BL * z_BL).mean().item()) < 0.03


def test_white_box_names_all_three_parts():
    model, private, _ = made((16, 24))
    parts = model.white_box()
    x_BC, y_B, eps_BL, *_ = batch(private, (16, 24))
    error_B, elbo_B = parts.posterior.errors(x_BC, y_B, *parts.posterior.draw(5, seeded(2)))
    torch.testing.assert_close(elbo_B, model.networks.elbo(x_BC, y_B, eps_BL))
    assert (error_B < elbo_B).all()
    torch.testing.assert_close(parts.discriminator(x_BC, y_B), model.networks.discriminator.logits(x_BC, y_B))
    random = seeded(5)
    z_BL = torch.randn(5, parts.latent.size, generator=random)
    torch.testing.assert_close(parts.latent.image(z_BL, y_B).detach(), model.sample(y_B, seeded(5)))


def test_a_pace_below_one_is_refused():
    with pytest.raises(InputError, match=r"model\.every"):
        VAEGAN((16, 24), 1, every=0)
