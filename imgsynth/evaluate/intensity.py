"""Intensities: histograms in the grid's unit, and the 1-Wasserstein distance between them."""

from __future__ import annotations

from typing import Any

import numpy as np

from imgsynth.evaluate.metric import Comparison, Measurement, distance_of_means
from imgsynth.measure.images import Images, in_blocks
from imgsynth.measure.resampling import sum_by_patient
from imgsynth.types import Grid

BINS = 256
MIN_PATIENTS = 5


def histograms(images: Images) -> np.ndarray:
    """[P, BINS] voxel counts of each patient over [-1, 1], values outside counted in the end bins."""
    counts_NB = in_blocks(_counts, images.x_NC)
    return sum_by_patient(counts_NB, images.owner_N, images.n_patients)


def _counts(x_NC: np.ndarray) -> np.ndarray:
    bins_NV = ((np.clip(x_NC, -1, 1) + 1) / 2 * BINS).astype(np.int64).clip(0, BINS - 1).reshape(len(x_NC), -1)
    return np.array([np.bincount(row, minlength=BINS) for row in bins_NV]).reshape(-1, BINS)


def wasserstein(a_RB: np.ndarray, b_RB: np.ndarray) -> np.ndarray:
    """[R] area between the cumulative distributions of binned counts, in bins: W₁ up to one bin width."""
    cdf_a = np.cumsum(a_RB, 1) / a_RB.sum(1, keepdims=True)
    cdf_b = np.cumsum(b_RB, 1) / b_RB.sum(1, keepdims=True)
    return np.abs(cdf_a - cdf_b).sum(1)


def intensity_distance(c: Comparison) -> Measurement:
    """W₁ between the voxel intensities of synthetic and test patients; floor between train and test."""
    c.require_patients(MIN_PATIENTS)
    width = (c.grid.high - c.grid.low) / BINS
    synthetic, train, test = (histograms(images) for images in c.matched_images())
    result, floor = (
        distance_of_means(side, test, lambda a, b: wasserstein(a, b) * width, c.bootstrap, c.random())
        for side in (synthetic, train)
    )
    note = f"of all voxels, binned to {width:.3g} {c.grid.unit}"
    return Measurement.of(c, "intensity_wasserstein", result, floor, c.n, note, unit=c.grid.unit, on_voxels=True)


def histogram_json(test: Images, synthetic: Images, grid: Grid) -> dict[str, Any]:
    """Shares of voxels per bin, for a plot: {"unit", "edges" [B+1], "real" [B], "synthetic" [B]}."""

    def share(images: Images) -> list[float]:
        total_B = histograms(images).sum(0)
        return (total_B / total_B.sum()).tolist()

    edges = np.linspace(grid.low, grid.high, BINS + 1).tolist()
    return {"unit": grid.unit, "edges": edges, "real": share(test), "synthetic": share(synthetic)}
