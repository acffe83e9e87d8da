"""Synthesizers for the controls: an innocent one that cannot know the members, and ones that copy them on purpose."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from imgsynth.measure.images import Images, stored_as, synthetic_images

VOXELS = 1 << 20  # blended or noised at once: what a cache holds


class Patched(Images):
    """``base`` with the images at ``spots_K`` replaced by ``patches_KC``; the whole is made only if it is asked for."""

    def __init__(self, base: Images, spots_K: np.ndarray, patches_KC: np.ndarray):
        for name, value in {
            "base": base,
            "spots_K": spots_K,
            "patches_KC": patches_KC.astype(base.x_NC.dtype, copy=False),
            "y_N": base.y_N,
            "patients_N": base.patients_N,
        }.items():
            object.__setattr__(self, name, value)

    base: Images
    spots_K: np.ndarray
    patches_KC: np.ndarray

    @cached_property
    def x_NC(self) -> np.ndarray:
        x_NC = self.base.x_NC.copy()
        x_NC[self.spots_K] = self.patches_KC
        return x_NC

    def __len__(self) -> int:
        return len(self.base)

    def select(self, keep_N: np.ndarray | slice) -> Images:
        kept = np.arange(len(self))[keep_N]
        patch_N = np.full(len(self), -1)
        patch_N[self.spots_K] = np.arange(len(self.spots_K))
        x_NC, patch = self.base.x_NC[kept], patch_N[kept]
        x_NC[patch >= 0] = self.patches_KC[patch[patch >= 0]]
        return Images(x_NC, self.y_N[kept], self.patients_N[kept])


def innocent(reference: Images, n: int, random: np.random.Generator) -> Images:
    """``n`` blends of two images of different ``reference`` patients, in a proportion drawn uniformly from [0, 1].

    They look like the cohort, some sharp and some blurred as a generator's are, and are a function of patients that
    are neither members nor tested. Takes two reference patients or more.
    """
    owner_N = reference.owner_N
    first_N = random.integers(len(reference), size=n)
    second_N = _of_others(owner_N, first_N, random)
    share_N = random.uniform(size=n).astype(np.float32).reshape(-1, *[1] * (reference.x_NC.ndim - 1))
    shape = reference.x_NC.shape[1:]
    x_NC = np.empty((n, *shape), dtype=stored_as(n, shape))
    for some in _blocks(n, shape):
        one, other = reference.x_NC[first_N[some]], reference.x_NC[second_N[some]]
        x_NC[some] = other + share_N[some] * (one - other)
    return synthetic_images(x_NC, reference.y_N[first_N])


def _of_others(owner_N: np.ndarray, first_N: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """For each image of ``first_N``, one image of another patient, uniformly."""
    second_N = random.integers(len(owner_N), size=len(first_N))
    while (same := owner_N[first_N] == owner_N[second_N]).any():
        second_N[same] = random.integers(len(owner_N), size=int(same.sum()))
    return second_N


def _blocks(n: int, shape: tuple[int, ...]) -> list[slice]:
    """Slices of ``n`` images of ``shape`` with about VOXELS in each."""
    step = max(1, VOXELS // math.prod(shape))
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def leaky(
    base: Images, members: Images, rate: float, noise: float, random: np.random.Generator
) -> tuple[Images, float]:
    """``base`` with a share ``rate`` of its images replaced by copies of members' images, distinct while they last.

    ``noise`` is the standard deviation of what is added to every voxel of a copy. Also returned: the share of the
    members of whom there is a copy.
    """
    n = round(rate * len(base))
    if not n:
        return base, 0.0
    rounds = [random.permutation(len(members)) for _ in range(-(-n // len(members)))]
    copied_K = np.concatenate(rounds)[:n]
    shape = members.x_NC.shape[1:]
    copies_KC = np.empty((n, *shape), dtype=base.x_NC.dtype)
    for some in _blocks(n, shape):
        part = members.x_NC[copied_K[some]]
        copies_KC[some] = part + noise * random.standard_normal(part.shape, dtype=np.float32) if noise else part
    share = len(np.unique(members.owner_N[copied_K])) / members.n_patients
    return Patched(base, random.choice(len(base), n, replace=False), copies_KC), share
