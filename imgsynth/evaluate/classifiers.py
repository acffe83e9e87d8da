"""The two classifiers of the utility test. Their settings are fixed: nothing is tuned on the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from imgsynth.measure.encoders import Encoder


class Classifier(ABC):
    """``scores`` trains on one set of images and returns class probabilities [M, classes] for another."""

    name: str
    encoder: str | None
    seeds: int  # how many trainings ``scores`` can tell apart; 1 for a deterministic fit

    @abstractmethod
    def scores(
        self, x_NC: np.ndarray, y_N: np.ndarray, x_MC: np.ndarray, classes: int, seed: int
    ) -> np.ndarray: ...  # fmt: skip


class LinearProbe(Classifier):
    """Logistic regression on standardised encoder features, classes weighted equally. The fit has no randomness."""

    name = "logistic_regression"
    seeds = 1

    def __init__(self, encoder: Encoder):
        self.encoder = encoder.name
        self.encode = encoder.encode

    def scores(self, x_NC: np.ndarray, y_N: np.ndarray, x_MC: np.ndarray, classes: int, seed: int) -> np.ndarray:
        fit = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, class_weight="balanced"))
        fit.fit(self.encode(x_NC), y_N)
        assert list(fit.classes_) == list(range(classes))
        return fit.predict_proba(self.encode(x_MC))


class SmallCNN(nn.Module):
    """Three convolutions of stride 2, GroupNorm, mean and maximum over space, one linear layer; 2D or 3D."""

    def __init__(self, dims: int, classes: int):
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        channels = (1, 16, 32, 64)
        blocks = [
            nn.Sequential(conv(a, b, 3, stride=2, padding=1), nn.GroupNorm(4, b), nn.ReLU())
            for a, b in pairwise(channels)
        ]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(2 * channels[-1], classes)

    def forward(self, x_BC: Tensor) -> Tensor:
        flat = self.features(x_BC).flatten(2)
        return self.head(torch.cat([flat.mean(-1), flat.amax(-1)], dim=1))


class ConvolutionalNetwork(Classifier):
    """SmallCNN, ``steps`` steps of Adam on class-balanced batches; axes over ``longest`` voxels are averaged down."""

    name = "small_cnn"
    encoder = None
    steps = 120
    batch = 32
    learning_rate = 2e-3
    longest = 64

    def __init__(self, seeds: int):
        self.seeds = seeds

    def scores(self, x_NC: np.ndarray, y_N: np.ndarray, x_MC: np.ndarray, classes: int, seed: int) -> np.ndarray:
        x_train, x_test = self._shrunk(x_NC), self._shrunk(x_MC)
        y_train = torch.from_numpy(y_N).long()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = SmallCNN(x_NC.ndim - 2, classes)
            adam = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
            balance_N = 1.0 / torch.bincount(y_train, minlength=classes).float()[y_train]
            for _ in range(self.steps):
                pick = torch.multinomial(balance_N, self.batch, replacement=True)
                loss = F.cross_entropy(network(x_train[pick]), y_train[pick])
                adam.zero_grad()
                loss.backward()
                adam.step()
        with torch.inference_mode():
            return torch.cat([network(part).softmax(1) for part in x_test.split(64)]).numpy()

    def _shrunk(self, x_NC: np.ndarray) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(x_NC, dtype=np.float32))
        pool = nn.AdaptiveAvgPool2d if x.ndim == 4 else nn.AdaptiveAvgPool3d
        return pool(tuple(min(axis, self.longest) for axis in x.shape[2:]))(x)
