"""The VAE's losses against torch.distributions, and that it learns what images have in common and how they differ."""

import torch
import torch.nn.functional as F
from torch.distributions import Laplace, Normal, kl_divergence

from imgsynth.models import VAE
from imgsynth.models.vae import cross_entropy, kl_to_prior, reconstruction


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_kl_is_that_of_torch_distributions():
    mu_BL, logvar_BL = torch.randn(5, 3, generator=seeded()), torch.randn(5, 3, generator=seeded(1))
    expected_B = kl_divergence(Normal(mu_BL, (0.5 * logvar_BL).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_to_prior(mu_BL, logvar_BL), expected_B)


def test_reconstruction_differs_from_the_laplace_likelihood_by_a_constant():
    x_BC, mean_BC = torch.rand(4, 1, 6, 5, generator=seeded()), torch.rand(4, 1, 6, 5, generator=seeded(1))
    nats_B = -Laplace(mean_BC, 1 / 30).log_prob(x_BC).flatten(1).sum(1)
    difference_B = nats_B - 900 * reconstruction(x_BC, mean_BC)
    torch.testing.assert_close(difference_B, difference_B[0].expand(4), atol=1e-3, rtol=0)


def test_the_loss_is_the_reconstruction_from_mu_plus_sigma_eps_and_beta_kl():
    torch.manual_seed(0)
    model = VAE((16, 16), 2, latent=3, beta=0.5)
    for parameter in model.encoder.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x_BC, y_B = torch.rand(4, 1, 16, 16), torch.tensor([0, 1, 1, 0])
    (objective,) = model.objectives()
    (eps_BL,) = objective.aux(4, seeded())
    q = Normal(model.encoder(x_BC, y_B)[0], torch.sqrt(model.encoder(x_BC, y_B)[1].exp()))
    error_B = torch.nn.functional.l1_loss(model.decoder(q.loc + q.scale * eps_BL, y_B), x_BC, reduction="none")
    expected_B = error_B.mean((1, 2, 3)) + 0.5 * kl_divergence(q, Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(objective.module(x_BC, y_B, eps_BL), expected_B)


def test_reparameterisation_noise_is_standard_normal():
    (eps_BL,) = VAE((8, 8), 1, latent=20).objectives()[0].aux(2000, seeded())
    assert eps_BL.shape == (2000, 20)
    assert abs(eps_BL.mean()) < 0.02
    assert abs(eps_BL.std() - 1) < 0.02


def test_the_encoder_starts_at_the_prior():
    mu_BL, logvar_BL = VAE((8, 8, 8), 2).encoder(torch.rand(3, 1, 8, 8, 8), torch.tensor([0, 1, 0]))
    assert torch.equal(mu_BL, torch.zeros(3, 16))
    assert torch.equal(logvar_BL, torch.zeros(3, 16))


def test_the_encoder_listens_to_the_label():
    torch.manual_seed(0)
    model = VAE((8, 8), 2)
    torch.nn.init.normal_(model.encoder.head.weight)
    x_BC = torch.rand(2, 1, 8, 8)
    (mu_BL, logvar_BL), (mu_other_BL, logvar_other_BL) = (model.encoder(x_BC, torch.full((2,), y)) for y in (0, 1))
    assert not torch.isclose(mu_BL, mu_other_BL).any()
    assert not torch.isclose(logvar_BL, logvar_other_BL).any()


def test_it_learns_where_each_class_is_bright_and_that_brightness_varies():
    torch.manual_seed(0)
    random = seeded()
    model = VAE((16, 16), 2, latent=2, channels=4, beta=0.02)
    (objective,) = model.objectives()
    optimizer = torch.optim.Adam(objective.module.parameters(), lr=4e-3)
    for _ in range(500):
        y_B = torch.randint(2, (32,), generator=random)
        x_BC = -torch.ones(32, 1, 16, 16)
        bright_B = torch.rand(32, generator=random)[:, None, None]
        x_BC[y_B == 0, 0, :8] = bright_B[y_B == 0]  # class 0: the upper half; class 1: the lower half
        x_BC[y_B == 1, 0, 8:] = bright_B[y_B == 1]
        optimizer.zero_grad()
        objective.module(x_BC, y_B, *objective.aux(32, random)).mean().backward()
        optimizer.step()
    upper_BC, lower_BC = (model.sample(torch.full((64,), y), seeded(5)) for y in (0, 1))
    for bright_BC, dark_BC in [
        (upper_BC[..., :6, :], upper_BC[..., 10:, :]),
        (lower_BC[..., 10:, :], lower_BC[..., :6, :]),
    ]:
        assert abs(bright_BC.mean() - 0.5) < 0.25
        assert abs(dark_BC.mean() + 1) < 0.1
        assert 0.15 < bright_BC.mean((1, 2, 3)).std() < 0.5  # uniform on [0, 1]: 0.29


def test_a_masks_error_is_its_cross_entropy_by_torch_on_labels():
    label_B = torch.randint(3, (4, 5, 6), generator=seeded(1))
    x_BM = torch.stack([(label_B == k) * 2.0 - 1 for k in (1, 2)], dim=1)
    logit_BM = torch.randn(4, 2, 5, 6, generator=seeded(2))
    with_background = torch.cat([torch.zeros(4, 1, 5, 6), logit_BM], dim=1)
    expected_B = F.cross_entropy(with_background, label_B, reduction="none").flatten(1).mean(1)
    torch.testing.assert_close(cross_entropy(x_BM, logit_BM), expected_B)
    assert torch.equal(cross_entropy(x_BM[:, :0], logit_BM[:, :0]), torch.zeros(4))


def test_the_error_of_a_pair_is_that_of_the_image_and_that_of_the_mask():
    model = VAE((16, 16), 1, latent=2, structures=1)
    elbo = model.objectives()[0].module
    with torch.no_grad():
        x_BC = model.sample(torch.zeros(3, dtype=torch.long), seeded(1))
        x_BC[:, 1] = torch.where(x_BC[:, 1] > x_BC[:, 1].median(), 1.0, -1.0)
        y_B, eps_BL = torch.zeros(3, dtype=torch.long), torch.randn(3, 2, generator=seeded(3))
        rebuilt_BC, error_B, _ = elbo.rebuilt(x_BC, y_B, eps_BL)
        p_B = (rebuilt_BC[:, 1] + 1) / 2
        inside_B = x_BC[:, 1] > 0
        nats_B = -torch.where(inside_B, p_B, 1 - p_B).log().flatten(1).mean(1)
    torch.testing.assert_close(error_B, reconstruction(x_BC[:, :1], rebuilt_BC[:, :1]) + nats_B)
