"""The fitted prior against numpy's moments, and that what noise says is not believed."""

import numpy as np
import pytest
import torch

from imgsynth.models.prior import Prior, denoised, james_stein, moments

L, Y, N = 4, 3, 4000


def cohort(seed=0):
    """Codes of three classes about different means with one covariance, and small posterior variances."""
    random = np.random.default_rng(seed)
    mean_YL = random.normal(0, 0.6, (Y, L))
    factor = np.linalg.cholesky(np.array([[1, 0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 0.3, 0.1], [0, 0, 0.1, 0.2]]))
    y = random.choice(Y, N, p=[0.5, 0.3, 0.2])
    mu = mean_YL[y] + random.normal(size=(N, L)) @ factor.T
    variance = random.uniform(0.01, 0.1, (N, L))
    return torch.tensor(mu), torch.tensor(variance), torch.tensor(y)


def fitted(noise_std, seed=0):
    mu, variance, y = cohort()
    v = moments(mu, variance.log(), y, Y).mean(0)
    prior = Prior(Y, L)
    prior.fit(v + noise_std * torch.randn(v.shape, generator=torch.Generator().manual_seed(seed)), noise_std)
    return prior


def within(mu, variance, y):
    """Mean codes, and the covariance of codes about them, by numpy alone."""
    mu, variance, y = mu.numpy(), variance.numpy(), y.numpy()
    mean_YL = np.stack([mu[y == c].mean(0) for c in range(Y)])
    return mean_YL, (mu - mean_YL[y]).T @ (mu - mean_YL[y]) / N + np.diag(variance.mean(0))


def test_without_noise_it_has_the_means_and_the_covariance_of_the_codes():
    mu, variance, y = cohort()
    mean_YL, covariance = within(mu, variance, y)
    prior = fitted(0.0)
    z = prior(
        torch.randn(200_000, L, generator=torch.Generator().manual_seed(1)), torch.ones(200_000, dtype=torch.int64)
    )
    assert mu.norm(dim=1).max() > 3.0 > np.quantile(mu.norm(dim=1), 0.95)  # 1.5 √L = 3: a few are scaled back
    np.testing.assert_allclose(z.mean(0), mean_YL[1], atol=0.03)
    np.testing.assert_allclose(np.cov(z.numpy().T), covariance, atol=0.06)
    assert np.abs(np.cov(z.numpy().T) - np.eye(L)).max() > 0.4  # and N(0, 1) is told from it


def test_no_image_has_a_vector_longer_than_one():
    random = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 3.0, 1e3, 1e8):
        mu, logvar = (scale * torch.randn(500, L, generator=random, dtype=torch.float64) for _ in range(2))
        length = moments(mu, logvar, torch.randint(Y, (500,), generator=random), Y).norm(dim=1)
        assert length.max() <= 1 + 1e-12
    assert length.max() > 0.95  # and the bound is not idle


@pytest.mark.parametrize("noise_std", [0.001, 0.01, 0.05])
def test_noise_does_not_make_it_worse_than_the_standard_prior(noise_std):
    mean_YL, covariance = within(*cohort())
    for seed in range(5):
        prior = fitted(noise_std, seed)
        got = (prior.factor_LL @ prior.factor_LL.T).numpy()
        assert np.linalg.norm(got - covariance) < 1.05 * np.linalg.norm(np.eye(L) - covariance)
        assert np.linalg.norm(prior.mean_YL.numpy() - mean_YL) < 1.05 * np.linalg.norm(mean_YL)


def test_where_there_is_nothing_but_noise_it_stays_as_it_was():
    prior = fitted(3.0)
    assert torch.equal(prior.mean_YL, torch.zeros(Y, L)) and torch.equal(prior.factor_LL, torch.eye(L))


def test_a_class_too_rare_for_the_noise_takes_the_mean_of_all():
    mu, variance, y = cohort()
    keep = (y != 2) | (torch.arange(N) % 100 == 0)
    v = moments(mu[keep], variance[keep].log(), y[keep], Y).mean(0)
    prior = Prior(Y, L)
    prior.fit(v, 0.005)
    assert torch.allclose(prior.mean_YL[2], mu[keep].mean(0).float(), atol=0.1)
    assert not torch.allclose(prior.mean_YL[0], prior.mean_YL[2], atol=0.1)


def test_shrunken_means_are_nearer_than_measured_ones():
    random = torch.Generator().manual_seed(0)
    truth = 0.3 * torch.randn(2000, 8, generator=random)
    measured = truth + 0.5 * torch.randn(2000, 8, generator=random)
    shrunk = torch.stack([james_stein(one, 0.5) for one in measured])
    assert (shrunk - truth).square().sum() < 0.6 * (measured - truth).square().sum()
    assert torch.equal(james_stein(truth[0], 0.0), truth[0])


def test_noise_alone_makes_no_direction_of_a_covariance():
    random = torch.Generator().manual_seed(0)
    spreads = []
    for _ in range(50):
        noise = torch.randn(12, 12, generator=random)
        cleaned = denoised(torch.eye(12) + 0.1 * (noise + noise.T) / 2, 0.1)
        spreads.append(torch.linalg.eigvalsh(cleaned).max() - torch.linalg.eigvalsh(cleaned).min())
    assert np.median(spreads) < 0.02
    strong = torch.diag(torch.tensor([9.0] + [1.0] * 11))
    assert torch.linalg.eigvalsh(denoised(strong, 0.1))[-1] > 8
