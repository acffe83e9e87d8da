"""The classifiers of the utility test. Their settings are fixed: nothing is tuned on the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn

from imgsynth.measure import small_cnn
from imgsynth.measure.encoders import Encoder
from imgsynth.measure.small_cnn import SmallCNN, SmallResNet, probabilities, shrunk, train


class Classifier(ABC):
    """``seen`` is what it sees of images, computed once for all trainings; ``scores`` trains on that of some images and
    returns class probabilities [M, classes] for others. ``like``: what is trained in steps takes as many as for so many
    images, so that two trainings differ in what they were shown and not in how long. ``settings``: all that decides
    what the same images teach, for what is kept."""

    name: str
    encoder: str | None
    seeds: int  # how many trainings ``scores`` can tell apart; 1 for a deterministic fit

    @abstractmethod
    def seen(self, x_NC: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def scores(
        self, seen_N: np.ndarray, y_N: np.ndarray, seen_M: np.ndarray, classes: int, seed: int, like: int | None = None
    ) -> np.ndarray: ...  # fmt: skip

    @property
    @abstractmethod
    def settings(self) -> str: ...


class OnFeatures(Classifier):
    """One of scikit-learn's on an encoder's features, classes weighted equally."""

    def __init__(self, encoder: Encoder, seeds: int = 1):
        self._encoder, self.encoder, self.seeds = encoder, encoder.name, seeds

    def seen(self, x_NC: np.ndarray) -> np.ndarray:
        return self._encoder.encode(x_NC)

    @abstractmethod
    def unfitted(self, seed: int) -> Any: ...

    def fitted(self, seen_N: np.ndarray, y_N: np.ndarray, seed: int) -> Any:
        return self.unfitted(seed).fit(seen_N, y_N)

    @property
    def settings(self) -> str:
        return str(self.unfitted(0))

    def scores(
        self, seen_N: np.ndarray, y_N: np.ndarray, seen_M: np.ndarray, classes: int, seed: int, like: int | None = None
    ) -> np.ndarray:  # fmt: skip
        fit = self.fitted(seen_N, y_N, seed)
        assert list(fit.classes_) == list(range(classes))
        found: np.ndarray = fit.predict_proba(seen_M)
        return found


class LinearProbe(OnFeatures):
    """Logistic regression on standardised features. The fit has no randomness."""

    name = "logistic_regression"

    def unfitted(self, seed: int) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, class_weight="balanced"))


class Boosted(OnFeatures):
    """Gradient-boosted trees (Friedman 2001). Each seed draws other features for its splits.

    With exact splits: histograms, faster with many images of few features, take 50 times as long on hundreds of images
    of thousands of features."""

    name = "gradient_boosting"

    def unfitted(self, seed: int) -> Any:
        return GradientBoostingClassifier(
            n_estimators=60, max_leaf_nodes=8, max_features=0.1, min_samples_leaf=5, random_state=seed
        )

    def fitted(self, seen_N: np.ndarray, y_N: np.ndarray, seed: int) -> Any:
        return self.unfitted(seed).fit(seen_N, y_N, compute_sample_weight("balanced", y_N))


class Network(Classifier):
    """A network of ``measure``, trained anew for each seed."""

    encoder = None
    make: type[SmallCNN] | type[SmallResNet]

    def __init__(self, seeds: int):
        self.seeds = seeds

    def seen(self, x_NC: np.ndarray) -> np.ndarray:
        return shrunk(x_NC).numpy()

    @property
    def settings(self) -> str:
        names = ("CHANNELS", "STEPS", "EPOCHS", "MOST_STEPS", "BATCH", "MOST", "LEARNING_RATE", "LONGEST")
        return str([(name, getattr(small_cnn, name)) for name in names])

    def fitted(
        self, seen_N: np.ndarray, y_N: np.ndarray, classes: int, seed: int, like: int | None = None
    ) -> nn.Module:
        """The trained network: what is ``seen`` to logits."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return train(self.make(seen_N.ndim - 2, classes), seen_N, y_N, classes, like)

    def scores(
        self, seen_N: np.ndarray, y_N: np.ndarray, seen_M: np.ndarray, classes: int, seed: int, like: int | None = None
    ) -> np.ndarray:  # fmt: skip
        return probabilities(self.fitted(seen_N, y_N, classes, seed, like), seen_M)


class ConvolutionalNetwork(Network):
    name = "small_cnn"
    make = SmallCNN


class ResidualNetwork(Network):
    name = "resnet"
    make = SmallResNet
