"""The spaces that distances are measured in. A space is fitted to nothing but the synthetic images.

raw: voxels. pca: the first principal components of the synthetic images. ssim: 1 − structural similarity at a coarse
scale. encoder: features of the configured encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from imgsynth.audit import ssim
from imgsynth.measure.distances import centred, distances
from imgsynth.measure.encoders import Encoder
from imgsynth.measure.images import Images
from imgsynth.types import Fault, InputError

NAMES = ("raw", "pca", "ssim", "encoder")
PCA_COMPONENTS = 40
PCA_IMAGES = 512  # that principal components are found from

Embed = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Space:
    """``embed``: images [N, 1, *spatial] to what ``distances`` compares: [N, …] and [M, …] to [N, M] float32."""

    embed: Embed
    distances: Callable[[np.ndarray, np.ndarray], np.ndarray] = distances


def flat(x_NC: np.ndarray) -> np.ndarray:
    return x_NC.reshape(len(x_NC), -1)


def fit_space(name: str, samples: Images, encoder: Encoder) -> Space:
    """The space ``name``. Only pca looks at ``samples``, at PCA_IMAGES of them, evenly spaced.

    PCA fitted to members would make members special and leak by the auditor's own hand.
    """
    if name == "raw":
        return Space(flat)
    if name == "pca":
        return Space(principal_components(flat(samples.select(evenly(len(samples))).x_NC), PCA_COMPONENTS))
    if name == "ssim":
        return Space(ssim.coarse, ssim.dissimilarities)
    if name == "encoder":
        return Space(encoder.encode)
    raise InputError(Fault("audit space", repr(name), f"one of {', '.join(NAMES)}", "nearest_neighbour/raw"))


def evenly(n: int) -> np.ndarray:
    """Indices of PCA_IMAGES out of ``n``, evenly spaced; of all where there are no more."""
    return np.unique(np.linspace(0, n - 1, min(PCA_IMAGES, n)).round().astype(int))


def principal_components(x_ND: np.ndarray, components: int) -> Embed:
    """Projection [N, …] to [N, components] on principal axes of ``x_ND``, by way of its Gram matrix [N, N].

    N images have no more than N − 1 axes, and D may be a quarter of a million. Axes without variance are left out.
    """
    mean_D = x_ND.mean(0, dtype=np.float64).astype(np.float32)
    x_ND = centred(x_ND, mean_D)
    values, vectors = np.linalg.eigh((x_ND @ x_ND.T).astype(np.float64))
    order = np.argsort(values)[::-1][: min(components, len(x_ND) - 1, x_ND.shape[1])]
    order = order[values[order] > 1e-6 * values[-1]]
    axes_DK = x_ND.T @ (vectors[:, order] / np.sqrt(values[order])).astype(np.float32)

    def project(x_NC: np.ndarray, batch: int = 256) -> np.ndarray:
        out_NK = np.empty((len(x_NC), axes_DK.shape[1]), dtype=np.float32)
        held_nD = np.empty((min(batch, len(x_NC)), len(mean_D)), dtype=np.float32)
        for i in range(0, len(x_NC), batch):
            out_NK[i : i + batch] = centred(flat(x_NC[i : i + batch]), mean_D, held_nD) @ axes_DK
        return out_NK

    return project
