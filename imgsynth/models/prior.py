"""A prior for latent codes that is fitted to the cohort by one private query, after training.

A VAE decodes z ~ N(0, 1), but the codes of its images, the aggregate posterior, seldom look so: samples come from where
no image is (Rosca et al. 2018, arXiv 1802.06847; Dai & Wipf 2019, arXiv 1903.05789, section 4). Here z ~ N(m_y, Σ),
the class's mean code and one full covariance for all classes, from moments that all patients together give once:

    v(x, y) = (a e_y, b e_y ⊗ μ/R, c (μμᵀ + diag(s²)) / (R² + √L)),      a² + b² + c² = 1,

with q(z | x, y) = N(μ, diag(s²)), μ scaled back to length R where it is longer and s² at most 1; so |v| ≤ 1 whatever
the image. The released mean of v has noise of a known size, and what is below it is left out: rare classes take the
mean of all, class means are shrunk (James & Stein 1961, positive part), and of the covariance only those directions
are kept whose variance differs from the average by more than noise alone could make it differ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from imgsynth.models.blocks import one_hot

# Shares of |v|²: counts, means, second moments. The moments are many numbers, the counts few.
SHARES = (0.1, 0.4, 0.5)
RADIUS = 1.5  # R / √L: codes under N(0, 1) have length about √L
LEAST_VARIANCE = 0.01
RARE = 3.0  # a class is known where its share is so many times its noise


class Prior(nn.Module):
    """N(m_y, Σ), which starts as N(0, 1). Buffers ``mean_YL`` [classes, L] and ``factor_LL``, Σ's Cholesky factor."""

    mean_YL: Tensor
    factor_LL: Tensor

    def __init__(self, classes: int, latent: int):
        super().__init__()
        self.register_buffer("mean_YL", torch.zeros(classes, latent))
        self.register_buffer("factor_LL", torch.eye(latent))

    def forward(self, eps_BL: Tensor, y_B: Tensor) -> Tensor:
        """Codes from draws of N(0, 1)."""
        return self.mean_YL[y_B] + eps_BL @ self.factor_LL.T

    def inverse(self, z_BL: Tensor, y_B: Tensor) -> Tensor:
        """The draws of N(0, 1) that become these codes."""
        moved_LB = (z_BL - self.mean_YL[y_B]).T
        return torch.linalg.solve_triangular(self.factor_LL, moved_LB, upper=False).T

    @torch.no_grad()
    def fit(self, v_D: Tensor, noise_std: float) -> None:
        """Take the place that the noisy mean of v says; ``noise_std``: of the noise in each of its coordinates."""
        classes, latent = self.mean_YL.shape
        share_Y, first_YL, second_LL = unpacked(v_D.double(), classes, latent)
        a, b, c = (math.sqrt(share) for share in SHARES)
        radius, largest = RADIUS * math.sqrt(latent), largest_moment(latent)
        total = float(share_Y.sum())
        if total <= RARE * noise_std * math.sqrt(classes) / a:
            return  # nothing but noise: z stays N(0, 1)
        pooled_L = james_stein(first_YL.sum(0) / total, noise_std * radius / b * math.sqrt(classes) / total)
        for y in range(classes):
            known = float(share_Y[y]) > RARE * noise_std / a
            own_L = first_YL[y] / share_Y[y] - pooled_L if known else torch.zeros_like(pooled_L)
            spread = noise_std * radius / b / float(share_Y[y]) if known else 1.0
            self.mean_YL[y] = pooled_L + james_stein(own_L, spread)
        mean_YL = self.mean_YL.double()
        weight_Y = share_Y.clamp(min=0) / share_Y.clamp(min=0).sum()
        covariance_LL = second_LL / total - mean_YL.T @ (weight_Y[:, None] * mean_YL)
        cleaned_LL = denoised(covariance_LL, noise_std * largest / c / total)
        self.factor_LL.copy_(torch.linalg.cholesky(cleaned_LL))


