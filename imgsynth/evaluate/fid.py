"""The FID itself: the Fréchet distance on all 2048 features of Inception-v3, where encoder and images are at hand.

With fewer images than features a covariance is singular, and the published habit is 10,000 or more (Heusel et al.
2017); below MIN_IMAGES it is refused.
"""

from __future__ import annotations

import numpy as np

from imgsynth.evaluate.frechet import frechet_squared
from imgsynth.evaluate.metric import Comparison, Interval, Measurement, require
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import bootstrap_weights

MIN_IMAGES = 4096  # on each side: two for each feature
REPLICATES = 10  # each takes two eigenvalue problems of 2048 × 2048


def weighted_gaussian(x_ND: np.ndarray, w_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance (divisor Σw − 1) when image i counts ``w_N[i]`` times."""
    total = w_N.sum()
    mean = w_N @ x_ND / total
    centred = x_ND - mean
    return mean, (centred * w_N[:, None]).T @ centred / (total - 1)


def fid_with_interval(
    a_ND: np.ndarray, a: Images, b_MD: np.ndarray, b: Images, random: np.random.Generator
) -> Interval:  # fmt: skip
    """The distance, and ± 1.96 standard deviations of REPLICATES resamples of patients."""
    value = frechet_squared(*weighted_gaussian(a_ND, np.ones(len(a))), *weighted_gaussian(b_MD, np.ones(len(b))))
    w_RP, v_RQ = (bootstrap_weights(side.n_patients, REPLICATES, random) for side in (a, b))
    found = [
        frechet_squared(*weighted_gaussian(a_ND, w_P[a.owner_N]), *weighted_gaussian(b_MD, v_Q[b.owner_N]))
        for w_P, v_Q in zip(w_RP, v_RQ, strict=True)
    ]
    half = 1.96 * float(np.std(found, ddof=1))
    return Interval(value, max(value - half, 0.0), value + half)


def fid(c: Comparison) -> Measurement:
    """FID of samples and test images; floor between train and test images, in equal numbers."""
    require(c.encoder.standard_fid, f"{c.encoder.name} is not the network that FID stands for (encoder=inception, 2D)")
    n = min(len(c.train), len(c.synthetic))
    smallest = min(n, len(c.test))
    require(smallest >= MIN_IMAGES, f"{smallest} images on the smallest side; it takes {MIN_IMAGES}")
    test = c.test_features.astype(np.float64)
    sides = ((c.synthetic, c.synthetic_features), (c.train, c.train_features))
    first = np.arange(n)
    result, floor = (
        fid_with_interval(features[:n].astype(np.float64), images.select(first), test, c.test, c.random())
        for images, features in sides
    )
    return Measurement(
        name="fid",
        value=result.value,
        low=result.low,
        high=result.high,
        floor=floor,
        unit="",
        better="lower",
        n_real=c.test.n_patients,
        n_synthetic=n,
        encoder=c.encoder.name,
        note=f"all {test.shape[1]} features; biased upward by small samples, as every FID is",
    )
