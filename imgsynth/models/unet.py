"""A small U-Net that knows the class and the noise level, in 2D and 3D from the same code.

Ronneberger et al. 2015 (arXiv:1505.04597), with the residual blocks of Ho, Jain and Abbeel 2020 (arXiv:2006.11239).
Made for DP-SGD: group norm, no attention, few weights, layers that every gradient engine knows.

Its finest grid is the one after the first halving: two neighbours along each axis enter and leave as channels (space to
depth, Shi et al. 2016, arXiv:1609.05158), without which most of a step's time would be spent there.

Two things are made easy for it, so that they are learned first. Images of a cohort are aligned, more or less: the
coarsest grid has a picture of its own for each class and noise level, made without looking at the image. And images are
smooth where noise is not: beside the network, each band of the image's own pyramid (Burt and Adelson 1983) is
multiplied by a number that follows the noise level, as a Wiener filter would. Without that, what the network has not
yet learned stays in samples as white noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from monai.networks.layers import Conv
from torch import Tensor, nn

from imgsynth.models.blocks import one_hot, pyramid, voxels, widths

WAVES = 16  # of the noise level: features of a number
RANK = 8  # of the coarse picture, as a function of class and noise level
# By which a class is told, for 1. Only its own images teach the weights that belong to it: at 1 their gradient is lost
# beside all others in the clipped sum, and samples are of no class in particular (docs/results.md, MNIST).
LOUD = 4.0


class UNet(nn.Module):
    """F: x_BC [B, channels_of_image, *shape], noise_B [B], y_B [B], keep_B [B] to [B, channels_of_image, *shape].

    ``noise_B`` is c_noise; where ``keep_B`` is 0 the class is not looked at, 1 elsewhere. Starts at 0 for every input.
    """

    def __init__(
        self, shape: tuple[int, ...], image_channels: int, classes: int, channels: int, widest: int,
        levels: int | None = None, features: int = 32,
    ):  # fmt: skip
        super().__init__()
        grids = pyramid(shape, levels)
        dims, self.classes, width, coarse = len(shape), classes, widths(channels, widest, grids), grids[-1]
        self.mode = "bilinear" if dims == 2 else "trilinear"
        inner = image_channels * 2**dims
        self.level = nn.Sequential(nn.Linear(2 * WAVES, features), nn.SiLU(), nn.Linear(features, features))
        self.of_class = nn.Linear(classes, features, bias=False)
        self.stem = Conv["conv", dims](inner, width[0], kernel_size=3, padding=1)
        self.down = nn.ModuleList(Block(dims, i, o, features) for i, o in zip([width[0], *width], width, strict=False))
        self.coarse = nn.Sequential(
            nn.Linear(features, RANK), nn.SiLU(), nn.Linear(RANK, width[-1] * voxels(coarse)),
            nn.Unflatten(1, (width[-1], *coarse)),
        )  # fmt: skip
        self.middle = Block(dims, width[-1], width[-1], features)
        ins = [*width[1:], width[-1]]
        self.up = nn.ModuleList(Block(dims, i + o, o, features) for i, o in zip(ins, width, strict=True))
        self.bands = len(grids)
        self.gains = _zero(nn.Linear(features, self.bands * image_channels))
        self.head = nn.Sequential(
            _norm(width[0]), nn.SiLU(), _zero(Conv["conv", dims](width[0], inner, kernel_size=3, padding=1))
        )

    def forward(self, x_BC: Tensor, noise_B: Tensor, y_B: Tensor, keep_B: Tensor) -> Tensor:
        known_BY = LOUD * one_hot(y_B, self.classes) * keep_B[:, None]
        e_BE = F.silu(self.level(waves(noise_B)) + self.of_class(known_BY))
        h_BC = self.stem(to_depth(x_BC))
        skips = []
        for level, block in enumerate(self.down):
            h_BC = block(_halved(h_BC) if level else h_BC, e_BE)
            skips.append(h_BC)
        h_BC = self.middle(h_BC + self.coarse(e_BE), e_BE)
        for level, block in reversed(list(enumerate(self.up))):
            h_BC = block(torch.cat([h_BC, skips[level]], dim=1), e_BE)
            if level:
                h_BC = F.interpolate(h_BC, scale_factor=2, mode=self.mode)
        f_BC = to_space(self.head(h_BC), x_BC.shape[1])
        gain_BC = self.gains(e_BE).view(len(x_BC), self.bands, x_BC.shape[1], *(1 for _ in x_BC.shape[2:]))
        for band, band_BC in enumerate(self._bands(x_BC)):
            f_BC = f_BC + gain_BC[:, band] * band_BC
        return f_BC

    def _bands(self, x_BC: Tensor) -> Iterator[Tensor]:
        """What each halving of the grid loses, from fine to coarse, and what the last one leaves: they add up to x."""
        small_BC, left_BC = x_BC, x_BC
        for _ in range(self.bands - 1):
            small_BC = _halved(small_BC)
            smooth_BC = F.interpolate(small_BC, size=x_BC.shape[2:], mode=self.mode)
            yield left_BC - smooth_BC
            left_BC = smooth_BC
        yield left_BC


class Block(nn.Module):
    """A residual block: x_BC [B, inputs, *], e_BE [B, features] to [B, outputs, *]. Starts near its shortcut."""

    def __init__(self, dims: int, inputs: int, outputs: int, features: int):
        super().__init__()
        self.first = nn.Sequential(
            _norm(inputs), nn.SiLU(), Conv["conv", dims](inputs, outputs, kernel_size=3, padding=1)
        )
        self.shift = nn.Linear(features, outputs)
        self.second = nn.Sequential(
            _norm(outputs), nn.SiLU(), _zero(Conv["conv", dims](outputs, outputs, kernel_size=3, padding=1))
        )
        same = inputs == outputs
        self.shortcut = nn.Identity() if same else Conv["conv", dims](inputs, outputs, kernel_size=1)

    def forward(self, x_BC: Tensor, e_BE: Tensor) -> Tensor:
        shift_BC = self.shift(e_BE)
        h_BC = self.first(x_BC) + shift_BC.view(*shift_BC.shape, *(1 for _ in x_BC.shape[2:]))
        shortcut_BC: Tensor = self.shortcut(x_BC)
        return shortcut_BC + self.second(h_BC)


def waves(value_B: Tensor) -> Tensor:
    """Sines and cosines of a number of size about 1, [B, 2 WAVES], from slow to fast."""
    frequency_W = torch.exp(torch.linspace(math.log(0.5), math.log(16.0), WAVES, device=value_B.device))
    angle_BW = value_B[:, None] * frequency_W
    return torch.cat([angle_BW.cos(), angle_BW.sin()], dim=1)


def to_depth(x_BC: Tensor) -> Tensor:
    """[B, C, *2s] to [B, C 2^dims, *s]: the voxels of each little block as channels."""
    dims = x_BC.ndim - 2
    for axis in range(2, 2 + dims):
        x_BC = x_BC.unflatten(axis, (x_BC.shape[axis] // 2, 2)).movedim(axis + 1, 1).flatten(1, 2)
    return x_BC


def to_space(h_BC: Tensor, channels: int) -> Tensor:
    """[B, C 2^dims, *s] to [B, C, *2s]: the inverse of ``to_depth``."""
    for axis in reversed(range(2, h_BC.ndim)):
        h_BC = h_BC.unflatten(1, (2, h_BC.shape[1] // 2)).movedim(1, axis + 1).flatten(axis, axis + 1)
    assert h_BC.shape[1] == channels
    return h_BC


def _halved(h_BC: Tensor) -> Tensor:
    return F.avg_pool2d(h_BC, 2) if h_BC.ndim == 4 else F.avg_pool3d(h_BC, 2)


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(max(1, channels // 8), channels)


def _zero(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
