"""A small convolutional classifier in two or three dimensions. Its training is fixed: nothing is tuned on the data."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = (1, 16, 32, 64)
STEPS, BATCH, LEARNING_RATE = 120, 32, 2e-3
LONGEST = 64  # voxels: longer axes are averaged down


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


def shrunk(x_NC: np.ndarray) -> Tensor:
    """Images with no axis over LONGEST voxels."""
    x = torch.from_numpy(np.ascontiguousarray(x_NC, dtype=np.float32))
    pool = nn.AdaptiveAvgPool2d if x.ndim == 4 else nn.AdaptiveAvgPool3d
    return pool(tuple(min(axis, LONGEST) for axis in x.shape[2:]))(x)


def train(network: nn.Module, x_NC: np.ndarray, y_N: np.ndarray, classes: int) -> nn.Module:
    """``network`` after STEPS steps of Adam on class-balanced batches. Draws from torch's own generator."""
    x, y = shrunk(x_NC), torch.from_numpy(y_N).long()
    adam = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    balance_N = 1.0 / torch.bincount(y, minlength=classes).float()[y]
    for _ in range(STEPS):
        pick = torch.multinomial(balance_N, BATCH, replacement=True)
        loss = F.cross_entropy(network(x[pick]), y[pick])
        adam.zero_grad()
        loss.backward()
        adam.step()
    return network