class CodeMoments(nn.Module):
    """-<w, v(x, y)> of each image, [B]; ``encoder(x_BC, y_B)`` gives μ and log s². ``w`` is what the query answers."""

    def __init__(self, encoder: nn.Module, classes: int, latent: int):
        super().__init__()
        self.encoder, self.classes = encoder, classes
        self.w = nn.Linear(classes * (1 + latent) + latent * (latent + 1) // 2, 1, bias=False).requires_grad_(False)

    def forward(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        mu_BL, logvar_BL = self.encoder(x_BC, y_B)
        return -self.w(moments(mu_BL, logvar_BL, y_B, self.classes))[:, 0]


def moments(mu_BL: Tensor, logvar_BL: Tensor, y_B: Tensor, classes: int) -> Tensor:
    """v [B, D], of length 1 at most."""
    latent = mu_BL.shape[1]
    radius = RADIUS * math.sqrt(latent)
    mu_BL = mu_BL * (radius / mu_BL.norm(dim=1, keepdim=True).clamp(min=radius))
    second_BLL = mu_BL[:, :, None] * mu_BL[:, None, :] + torch.diag_embed(logvar_BL.exp().clamp(max=1.0))
    one_BY = one_hot(y_B, classes).to(mu_BL)
    a, b, c = (math.sqrt(share) for share in SHARES)
    first_BD = (one_BY[:, :, None] * mu_BL[:, None, :]).flatten(1)
    row, column, weight = _triangle(latent, mu_BL)
    third_BD = second_BLL[:, row, column] * weight
    return torch.cat([a * one_BY, b / radius * first_BD, c / largest_moment(latent) * third_BD], dim=1)


def unpacked(v_D: Tensor, classes: int, latent: int) -> tuple[Tensor, Tensor, Tensor]:
    """Means of e_y [Y], of e_y ⊗ μ [Y, L] and of the second moment [L, L], from the mean of v."""
    a, b, c = (math.sqrt(share) for share in SHARES)
    share_Y, first_D, third_D = v_D.split([classes, classes * latent, latent * (latent + 1) // 2])
    second_LL = torch.zeros(latent, latent, dtype=v_D.dtype, device=v_D.device)
    row, column, weight = _triangle(latent, v_D)
    second_LL[row, column] = second_LL[column, row] = third_D / weight * (largest_moment(latent) / c)
    return share_Y / a, first_D.view(classes, latent) * (RADIUS * math.sqrt(latent) / b), second_LL


def largest_moment(latent: int) -> float:
    """No second moment of a code has a larger Frobenius norm: R² + √L."""
    return RADIUS**2 * latent + math.sqrt(latent)


def james_stein(mean_L: Tensor, noise_std: float) -> Tensor:
    """``mean_L``, measured with noise of that size in each coordinate, shrunk towards 0: the positive part of James and
    Stein's estimator, better in squared error than the measurement itself for three coordinates or more."""
    length = float(mean_L.square().sum())
    return mean_L * (max(0.0, 1 - (len(mean_L) - 2) * noise_std**2 / length) if length > 0 else 0.0)


def denoised(covariance_LL: Tensor, noise_std: float) -> Tensor:
    """A covariance from one measured with noise: symmetric, of that size on the diagonal and 1/√2 of it elsewhere.

    Eigenvalues are moved towards their mean by 2 σ √(L/2), where the largest eigenvalue of such noise lies (Wigner),
    and not across it; none is below LEAST_VARIANCE.
    """
    value_L, vector_LL = torch.linalg.eigh(covariance_LL)
    middle = value_L.mean()
    edge = 2 * noise_std * math.sqrt(len(value_L) / 2)
    kept_L = middle + (value_L - middle).sign() * ((value_L - middle).abs() - edge).clamp(min=0)
    return (vector_LL * kept_L.clamp(min=LEAST_VARIANCE)) @ vector_LL.T


def _triangle(latent: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns of the upper triangle; elsewhere than on the diagonal an entry stands for two."""
    row, column = torch.triu_indices(latent, latent, device=like.device)
    return row, column, torch.where(row == column, 1.0, math.sqrt(2.0)).to(like)
