"""The FID itself: the Fréchet distance on all 2048 features of Inception-v3, where encoder and images are at hand.

With fewer images than features a covariance is singular, and the published habit is 10,000 or more (Heusel et al.
2017); below MIN_IMAGES it is refused.
"""

from __future__ import annotations

import numpy as np

from imgsynth.evaluate.frechet import distance_of, resampled
from imgsynth.evaluate.metric import Comparison, Interval, Measurement, require
from imgsynth.evaluate.side import Side

MIN_IMAGES = 4096  # on each side: two for each feature
REPLICATES = 10  # each takes two eigenvalue problems of 2048 × 2048


def fid_with_interval(a: Side, b: Side, random: np.random.Generator) -> Interval:
    """The distance, and ± 1.96 standard deviations of REPLICATES resamples of patients."""
    value = distance_of(a, b)
    half = 1.96 * float(np.std(resampled(a, b, REPLICATES, random), ddof=1))
    return Interval(value, max(value - half, 0.0), value + half)


def fid(c: Comparison) -> Measurement:
    """FID of samples and test images; floor between train and test images, in equal numbers."""
    require(c.encoder.standard_fid, f"{c.encoder.name} is not the network that FID stands for (encoder=inception, 2D)")
    n = min(len(c.train), len(c.synthetic))
    smallest = min(n, len(c.test))
    require(smallest >= MIN_IMAGES, f"{smallest} images on the smallest side; it takes {MIN_IMAGES}")
    test = Side.of(c.test_features, c.test.patients_N)
    synthetic = Side.of(c.synthetic_features[:n], c.synthetic.patients_N[:n])
    train = Side.of(c.train_features[:n], c.train.patients_N[:n])
    return Measurement.of(
        c,
        "fid",
        fid_with_interval(synthetic, test, c.random()),
        fid_with_interval(train, test, c.random()),
        n,
        f"all {test.x_ND.shape[1]} features; biased upward by small samples, as every FID is",
    )
