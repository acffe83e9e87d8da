"""The trivial generator: noised class means, and pixel noise around them. What does not beat it is not worth its ε.

Each patient adds one vector u = Σ_k w_k e_{y_k} ⊗ (a x_k/√V, b) over his images, of length at most 1 as x is in
[-1, 1]^V and a² + b² = 1. Their sum gets one Gaussian noise, at the whole ε of the run: the mean of a class is the
first part over the second. Samples are that mean and noise of a public size. Nothing is learned. Pairs of image and
mask are the same with the mask's channels in x (V counts them); the mask of a class is its smoothed mean one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from imgsynth.privacy.plan import PrivacyPlan, make_plan
from imgsynth.schema import PrivacyConfig

COUNT_SHARE = 0.3  # b, the part of the length that counts patients
PIXEL_NOISE = 0.2  # standard deviation around the mean, of intensities in [-1, 1]
SMOOTHED = 1.0  # voxels: standard deviation of the window over a mean mask, which takes specks of noise off


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """Noised means [K, C, *spatial] of images in [-1, 1], and of the channels of masks behind them where there are any.
    Those are as noisy as they came: cut off at ±1 before they are smoothed, background would be drawn towards 0."""

    mean_KC: np.ndarray

    def sample(self, y_N: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """[N, C, *spatial] of the classes ``y_N``: noise around the mean image, beside the class's one mask."""
        noise = random.standard_normal((len(y_N), 1, *self.mean_KC.shape[2:])).astype(np.float32)
        images_N1 = np.clip(self.mean_KC[y_N, :1] + PIXEL_NOISE * noise, -1, 1)
        widths = (0, 0, *[SMOOTHED] * (self.mean_KC.ndim - 2))
        masks_KM = np.clip(gaussian_filter(self.mean_KC[:, 1:], widths, mode="nearest"), -1, 1)
        return np.concatenate([images_N1, masks_KM[y_N]], axis=1)


def one_release(plan: PrivacyPlan) -> float:
    """σ of one noised sum over all patients at the ε and δ of ``plan``; 0 without privacy."""
    if plan.mode == "none" or not math.isfinite(plan.epsilon):
        return 0.0
    privacy = PrivacyConfig(epsilon=plan.epsilon, delta=plan.delta, sampling_rate=1.0, clipping_norm=1.0)
    alone = make_plan(privacy, n=plan.n, steps=1, images_per_patient=plan.images_per_patient, unit=plan.unit)
    return alone.noise_multiplier


def patient_vector(x_KC: np.ndarray, y_K: np.ndarray, classes: int) -> np.ndarray:
    """[classes, V + 1] u of a patient with the images ``x_KC`` of classes ``y_K``, equally weighted."""
    voxels = math.prod(x_KC.shape[1:])
    u = np.zeros((classes, voxels + 1))
    a, b = math.sqrt(1 - COUNT_SHARE**2), COUNT_SHARE
    for x_C, y in zip(x_KC, y_K, strict=True):
        u[y, :-1] += a * np.clip(x_C, -1, 1).ravel() / math.sqrt(voxels) / len(x_KC)
        u[y, -1] += b / len(x_KC)
    return u


def class_means(
    patients: Iterable[tuple[np.ndarray, np.ndarray]], shape: tuple[int, ...], classes: int, sigma: float,
    random: np.random.Generator,
) -> ClassMeans:  # fmt: skip
    """Noised means of the images of each patient (``x_KC`` [K, C, *spatial], ``y_K``); ``shape`` is [C, *spatial]. A
    class whose count does not stand out from its noise by three standard deviations is grey, and without a mask."""
    total = sum(
        (patient_vector(x_KC, y_K, classes) for x_KC, y_K in patients), np.zeros((classes, math.prod(shape) + 1))
    )
    noised = total + sigma * random.standard_normal(total.shape)
    count_K = noised[:, -1] / COUNT_SHARE
    known_K = count_K > max(3 * sigma / COUNT_SHARE, 0.5)
    scale = math.sqrt(math.prod(shape)) / math.sqrt(1 - COUNT_SHARE**2)
    mean_KV = scale * noised[:, :-1] / np.where(known_K, count_K, 1.0)[:, None]
    mean_KC = mean_KV.reshape(classes, *shape).astype(np.float32)
    mean_KC[~known_K, :1], mean_KC[~known_K, 1:] = 0.0, -1.0
    mean_KC[:, :1] = np.clip(mean_KC[:, :1], -1, 1)
    return ClassMeans(mean_KC)
