"""The spaces that distances are measured in. A space is fitted to nothing but the synthetic images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.decomposition import PCA

from imgsynth.measure.encoders import Encoder
from imgsynth.types import Fault, InputError

NAMES = ("raw", "pca", "encoder")
PCA_COMPONENTS = 40

Embed = Callable[[np.ndarray], np.ndarray]  # images [N, 1, *spatial] to vectors [N, D]


def flat(x_NC: np.ndarray) -> np.ndarray:
    return x_NC.reshape(len(x_NC), -1)


def fit_space(name: str, synthetic_NC: np.ndarray, encoder: Encoder) -> Embed:
    """The embedding ``name``: voxels, principal components of the synthetic images, or the encoder's features.

    PCA fitted to members would make members special and leak by the auditor's own hand.
    """
    if name == "raw":
        return flat
    if name == "encoder":
        return encoder.encode
    if name == "pca":
        components = min(PCA_COMPONENTS, len(synthetic_NC) - 1, flat(synthetic_NC).shape[1])
        pca = PCA(components, svd_solver="randomized", random_state=0).fit(flat(synthetic_NC))
        return lambda x_NC: pca.transform(flat(x_NC))
    raise InputError(Fault("audit.spaces", repr(name), f"some of {', '.join(NAMES)}", "audit.spaces=[raw,pca,encoder]"))
