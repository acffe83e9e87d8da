"""Intensities: histograms in the grid's unit, and the 1-Wasserstein distance between them."""

from __future__ import annotations

from typing import Any

import numpy as np

from imgsynth.evaluate.metric import Comparison, Interval, Measurement, require
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import bootstrap_weights, recentred_interval, sum_by_patient
from imgsynth.types import Grid

BINS = 256
MIN_PATIENTS = 5


def histograms(images: Images) -> np.ndarray:
    """[P, BINS] voxel counts of each patient over [-1, 1], values outside counted in the end bins."""
    bins_NV = ((np.clip(images.x_NC, -1, 1) + 1) / 2 * BINS).astype(np.int64).clip(0, BINS - 1).reshape(len(images), -1)
    counts_NB = np.stack([np.bincount(row, minlength=BINS) for row in bins_NV])
    return sum_by_patient(counts_NB, images.owner_N, images.n_patients)


def wasserstein(a_RB: np.ndarray, b_RB: np.ndarray, bin_width: float) -> np.ndarray:
    """[R] area between the cumulative distributions of binned counts: W₁ up to one bin width."""
    cdf_a = np.cumsum(a_RB, 1) / a_RB.sum(1, keepdims=True)
    cdf_b = np.cumsum(b_RB, 1) / b_RB.sum(1, keepdims=True)
    return np.abs(cdf_a - cdf_b).sum(1) * bin_width


def wasserstein_with_interval(
    a_PB: np.ndarray, b_QB: np.ndarray, bin_width: float, replicates: int, random: np.random.Generator
) -> Interval:
    value = float(wasserstein(a_PB.sum(0, keepdims=True), b_QB.sum(0, keepdims=True), bin_width)[0])
    resampled_a = bootstrap_weights(len(a_PB), replicates, random) @ a_PB
    resampled_b = bootstrap_weights(len(b_QB), replicates, random) @ b_QB
    low, high = recentred_interval(value, wasserstein(resampled_a, resampled_b, bin_width))
    return Interval(value, max(low, 0.0), high)


def intensity_distance(c: Comparison) -> Measurement:
    """W₁ between the voxel intensities of synthetic and test patients; floor between train and test."""
    n = min(c.train.n_patients, len(c.synthetic))
    smallest = min(n, c.test.n_patients)
    require(smallest >= MIN_PATIENTS, f"{smallest} patients on the smallest side; it takes {MIN_PATIENTS}")
    width = (c.grid.high - c.grid.low) / BINS
    test, synthetic = histograms(c.test), histograms(c.synthetic.select(np.arange(n)))
    train = histograms(c.train.draw_patients(n, c.random()))
    result = wasserstein_with_interval(synthetic, test, width, c.bootstrap, c.random())
    return Measurement(
        name="intensity_wasserstein",
        value=result.value,
        low=result.low,
        high=result.high,
        floor=wasserstein_with_interval(train, test, width, c.bootstrap, c.random()),
        unit=c.grid.unit,
        better="lower",
        n_real=c.test.n_patients,
        n_synthetic=n,
        encoder=None,
        note=f"of all voxels, binned to {width:.3g} {c.grid.unit}",
    )


def histogram_json(test: Images, synthetic: Images, grid: Grid) -> dict[str, Any]:
    """Shares of voxels per bin, for a plot: {"unit", "edges" [B+1], "real" [B], "synthetic" [B]}."""

    def share(images: Images) -> list[float]:
        total_B = histograms(images).sum(0)
        return (total_B / total_B.sum()).tolist()

    edges = np.linspace(grid.low, grid.high, BINS + 1).tolist()
    return {"unit": grid.unit, "edges": edges, "real": share(test), "synthetic": share(synthetic)}
