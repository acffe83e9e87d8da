import pytest
import torch

from imgsynth.models import VAE, LatentDiffusion
from imgsynth.models.base import the_private
from imgsynth.types import InputError
from tests.models.test_diffusion import seeded

SMALL = {"latent": 3, "channels": 4, "widest": 8}
SOURCE = {"_target_": "imgsynth.models.VAE", **SMALL}


def public(shape=(8, 8)) -> VAE:
    torch.manual_seed(1)
    vae = VAE(shape, 2, **SMALL)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return vae


def begun(shape=(8, 8), **more) -> LatentDiffusion:
    torch.manual_seed(0)
    model = LatentDiffusion(shape, 2, SOURCE, **{"width": 32, "depth": 2, "sampler_steps": 12, **more})
    model.begin_with(public(shape).state_dict())
    return model


def test_the_public_autoencoder_is_taken_and_never_trained():
    model, vae = begun(), public()
    assert all(torch.equal(value, vae.state_dict()[name]) for name, value in model.public_part.state_dict().items())
    private = the_private(model.objectives()).module
    trained = {name for name, p in private.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("denoising.network.") for name in trained)
    x_BC, y_B = torch.rand(4, 1, 8, 8), torch.arange(4) % 2
    private(x_BC, y_B, *model._draw(4, seeded())).sum().backward()
    assert all(p.grad is None for p in model.source.parameters())


def test_the_loss_is_that_of_the_images_own_code():
    model, vae = begun(), public()
    x_BC, y_B = torch.rand(4, 1, 8, 8), torch.arange(4) % 2
    code_eps_BL, *noise = model._draw(4, seeded())
    mu_BL, logvar_BL = vae.encoder(x_BC, y_B)
    z_BL = mu_BL + (logvar_BL / 2).exp() * code_eps_BL
    expected_B = model.from_codes.denoising(z_BL, y_B, *noise)
    torch.testing.assert_close(the_private(model.objectives()).module(x_BC, y_B, code_eps_BL, *noise), expected_B)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 8)])
def test_before_training_codes_are_the_prior_the_vae_was_trained_for(shape):
    """F is 0: the denoiser is that of N(0, 1), and samples are the decoder's of such codes."""
    model = begun(shape, sampler_steps=40)
    codes = []
    decode = model.from_codes.decoder.forward
    model.from_codes.decoder.forward = lambda z_BL, y_B: codes.append(z_BL) or decode(z_BL, y_B)
    made_BC = model.sample(torch.zeros(3000, dtype=torch.long), seeded(2))
    (z_BL,) = codes
    assert z_BL.mean().abs() < 0.05 and z_BL.var().item() == pytest.approx(1, abs=0.07)
    torch.testing.assert_close(made_BC, public(shape).decoder(z_BL, torch.zeros(3000, dtype=torch.long)))


def test_codes_that_are_not_the_prior_are_learned():
    """Images of one corner of the latent space: samples come from there, by class."""
    model, vae = begun(label_dropping=0.0), public()
    centre_YL = torch.tensor([[1.5, -1.0, 0.0], [-1.5, 0.5, 1.0]])
    optimizer, random = torch.optim.Adam(model.from_codes.denoising.network.parameters(), 3e-3), seeded()
    for _ in range(400):
        y_B = torch.randint(2, (128,), generator=random)
        z_BL = centre_YL[y_B] + 0.2 * torch.randn(128, 3, generator=random)
        optimizer.zero_grad()
        _, *noise = model._draw(128, random)
        model.from_codes.denoising(z_BL, y_B, *noise).mean().backward()
        optimizer.step()
    y_B = torch.arange(400) % 2
    z_BL = model.sampling.sample(model.from_codes.denoising, y_B, (3,), seeded(3))
    for y in (0, 1):
        torch.testing.assert_close(z_BL[y_B == y].mean(0), centre_YL[y], atol=0.15, rtol=0)
        assert z_BL[y_B == y].std(0).max() < 0.45
    expected_BC = vae.decoder(centre_YL[y_B], y_B)
    assert (model.sample(y_B, seeded(3)) - expected_BC).abs().mean() < 0.1


def test_what_is_no_autoencoder_is_refused():
    with pytest.raises(InputError, match=r"model\.source"):
        LatentDiffusion((8, 8), 2, {"_target_": "imgsynth.models.GAN"})
