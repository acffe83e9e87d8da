"""Noised class means, by one private query, and images around them for a network to begin with, in 2D and 3D.

After DP-FETA (Gong et al. 2025, "From Easy to Hard: Building a Shortcut for Differentially Private Image Synthesis",
arXiv:2504.01395): what all images of a class have in common is cheap to learn in private, and a network that knows it
has less to learn under noise. The query is the mean over all patients of

    v(x, y) = (a e_y, b e_y ⊗ p(x) / √D),      a² + b² = 1,

p(x) the D means of the image over a coarse grid of cells, each in [-1, 1]; so |v| ≤ 1 whatever the image.

Unlike the paper: the shares of the classes are in the same sum, so that nothing is divided by a private count; the
noise in a mean, whose size is known, is taken out where it can be told apart; and images around a mean are made by
small movements of it, not by the augmentations of photographs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from monai.networks.layers import Pool
from torch import Tensor, nn

from imgsynth.models.blocks import one_hot

SHARE = 0.1  # of |v|²: the classes' shares, few numbers beside those of the means
CELLS = {2: 16, 3: 8}  # along each axis at most
STANDS_OUT = 3.0  # a class, or a wave of a mean, is believed where it is so many times its noise
TURN, MOVE, SIZE = 0.1, 0.1, 0.1  # of the movements: radians, half axes, shares; standard deviations
CONTRAST, BLOTCH, GRAIN = 0.1, 0.15, 0.05  # of intensities: as a share, smooth over the image, and in each voxel


class ClassMeans(nn.Module):
    """-<w, v(x, y)> of each image, [B]; ``w`` is what the query answers. ``mean_YC`` [classes, C, *cells] are the means
    that were made of it, 0 before."""

    mean_YC: Tensor

    def __init__(self, shape: tuple[int, ...], image_channels: int, classes: int):
        super().__init__()
        self.shape, self.classes = shape, classes
        self.cells = tuple(min(side, CELLS[len(shape)]) for side in shape)
        self.pool = Pool["adaptiveavg", len(shape)](self.cells)
        self.register_buffer("mean_YC", torch.zeros(classes, image_channels, *self.cells))
        self.size = image_channels * math.prod(self.cells)
        self.w = nn.Linear(classes * (1 + self.size), 1, bias=False).requires_grad_(False)

    def forward(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        return -self.w(self.vectors(x_BC, y_B))[:, 0]

    def vectors(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        """v [B, classes (1 + D)], of length 1 at most."""
        one_BY = one_hot(y_B, self.classes)
        p_BD = self.pool(x_BC).flatten(1).clamp(-1, 1) / math.sqrt(self.size)
        means_BD = (one_BY[:, :, None] * p_BD[:, None, :]).flatten(1)
        return torch.cat([math.sqrt(SHARE) * one_BY, math.sqrt(1 - SHARE) * means_BD], dim=1)

    @torch.no_grad()
    def fit(self, noise_std: float) -> None:
        """Make ``mean_YC`` of the answer; ``noise_std``: of the noise in each of its coordinates.

        What the classes share is the mean of all; of what a class has beside, only that which stands out. A class
        that is too rare has the mean of all. Where nothing stands out, means are 0, which is grey.
        """
        share_Y, sum_YD = self.w.weight[0].double().split([self.classes, self.classes * self.size])
        share_Y = share_Y / math.sqrt(SHARE)
        sum_YC = sum_YD.view(self.classes, *self.mean_YC.shape[1:]) * math.sqrt(self.size / (1 - SHARE))
        noise, noise_of_share = noise_std * math.sqrt(self.size / (1 - SHARE)), noise_std / math.sqrt(SHARE)
        total, all_noise = float(share_Y.sum()), noise * math.sqrt(self.classes)
        if total <= STANDS_OUT * noise_of_share * math.sqrt(self.classes):
            self.mean_YC.zero_()
            return
        common_C = what_stands_out(sum_YC.sum(0) / total, STANDS_OUT * all_noise / total)
        for y, share in enumerate(share_Y.tolist()):
            own_C = torch.zeros_like(common_C)
            if share > STANDS_OUT * noise_of_share:
                own_C = what_stands_out(sum_YC[y] / share - common_C, STANDS_OUT * noise / share)
            self.mean_YC[y] = (common_C + own_C).clamp(-1, 1)

    def around(self, n: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """n images [n, C, *shape] in [-1, 1] of random classes [n]: their means, each moved, turned, made larger or
        smaller, darker or brighter, and with blotches and grain."""
        dims, device = len(self.shape), random.device
        mode = "bilinear" if dims == 2 else "trilinear"
        y_B = torch.randint(self.classes, (n,), generator=random, device=device)
        mean_BC = F.interpolate(self.mean_YC[y_B], size=self.shape, mode=mode)
        turn_BDD = torch.randn(n, dims, dims, generator=random, device=device) * TURN
        size_B11 = 1 + SIZE * torch.randn(n, 1, 1, generator=random, device=device)
        matrix_BDD = torch.linalg.matrix_exp(turn_BDD - turn_BDD.mT) * size_B11
        move_BD1 = torch.randn(n, dims, 1, generator=random, device=device) * MOVE
        grid = F.affine_grid(torch.cat([matrix_BDD, move_BD1], dim=2), list(mean_BC.shape), align_corners=False)
        moved_BC = F.grid_sample(mean_BC, grid, padding_mode="border", align_corners=False)
        scale_B = 1 + CONTRAST * torch.randn(n, *(1 for _ in mean_BC.shape[1:]), generator=random, device=device)
        coarse_BC = torch.randn(n, mean_BC.shape[1], *(4 for _ in self.shape), generator=random, device=device)
        blotch_BC = F.interpolate(coarse_BC, size=self.shape, mode=mode)
        grain_BC = torch.randn(mean_BC.shape, generator=random, device=device)
        return (moved_BC * scale_B + BLOTCH * blotch_BC + GRAIN * grain_BC).clamp(-1, 1), y_B


def what_stands_out(image_C: Tensor, threshold: float) -> Tensor:
    """[C, *] without those of its cosine waves whose coefficient is below ``threshold``.

    The transform is orthonormal: independent noise is as large in every coefficient as in every voxel, whereas the
    smooth part of an image is in few of them.
    """
    for axis in range(1, image_C.ndim):
        image_C = torch.tensordot(image_C, cosines(image_C.shape[axis]).to(image_C), ([axis], [1])).movedim(-1, axis)
    image_C = image_C * (image_C.abs() > threshold)
    for axis in range(1, image_C.ndim):
        image_C = torch.tensordot(image_C, cosines(image_C.shape[axis]).to(image_C), ([axis], [0])).movedim(-1, axis)
    return image_C


def cosines(n: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) [wave, place], float64."""
    place_N, wave_N1 = torch.arange(n, dtype=torch.float64), torch.arange(n, dtype=torch.float64)[:, None]
    matrix_NN = math.sqrt(2 / n) * torch.cos(math.pi / n * (place_N + 0.5) * wave_N1)
    matrix_NN[0] /= math.sqrt(2)
    return matrix_NN
