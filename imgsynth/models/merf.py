"""DP-MERF: a generator that matches a noised mean of random Fourier features, in 2D and 3D.

Harder, Adamczewski and Park 2021, "DP-MERF: Differentially Private Mean Embeddings with Random Features for Practical
Privacy-Preserving Data Generation" (arXiv:2002.11603); features as in Rahimi and Recht 2007. Patients are seen once, by
one noised sum; the generator then learns from that sum for as long as it likes.

Symbols: those of ``moments.py``, and
    ω_F    frequencies, N(0, 1/ℓ²), drawn from a public seed      ℓ   length scale of the Gaussian kernel
    φ(x)   (cos ω·x, sin ω·x) / √F, of length 1; φ(x)·φ(x') estimates exp(-‖x - x'‖² / 2ℓ²)

Unlike the paper: several length scales at once, a share of every class from the same noised sum, an estimate of the
loss that does not reward a generator for repeating itself (``moments.matching_loss``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from monai.networks.layers import Pool
from torch import Tensor, nn

from imgsynth.models.base import GenerativeModel, Objective, PostProcessing, Private
from imgsynth.models.moments import Generator, MeanEmbedding, generator_of, post_processing_loss
from imgsynth.models.white_box import LatentMap, WhiteBox

FREQUENCIES, LENGTH_SCALES = 4000, (0.15, 0.3, 0.6)
VOXELS = 4096  # an image is averaged down to fewer before its features are taken: 64², 16³


class FourierFeatures(nn.Module):
    """φ: x_BC [B, 1 + structures, *shape] to [B, 2 F], of length 1.

    ``length_scales`` are in units of the square root of the number of voxels, in all channels, so that they mean the
    same difference of intensity per voxel on every grid; each has an equal part of the ``frequencies``. Public: a
    function of the grid and ``seed`` alone.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        frequencies: int = FREQUENCIES,
        length_scales: Sequence[float] = LENGTH_SCALES,
        seed: int = 0,
        structures: int = 0,
    ):
        super().__init__()
        factor = 1
        while math.prod(max(1, side // factor) for side in shape) > VOXELS:
            factor += 1
        self.grid = tuple(max(1, side // factor) for side in shape)
        self.pool = Pool["adaptiveavg", len(shape)](self.grid)
        size = (1 + structures) * math.prod(self.grid)
        random = torch.Generator().manual_seed(seed)
        omega_FD = torch.randn(frequencies, size, generator=random)
        scale_F = torch.tensor([length_scales[f % len(length_scales)] for f in range(frequencies)])
        self.register_buffer("omega_FD", omega_FD / (scale_F[:, None] * math.sqrt(size)), persistent=False)
        self.width = 2 * frequencies

    def forward(self, x_BC: Tensor) -> Tensor:
        angle_BF = self.pool(x_BC).flatten(1) @ self.get_buffer("omega_FD").T
        return torch.cat([angle_BF.cos(), angle_BF.sin()], dim=1) * math.sqrt(2 / self.width)


class MERF(GenerativeModel):
    """A generator that matches one noised mean embedding by random Fourier features.

    Args:
        shape: voxels along two or three axes, each of which can be halved.
        classes: number of public classes, at least 1.
        latent: dimensions of z that set what is in the image; its texture has one more for every voxel.
        channels: of the generator on the grid after the first halving; doubled at each further one.
        widest: the most channels of the generator on any grid.
        frequencies: F; more of them estimate the kernel better and do not add noise to it.
        length_scales: ℓ of the kernels that are averaged, in units of √voxels with intensities in [-1, 1].
        images: generated images that one step of the generator takes.
        seed: of the frequencies; public.
        structures: of the mask that each image comes with.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        latent: int = 16,
        channels: int = 16,
        widest: int = 64,
        frequencies: int = FREQUENCIES,
        length_scales: Sequence[float] = LENGTH_SCALES,
        images: int = 200,
        seed: int = 0,
        structures: int = 0,
    ):
        super().__init__()
        self.shape, self.classes, self.images, self.structures = tuple(shape), classes, images, structures
        features = FourierFeatures(self.shape, frequencies, length_scales, seed, structures)
        self.embedding = MeanEmbedding(features, features.width, classes)
        self.G = Generator(self.shape, classes, latent, channels, widest, structures)

    def objectives(self) -> Sequence[Objective]:
        return [
            Private("mean_embedding", self.embedding, aux=lambda n, random: (), rounds=1),
            PostProcessing(
                "generator", self.G, loss=post_processing_loss(self.embedding, self.G.made), images=self.images
            ),
        ]

    @property
    def generator(self) -> nn.Module:
        return self.G

    def begin_with(self, state: Mapping[str, Tensor]) -> None:
        self.G.load_state_dict(generator_of(state))

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        return self.G(self.G.draw(len(y_B), random).to(y_B.device), y_B)

    def white_box(self) -> WhiteBox:
        return WhiteBox(latent=LatentMap(self.G.inputs, self.G), released=self.embedding.score)
