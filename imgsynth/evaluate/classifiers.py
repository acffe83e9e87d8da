"""The classifiers of the utility test. Their settings are fixed: nothing is tuned on the data."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from imgsynth.measure.encoders import Encoder
from imgsynth.measure.small_cnn import SmallCNN, SmallResNet, shrunk, train


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


class Boosted(Classifier):
    """Gradient-boosted trees on encoder features (Friedman 2001; scikit-learn's histogram form), classes weighted
    equally. Each seed draws other features for its splits."""

    name = "gradient_boosting"

    def __init__(self, encoder: Encoder, seeds: int):
        self.encoder = encoder.name
        self.encode = encoder.encode
        self.seeds = seeds

    def scores(self, x_NC: np.ndarray, y_N: np.ndarray, x_MC: np.ndarray, classes: int, seed: int) -> np.ndarray:
        fit = HistGradientBoostingClassifier(
            max_iter=60, max_leaf_nodes=8, max_features=0.1, min_samples_leaf=5, class_weight="balanced",
            early_stopping=False, random_state=seed,
        )  # fmt: skip
        fit.fit(self.encode(x_NC), y_N)
        assert list(fit.classes_) == list(range(classes))
        return fit.predict_proba(self.encode(x_MC))


class Network(Classifier):
    """A network of ``measure``, trained anew for each seed."""

    encoder = None
    make: type[SmallCNN] | type[SmallResNet]

    def __init__(self, seeds: int):
        self.seeds = seeds

    def scores(self, x_NC: np.ndarray, y_N: np.ndarray, x_MC: np.ndarray, classes: int, seed: int) -> np.ndarray:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = train(self.make(x_NC.ndim - 2, classes), x_NC, y_N, classes)
        with torch.inference_mode():
            return torch.cat([network(part).softmax(1) for part in shrunk(x_MC).split(64)]).numpy()


class ConvolutionalNetwork(Network):
    name = "small_cnn"
    make = SmallCNN


class ResidualNetwork(Network):
    name = "resnet"
    make = SmallResNet
