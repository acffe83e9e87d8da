"""Small real cohorts for the metrics: handwritten digits as images, ten images a "patient" or one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from imgsynth.measure.images import Images


@pytest.fixture(scope="session")
def digits() -> Images:
    """1,797 digits as [N, 1, 16, 16] in [-1, 1] (each pixel doubled), one image per patient."""
    x, y = load_digits(return_X_y=True)
    x_NC = (x.reshape(-1, 1, 8, 8) / 8.0 - 1.0).repeat(2, axis=2).repeat(2, axis=3).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(y))
    return Images(x_NC[order], y[order], np.array([f"p{i:04d}" for i in range(len(y))]))
