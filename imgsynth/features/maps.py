"""Images to feature maps of several layers, through which a gradient can pass.

Shape legend: B images, C channels, * spatial axes, L layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgsynth.features.networks import constants, efficientnet_lite, folded, random_convolutions
from imgsynth.types import Fault, InputError

SIDE = 96  # pixels to which small planes are enlarged for EfficientNet-Lite0


class RandomMaps(nn.Module):
    """x_BC [B, 1, *shape] to the maps [B, C, *] of each of the random convolutions."""

    def __init__(self, dims: int, seed: int):
        super().__init__()
        self.layers = constants(nn.ModuleList(random_convolutions(dims, seed)))

    def forward(self, x_BC: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.layers.children():
            x_BC = F.leaky_relu(layer(x_BC), 0.2)
            maps.append(x_BC)
        return maps


class LiteMaps(nn.Module):
    """x_BC [B, 1, *shape] to maps of EfficientNet-Lite0: those before each halving of the grid, and the last.

    Of a volume, three planes along each axis are seen, at a quarter, a half and three quarters (2.5D); each map's
    channels are those of all planes of an axis, one after another.
    """

    def __init__(self, dims: int, where: str = "model.encoder"):
        super().__init__()
        self.dims = dims
        self.network = constants(folded(efficientnet_lite(where)))

    def forward(self, x_BC: Tensor) -> list[Tensor]:
        if self.dims == 2:
            return self._plane_maps(x_BC)
        maps = []
        for axis in (2, 3, 4):
            at = [x_BC.shape[axis] * quarter // 4 for quarter in (1, 2, 3)]
            planes = torch.cat([x_BC.select(axis, place) for place in at])
            maps += [torch.cat(m.chunk(3), dim=1) for m in self._plane_maps(planes)]
        return maps

    def _plane_maps(self, x_BC: Tensor) -> list[Tensor]:
        net, side = self.network, max(SIDE, *x_BC.shape[2:])
        x_BC = F.interpolate(x_BC, size=(side, side), mode="bilinear", antialias=True).expand(-1, 3, -1, -1)
        h_BC = net._swish(net._bn0(net._conv_stem(x_BC)))  # type: ignore[operator]
        maps = []
        for block in net._blocks:  # type: ignore[union-attr]
            after_BC = block(h_BC)
            if after_BC.shape[2:] != h_BC.shape[2:]:
                maps.append(h_BC)
            h_BC = after_BC
        return [*maps, h_BC]


def feature_maps(name: str, dims: int, seed: int, where: str = "model.encoder") -> nn.Module:
    """The network ``name`` as a map from images to lists of feature maps; ``seed`` is that of random_conv.

    Raises InputError about the setting ``where`` for an unknown name, or a package that is not installed.
    """
    if name == "random_conv":
        return RandomMaps(dims, seed)
    if name == "efficientnet_lite":
        return LiteMaps(dims, where)
    raise InputError(Fault(where, repr(name), "one of random_conv, efficientnet_lite", f"{where}=random_conv"))
