"""A cohort of handwritten digits, each its own patient, and generators that leak as much as they are told to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.datasets import load_digits

from imgsynth.measure.images import Images, synthetic_images

Trial = Callable[..., tuple[Images, Images, Images]]


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 digits [N, 1, 8, 8] in [-1, 1] and their classes."""
    x, y = load_digits(return_X_y=True)
    return (x.reshape(-1, 1, 8, 8) / 8.0 - 1.0).astype(np.float32), y


@pytest.fixture(scope="session")
def trial(digits: tuple[np.ndarray, np.ndarray]) -> Trial:
    """(copy_share, seed, members, nonmembers, samples, noise) -> members, non-members and synthetic images.

    The honest part of the generator jitters digits of third persons, that are neither members nor non-members.
    """
    x, y = digits

    def make(
        copy_share: float, seed: int, members: int = 200, nonmembers: int = 200, samples: int = 2000, noise: float = 0.1
    ) -> tuple[Images, Images, Images]:
        random = np.random.default_rng(seed)
        order = random.permutation(len(y))
        inside, outside, others = np.split(order, [members, members + nonmembers])
        source = random.choice(others, samples)
        copied = random.random(samples) < copy_share
        source[copied] = random.choice(inside, int(copied.sum()))
        x_NC = x[source] + noise * random.standard_normal((samples, 1, 8, 8)).astype(np.float32)

        def people(index: np.ndarray) -> Images:
            return Images(x[index], y[index], np.array([f"p{i:05d}" for i in index]))

        return people(inside), people(outside), synthetic_images(x_NC, y[source])

    return make
