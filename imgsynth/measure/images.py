"""Images with their labels and patients: what every measurement is computed on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Shape legend: N images, P patients, C = 1 channel, M structures of a mask, * the two or three spatial axes.

HALF_FROM = 1 << 28  # voxels in a set of synthetic images; from 1 GiB on it is stored in half precision


AT_ONCE = 1 << 22  # values of images that are worked on at once


def in_blocks(of_images: Callable[[np.ndarray], np.ndarray], x_NC: np.ndarray) -> np.ndarray:
    """``of_images(x_NC)``, which says something of each image alone, a few images at a time and in single precision."""
    size = max(1, AT_ONCE // max(1, math.prod(x_NC.shape[1:])))
    first = of_images(x_NC[:size].astype(np.float32, copy=False))
    out = np.empty((len(x_NC), *first.shape[1:]), dtype=first.dtype)
    out[:size] = first
    for i in range(size, len(x_NC), size):
        out[i : i + size] = of_images(x_NC[i : i + size].astype(np.float32, copy=False))
    return out


def stored_as(n: int, shape: tuple[int, ...]) -> type:
    """The precision of ``n`` synthetic images: half of that of single images where they would take 1 GiB or more.

    Half precision rounds values in [-1, 1] by 2⁻¹² at most, a sixth of one HU in a window of 1,400 HU.
    """
    return np.float16 if n * math.prod(shape) >= HALF_FROM else np.float32


@dataclass(frozen=True, eq=False)
class Images:
    """``x_NC`` [N, 1, *spatial] in [-1, 1]; ``y_N`` class indices; ``patients_N`` whose image each one is.

    ``masks_NM`` [N, m, *spatial] are their masks where the run has them, on the scale of ``types.PatientBatch``; else
    None. Measurements are of the images, unless they say that they look at masks.

    Single precision, or half where there are many synthetic images (``stored_as``).
    A synthetic image counts as a patient of its own: given the generator, the samples are independent.
    """

    x_NC: np.ndarray
    y_N: np.ndarray
    patients_N: np.ndarray
    masks_NM: np.ndarray | None = None

    @staticmethod
    def of(whole_NC: np.ndarray, y_N: np.ndarray, patients_N: np.ndarray) -> Images:
        """From images [N, 1 + m, *spatial] with their masks as further channels."""
        return Images(whole_NC[:, :1], y_N, patients_N, whole_NC[:, 1:] if whole_NC.shape[1] > 1 else None)

    @property
    def whole_NC(self) -> np.ndarray:
        """[N, 1 + m, *spatial]: what the model was trained on, and makes."""
        return self.x_NC if self.masks_NM is None else np.concatenate([self.x_NC, self.masks_NM], axis=1)

    def __post_init__(self) -> None:
        if not len(self.x_NC) == len(self.y_N) == len(self.patients_N):
            raise ValueError(
                f"Expected as many labels and patients as images, got {len(self.x_NC)} images, {len(self.y_N)} labels "
                f"and {len(self.patients_N)} patients."
            )

    def __len__(self) -> int:
        return len(self.x_NC)

    @property
    def names_P(self) -> np.ndarray:
        """The patients, sorted; index p below means ``names_P[p]``."""
        return np.unique(self.patients_N)

    @property
    def owner_N(self) -> np.ndarray:
        """Index of each image's patient in ``names_P``."""
        return np.unique(self.patients_N, return_inverse=True)[1]

    @property
    def n_patients(self) -> int:
        return len(self.names_P)

    def select(self, keep_N: np.ndarray | slice) -> Images:
        """The images that an index array, a mask or a slice picks; a slice copies nothing."""
        masks = None if self.masks_NM is None else self.masks_NM[keep_N]
        return Images(self.x_NC[keep_N], self.y_N[keep_N], self.patients_N[keep_N], masks)

    def of_patients(self, names: np.ndarray) -> Images:
        """All images of the patients in ``names``."""
        return self.select(np.isin(self.patients_N, names))

    def draw_patients(self, n: int, random: np.random.Generator) -> Images:
        """All images of ``n`` patients drawn without replacement (of all of them when there are no more than ``n``)."""
        return self if n >= self.n_patients else self.select(self.drawn(n, random))

    def drawn(self, n: int, random: np.random.Generator) -> np.ndarray:
        """[N] which images ``draw_patients`` takes."""
        names = self.names_P
        return np.isin(self.patients_N, names if n >= len(names) else random.choice(names, n, replace=False))

    def with_images(self, x_NC: np.ndarray) -> Images:
        return Images(x_NC, self.y_N, self.patients_N, self.masks_NM)


def synthetic_images(whole_NC: np.ndarray, y_N: np.ndarray) -> Images:
    """Generated images [N, 1 + m, *spatial], each of them its own patient."""
    return Images.of(whole_NC, y_N, np.array([f"synthetic-{i:06d}" for i in range(len(whole_NC))]))
