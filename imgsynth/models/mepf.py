"""DP-MEPF: a generator that matches noised first and second moments of a public network's features, in 2D and 3D.

Harder, Asadabadi, Sutherland and Park 2022, "Pre-trained Perceptual Features Improve Differentially Private Image
Generation" (arXiv:2205.12900), with both moments in one release. Patients are seen once, by one noised sum.

Symbols: those of ``moments.py``, and
    f_l(x)   the image itself (l = 0) and the maps of the layers of a public network, on a coarse grid of cells
    φ(x)     for every l the mean of f_l and the mean of f_l² in each cell, what a grey image has subtracted; each of
             these vectors bounded to length 1, all put together and divided by the root of their number

Unlike the paper: features keep their place in the image, coarsely; they are not brought to length 1 but bounded by it,
so that contrast is not lost; the image itself is one of the maps; the default network has random weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from monai.networks.layers import Pool
from torch import Tensor, nn

from imgsynth.features.maps import feature_maps
from imgsynth.models.base import GenerativeModel, Objective, PostProcessing, Private
from imgsynth.models.moments import Generator, MeanEmbedding, generator_of, post_processing_loss
from imgsynth.models.white_box import LatentMap, WhiteBox

CELLS = {2: (32, 8), 3: (16, 4)}  # along each axis at most, of the image and of the maps, in two and three dimensions
PUBLIC = 16  # random images that set how long a vector may be before it is bounded


class PerceptualFeatures(nn.Module):
    """φ: x_BC [B, 1, *shape] to [B, D], of length at most 1.

    A vector shorter than that of a median random image is scaled by a constant, a longer one to length 1. Public: a
    function of the grid, the network and ``seed`` alone.
    """

    def __init__(self, shape: tuple[int, ...], encoder: str, seed: int):
        super().__init__()
        self.maps = feature_maps(encoder, len(shape), seed)
        grey = torch.zeros(1, 1, *shape)
        with torch.no_grad():
            centres = self._moments(grey)
            public = self._moments(_smooth(PUBLIC, shape, seed))
        self.parts = len(centres)
        self.register_buffer("centre_1D", torch.cat(centres, dim=1), persistent=False)
        sizes = [(p - c).norm(dim=1).median() for p, c in zip(public, centres, strict=True)]
        self.register_buffer("size_L", torch.stack(sizes), persistent=False)
        self.width = self.get_buffer("centre_1D").shape[1]

    def forward(self, x_BC: Tensor) -> Tensor:
        moments = self._moments(x_BC)
        centres = self.get_buffer("centre_1D").split([m.shape[1] for m in moments], dim=1)
        bounded = [
            (moment - centre) / (moment - centre).norm(dim=1, keepdim=True).clamp(min=size)
            for moment, centre, size in zip(moments, centres, self.get_buffer("size_L").unbind(), strict=True)
        ]
        return torch.cat(bounded, dim=1) / math.sqrt(self.parts)

    def _moments(self, x_BC: Tensor) -> list[Tensor]:
        moments = []
        for level, f_BC in enumerate([x_BC, *self.maps(x_BC)]):
            cells = CELLS[f_BC.ndim - 2][min(level, 1)]
            moments += [_cell_means(f_BC, cells).flatten(1), _cell_means(f_BC.square(), cells).flatten(1)]
        return moments


def _cell_means(f_BC: Tensor, cells: int) -> Tensor:
    """Means over at most ``cells`` cells along each axis."""
    means: Tensor = Pool["adaptiveavg", f_BC.ndim - 2]([min(side, cells) for side in f_BC.shape[2:]])(f_BC)
    return means


def _smooth(n: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """n random images [n, 1, *shape] in [-1, 1], four waves along each axis."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, *(4 for _ in shape), generator=random) * 2 - 1
    return F.interpolate(coarse, size=shape, mode="bilinear" if len(shape) == 2 else "trilinear")


class MEPF(GenerativeModel):
    """A generator that matches noised moments of a public network's features.

    Args:
        shape: voxels along two or three axes, each of which can be halved.
        classes: number of public classes, at least 1.
        latent: dimensions of z that set what is in the image; its texture has one more for every voxel.
        channels: of the generator on the grid after the first halving; doubled at each further one.
        widest: the most channels of the generator on any grid.
        encoder: random_conv (random weights) | efficientnet_lite (ImageNet; planes of a volume).
        images: generated images that one step of the generator takes.
        seed: of the weights of random_conv and of the public images; public.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        latent: int = 16,
        channels: int = 16,
        widest: int = 64,
        encoder: str = "random_conv",
        images: int = 100,
        seed: int = 0,
    ):
        super().__init__()
        self.shape, self.classes, self.images = tuple(shape), classes, images
        self.G = Generator(self.shape, classes, latent, channels, widest)
        features = PerceptualFeatures(self.shape, encoder, seed)
        self.embedding = MeanEmbedding(features, features.width, classes)

    def objectives(self) -> Sequence[Objective]:
        return [
            Private("mean_embedding", self.embedding, aux=lambda n, random: (), rounds=1),
            PostProcessing(
                "generator", self.G, loss=post_processing_loss(self.embedding, self.G.made), images=self.images
            ),
        ]

    def begin_with(self, state: Mapping[str, Tensor]) -> None:
        self.G.load_state_dict(generator_of(state))

    @property
    def generator(self) -> nn.Module:
        return self.G

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        return self.G(self.G.draw(len(y_B), random).to(y_B.device), y_B)

    def white_box(self) -> WhiteBox:
        return WhiteBox(latent=LatentMap(self.G.inputs, self.G), released=self.embedding.score)
