"""Small convolutional classifiers in two or three dimensions. Their training is fixed: nothing is tuned on the data."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = (1, 16, 32, 64)
BATCH, LEARNING_RATE = 32, 2e-3
STEPS, EPOCHS, MOST_STEPS = 120, 3, 600  # as many as EPOCHS of BATCH take, STEPS at least and MOST_STEPS at most
LONGEST = 64  # voxels: longer axes are averaged down
MOST = 1 << 21  # voxels in a batch: of 64³ it takes 8 volumes, up to 40³ all BATCH
AT_ONCE = 1 << 19  # voxels that go through a network at once: its activations then stay in the processor's caches


class SmallCNN(nn.Module):
    """Three convolutions of stride 2, GroupNorm, mean and maximum over space, one linear layer; 2D or 3D."""

    def __init__(self, dims: int, classes: int):
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        blocks = [
            nn.Sequential(conv(a, b, 3, stride=2, padding=1), nn.GroupNorm(4, b), nn.ReLU())
            for a, b in pairwise(CHANNELS)
        ]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(2 * CHANNELS[-1], classes)

    def pooled(self, x_BC: Tensor) -> Tensor:
        flat = self.features(x_BC).flatten(2)
        return torch.cat([flat.mean(-1), flat.amax(-1)], dim=1)

    def forward(self, x_BC: Tensor) -> Tensor:
        return self.head(self.pooled(x_BC))


class Block(nn.Module):
    """Two convolutions beside a 1×1 one (He et al. 2016, arXiv:1512.03385), with GroupNorm; the first has stride 2."""

    def __init__(self, dims: int, before: int, after: int):
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.first, self.norm1 = conv(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after)
        self.second, self.norm2 = conv(after, after, 3, padding=1), nn.GroupNorm(4, after)
        self.beside = conv(before, after, 1, stride=2)

    def forward(self, x_BC: Tensor) -> Tensor:
        h_BC = F.relu(self.norm1(self.first(x_BC)))
        return F.relu(self.norm2(self.second(h_BC)) + self.beside(x_BC))


class SmallResNet(nn.Module):
    """Three residual blocks, mean over space, one linear layer; 2D or 3D."""

    def __init__(self, dims: int, classes: int):
        super().__init__()
        self.blocks = nn.Sequential(*(Block(dims, a, b) for a, b in pairwise(CHANNELS)))
        self.head = nn.Linear(CHANNELS[-1], classes)

    def forward(self, x_BC: Tensor) -> Tensor:
        return self.head(self.blocks(x_BC).flatten(2).mean(-1))


def shrunk(x_NC: np.ndarray) -> Tensor:
    """Images with no axis over LONGEST voxels, in single precision."""
    return pooled(torch.from_numpy(np.ascontiguousarray(x_NC, dtype=np.float32)))


def pooled(x: Tensor) -> Tensor:
    """``shrunk`` of a tensor [B, C, *spatial], differentiable."""
    if max(x.shape[2:]) <= LONGEST:
        return x
    pool = nn.AdaptiveAvgPool2d if x.ndim == 4 else nn.AdaptiveAvgPool3d
    return pool(tuple(min(axis, LONGEST) for axis in x.shape[2:]))(x)


def probabilities(network: nn.Module, x_NC: np.ndarray) -> np.ndarray:
    """[N, classes] of images as ``shrunk`` gives them."""
    with torch.inference_mode():
        parts = torch.from_numpy(x_NC).split(_at_once(x_NC.shape))
        return torch.cat([network(part).softmax(1) for part in parts]).numpy()


def _at_once(shape: tuple[int, ...]) -> int:
    return max(1, AT_ONCE // math.prod(shape[2:]))


def steps_for(images: int) -> int:
    """Steps of training on so many images: a fixed number would leave a network that has thousands half taught."""
    return min(MOST_STEPS, max(STEPS, math.ceil(EPOCHS * images / BATCH)))


def train(network: nn.Module, x_NC: np.ndarray, y_N: np.ndarray, classes: int, like: int | None = None) -> nn.Module:
    """``network`` after ``steps_for`` its images of Adam on class-balanced batches of BATCH, fewer of large ones.

    ``like``: takes as many steps as for so many images, not for its own. Draws from torch's own generator. A batch goes
    through in parts, whose gradients are added up: the same step.
    """
    x, y = shrunk(x_NC), torch.from_numpy(y_N).long()
    batch = min(BATCH, MOST // math.prod(x.shape[2:]))
    adam = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    balance_N = 1.0 / torch.bincount(y, minlength=classes).float()[y]
    for _ in range(steps_for(len(x) if like is None else like)):
        pick = torch.multinomial(balance_N, batch, replacement=True)
        adam.zero_grad()
        for part in pick.split(_at_once(x.shape)):
            (F.cross_entropy(network(x[part]), y[part], reduction="sum") / batch).backward()
        adam.step()
    return network
