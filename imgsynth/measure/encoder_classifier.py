"""Features of a classifier that was trained on the cohort's own training patients.

It sees what tells the classes of this cohort apart, which no public network may. It is a private-data output: what it
measures stays local, like everything in evaluation.json, and it is refused where members of the training set are to be
told from others, as it knows them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from imgsynth.measure.encoders import Encoder, TrainOn
from imgsynth.measure.kept import digest
from imgsynth.measure.small_cnn import SmallCNN, shrunk, train
from imgsynth.types import Fault, InputError


class CohortClassifier(Encoder):
    """The last features of ``network``, before its linear layer."""

    about = "trained without noise on the cohort's training patients: a private-data output"

    def __init__(self, dims: int, network: SmallCNN, seed: int, n: int):
        super().__init__()
        self.dims, self.network = dims, network
        weights = digest(*(weight.numpy() for weight in network.state_dict().values()))[:8]
        self.name = f"classifier-small_cnn-{dims}d-trained-on-{n}-private-images-seed{seed}-weights-{weights}"

    def _features(self, x_BC: Tensor) -> Tensor:
        return self.network.pooled(shrunk(x_BC.numpy()))


def trained(dims: int, seed: int, images: TrainOn | None) -> Encoder:
    """Train it. Raises InputError without images to train on, or where they are of one class."""
    if images is None:
        raise InputError(
            Fault("encoder.name", "classifier, which is trained on members of the training set",
                  "an encoder that does not know them", "encoder=efficientnet_lite")
        )  # fmt: skip
    x_NC, y_N, classes = images()
    if len(set(y_N.tolist())) < 2:
        raise InputError(
            Fault("encoder.name", "classifier, for training patients of one class", "two classes or more",
                  "encoder=efficientnet_lite")
        )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SmallCNN(dims, classes)
        train(network, x_NC, y_N, classes)
    return CohortClassifier(dims, network.eval(), seed, len(x_NC))
