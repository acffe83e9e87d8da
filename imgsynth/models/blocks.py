"""What both convolutional models are made of: a pyramid of grids, labels as vectors, blocks that halve or double.

No normalisation over the batch, nothing in place, no buffer that changes: every layer treats an image by itself, so
that ``torch.func`` can take per-patient gradients through it (privacy contract, point 5).
"""

from __future__ import annotations

import math

import torch
from monai.networks.layers import Act, Conv, Norm, Pad, Pool
from torch import Tensor, nn

from imgsynth.types import Fault, InputError

SLOPE = 0.2  # of every LeakyReLU, left of zero
SMALLEST_AXIS = 4  # voxels: below this a 3-voxel kernel sees mostly padding


def pyramid(shape: tuple[int, ...], levels: int | None = None) -> list[tuple[int, ...]]:
    """The grids from ``shape`` down, each half of the one before along every axis.

    Args:
        shape: voxels along two or three axes.
        levels: how often to halve; ``None``: as long as every axis is even and stays at ``SMALLEST_AXIS`` or more.

    Raises:
        InputError: not two or three axes; the shape cannot be halved once, or not ``levels`` times.
    """
    if len(shape) not in (2, 3):
        raise InputError(Fault("preprocess.shape", f"{list(shape)}", "two or three axes", "[64, 64] or [32, 32, 32]"))
    grids = [tuple(int(side) for side in shape)]
    while all(side % 2 == 0 and side // 2 >= SMALLEST_AXIS for side in grids[-1]) and len(grids) - 1 != levels:
        grids.append(tuple(side // 2 for side in grids[-1]))
    halvings = len(grids) - 1
    if halvings == 0 or (levels is not None and halvings != levels):
        unit = 2 ** (levels or 2)
        near = [max(SMALLEST_AXIS * unit, -(-side // unit) * unit) for side in shape]
        raise InputError(
            Fault(
                "preprocess.shape",
                f"{list(shape)}, which can be halved {halvings} times",
                f"axes that are even, and at least {SMALLEST_AXIS} voxels after halving {levels or 'at least 1'} times",
                f"preprocess.shape={near}",
            )
        )
    return grids


def widths(channels: int, widest: int, grids: list[tuple[int, ...]]) -> list[int]:
    """Channels on each grid below the finest: ``channels``, doubled at each further halving, at most ``widest``."""
    return [min(channels * 2**level, widest) for level in range(len(grids) - 1)]


def voxels(grid: tuple[int, ...]) -> int:
    """How many voxels the grid has."""
    return math.prod(grid)


def one_hot(y_B: Tensor, classes: int) -> Tensor:
    """Class indices [B] as vectors [B, classes]; written as a comparison, which ``torch.func.vmap`` can batch."""
    return (y_B[:, None] == torch.arange(classes, device=y_B.device)).to(torch.get_default_dtype())


def halve(dims: int, inputs: int, outputs: int) -> nn.Module:
    """A strided convolution and a LeakyReLU: [B, inputs, *2s] to [B, outputs, *s].

    Kernel 4, so that all voxels count alike. There is no norm to set the scale, so the weights do (He et al. 2015).
    """
    conv = Conv["conv", dims](inputs, outputs, kernel_size=4, stride=2, padding=1)
    nn.init.kaiming_normal_(conv.weight, a=SLOPE)
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, Act["leakyrelu"](negative_slope=SLOPE))


def double(dims: int, inputs: int, outputs: int) -> nn.Module:
    """Double the grid, convolve, normalise over groups of channels: [B, inputs, *s] to [B, outputs, *2s].

    Linear interpolation instead of a transposed convolution: no checkerboards (Odena, Dumoulin, Olah 2016).
    """
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear" if dims == 2 else "trilinear"),
        Conv["conv", dims](inputs, outputs, kernel_size=3, padding=1),
        Norm["group", dims](num_groups=max(1, outputs // 8), num_channels=outputs),
        Act["leakyrelu"](negative_slope=SLOPE),
    )


def to_image(dims: int, inputs: int, outputs: int = 1) -> nn.Module:
    """The last doubling, to the channels of an image: [B, inputs, *s] to [B, outputs, *2s].

    A transposed convolution, because convolutions on the full grid would take most of a step's time. Its output is
    averaged with its neighbours (weights 1 2 1 along each axis), which takes away the checkerboard of period two that
    noisy weights would leave in every image (blur pooling, Zhang 2019, arXiv:1904.11486).
    """
    conv = Conv["convtrans", dims](inputs, outputs, kernel_size=4, stride=2, padding=1)
    average = Pool["avg", dims](kernel_size=2, stride=1)
    return nn.Sequential(conv, Pad["replicationpad", dims](1), average, average)


def in_range(h_BC: Tensor) -> Tensor:
    """What a network says of an image and its mask, [B, 1 + m, *], brought to [-1, 1].

    The image is tanh of the first channel. The others are logits of the m structures beside that of the background,
    which is 0: a voxel belongs to one of them or to none. Their channels are 2 p - 1, p the structure's probability, on
    the scale on which a real mask is 1 inside a structure and -1 outside.
    """
    image_BC = torch.tanh(h_BC[:, :1])
    if h_BC.shape[1] == 1:
        return image_BC
    p_BC = torch.softmax(torch.cat([torch.zeros_like(image_BC), h_BC[:, 1:]], dim=1), dim=1)
    return torch.cat([image_BC, 2 * p_BC[:, 1:] - 1], dim=1)
