"""The private networks that the engines are measured on: usual shapes of discriminators and autoencoders.

``module(x_BC, y_B, *aux_B)`` gives one loss per image, as every private objective does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgsynth.models import VAE


class Discriminator(nn.Module):
    """DCGAN's (Radford, Metz and Chintala 2016): strided convolutions of kernel 4, to one logit."""

    def __init__(self, shape: tuple[int, ...], widths: tuple[int, ...], norm: bool = False):
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[len(shape) - 2]
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(zip((1, *widths[:-1]), widths, strict=True)):
            layers.append(conv(inputs, outputs, 4, stride=2, padding=1))
            if norm and i > 0:
                layers.append(nn.GroupNorm(8, outputs))
            layers.append(nn.LeakyReLU(0.2))
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            features = self.trunk(torch.zeros(1, 1, *shape)).shape[1]
        self.head = nn.Linear(features, 1)

    def forward(self, x_BC: Tensor, y_B: Tensor, target_B: Tensor) -> Tensor:
        logit_B = self.head(self.trunk(x_BC)).squeeze(1)
        return F.softplus(logit_B) - target_B * logit_B


class Autoencoder(nn.Module):
    """A 3D VAE with transposed convolutions and GroupNorm throughout."""

    def __init__(self, shape: tuple[int, ...], widths: tuple[int, ...], latent: int = 64):
        super().__init__()
        down: list[nn.Module] = []
        for inputs, outputs in zip((1, *widths[:-1]), widths, strict=True):
            down += [nn.Conv3d(inputs, outputs, 4, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()]
        self.encoder = nn.Sequential(*down, nn.Flatten())
        self.small = (widths[-1], *(side >> len(widths) for side in shape))
        features = torch.Size(self.small).numel()
        self.moments, self.stem = nn.Linear(features, 2 * latent), nn.Linear(latent, features)
        up: list[nn.Module] = []
        for inputs, outputs in zip(widths[::-1], widths[-2::-1], strict=False):
            up += [nn.ConvTranspose3d(inputs, outputs, 4, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()]
        self.decoder = nn.Sequential(*up, nn.ConvTranspose3d(widths[0], 1, 4, stride=2, padding=1), nn.Tanh())

    def forward(self, x_BC: Tensor, y_B: Tensor, eps_BL: Tensor) -> Tensor:
        mu_BL, logvar_BL = self.moments(self.encoder(x_BC)).chunk(2, dim=1)
        z_BL = mu_BL + (0.5 * logvar_BL).exp() * eps_BL
        x_hat_BC = self.decoder(self.stem(z_BL).view(-1, *self.small))
        error_B = (x_BC - x_hat_BC).square().flatten(1).mean(1)
        return error_B + 1e-3 * 0.5 * (mu_BL.square() + logvar_BL.exp() - 1 - logvar_BL).sum(1)


@dataclass(frozen=True)
class Case:
    name: str
    shape: tuple[int, ...]
    batch: int
    kind: str  # discriminator | norm | autoencoder | house
    widths: tuple[int, ...] = ()

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        if self.kind == "house":
            (objective,) = VAE(self.shape, 2).objectives()
            return objective.module
        if self.kind == "autoencoder":
            return Autoencoder(self.shape, self.widths)
        return Discriminator(self.shape, self.widths, norm=self.kind == "norm")

    def inputs(self, batch: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """x_BC, y_B and aux_B."""
        n = batch or self.batch
        random = torch.Generator().manual_seed(1)
        x_BC = torch.rand(n, 1, *self.shape, generator=random) * 2 - 1
        latent = {"autoencoder": (64,), "house": (16,)}.get(self.kind, ())
        aux_B = torch.randn(n, *latent, generator=random) if latent else torch.ones(n)
        return x_BC, torch.zeros(n, dtype=torch.long), aux_B


CASES = {
    case.name: case
    for case in (
        Case("2D discriminator 64², batch 64", (64, 64), 64, "discriminator", (64, 128, 256, 512)),
        Case("2D discriminator 64² with GroupNorm, batch 64", (64, 64), 64, "norm", (64, 128, 256, 512)),
        Case("2D discriminator 28², batch 256", (28, 28), 256, "discriminator", (64, 128)),
        Case("3D discriminator 64³, batch 8", (64,) * 3, 8, "discriminator", (16, 32, 64, 128)),
        Case("3D discriminator 64³, batch 16", (64,) * 3, 16, "discriminator", (16, 32, 64, 128)),
        Case("3D VAE 32³, batch 16", (32,) * 3, 16, "autoencoder", (16, 32, 64)),
        Case("3D VAE 64³, batch 8", (64,) * 3, 8, "autoencoder", (16, 32, 64)),
        Case("imgsynth's VAE 32³, batch 64", (32,) * 3, 64, "house"),
    )
}
