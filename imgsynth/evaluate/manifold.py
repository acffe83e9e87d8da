"""Are samples like real images, and are all real images covered.

Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020,
arXiv:2002.09797), on an encoder's features.

A side's manifold is the union of balls around its images that reach to the image's k-th nearest neighbour *of another
patient*: two images of one patient would shrink their balls. With one image a patient these are the published
definitions. Distances are worked through a block of rows at a time and only counts are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from imgsynth.evaluate.metric import Comparison, Interval, Measurement
from imgsynth.evaluate.side import Side
from imgsynth.measure.distances import distances
from imgsynth.measure.resampling import bootstrap_weights, percentile_interval, sum_by_patient

NEIGHBOURS = 5  # Naeem et al.'s default
MIN_PATIENTS = 20


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Which images are in whose balls, counted for each image of two sides, ``real`` and ``other``."""

    real: Side
    other: Side
    balls_M: np.ndarray  # of real images, that each other image is in
    covered_N: np.ndarray  # whether each real image's ball has another side's image in it
    recalled_N: np.ndarray  # whether each real image is in a ball of the other side

    @staticmethod
    def of(real: Side, other: Side, radius_N: np.ndarray | None = None) -> Neighbours:
        """``radius_N``: the radii of ``real``, where they are known."""
        radius_N, radius_M = radii(real) if radius_N is None else radius_N, radii(other)
        balls_M = np.zeros(len(other), dtype=np.int64)
        covered_N, recalled_N = np.zeros((2, len(real)), dtype=bool)
        for rows in real.blocks(len(other)):
            between_nM = distances(real.x_ND[rows], other.x_ND)
            in_real_nM = between_nM < radius_N[rows, None]
            balls_M += in_real_nM.sum(0)
            covered_N[rows] = in_real_nM.any(1)
            recalled_N[rows] = (between_nM < radius_M[None, :]).any(1)
        return Neighbours(real, other, balls_M, covered_N, recalled_N)

    def of_images(self, name: str) -> tuple[np.ndarray, Side]:
        """A number for each image, whose mean is the metric ``name``, and the images: precision and density are means
        over the other side, recall and coverage over real images."""
        if name == "precision":
            return (self.balls_M > 0).astype(float), self.other
        if name == "recall":
            return self.recalled_N.astype(float), self.real
        if name == "density":
            return self.balls_M / NEIGHBOURS, self.other
        assert name == "coverage"
        return self.covered_N.astype(float), self.real


def radii(side: Side) -> np.ndarray:
    """[N] distance of each image to its NEIGHBOURS-th nearest image of another patient; infinite without so many."""
    radius_N = np.empty(len(side), dtype=np.float32)
    for rows in side.blocks(len(side)):
        within_nN = distances(side.x_ND[rows], side.x_ND)
        within_nN[side.owner_N[rows, None] == side.owner_N[None, :]] = np.inf
        radius_N[rows] = np.partition(within_nN, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]
    return radius_N


def neighbours(c: Comparison) -> tuple[Neighbours, Neighbours]:
    """Of the samples, and of as many train patients, each with the test images as the real side.

    Raises NotDone with fewer than MIN_PATIENTS on a side.
    """
    c.require_patients(MIN_PATIENTS)

    def compute() -> tuple[Neighbours, Neighbours]:
        synthetic, train, test = c.matched()
        radius_N = radii(test)
        return Neighbours.of(test, synthetic, radius_N), Neighbours.of(test, train, radius_N)

    return c.once("neighbours", compute)


def mean_with_interval(values_N: np.ndarray, side: Side, replicates: int, random: np.random.Generator) -> Interval:
    """The mean over images; its interval resamples patients, both manifolds being taken as they are."""
    sums_P = sum_by_patient(values_N, side.owner_N, side.n_patients)
    count_P = np.bincount(side.owner_N, minlength=side.n_patients)
    w_RP = bootstrap_weights(side.n_patients, replicates, random)
    low, high = percentile_interval((w_RP @ sums_P) / (w_RP @ count_P))
    return Interval(float(values_N.mean()), low, high)


NOTES = {
    "precision": "share of samples that are within the real images' neighbourhoods: are samples like real images",
    "recall": "share of test images within the samples' neighbourhoods: could the generator have made them",
    "density": "like precision, counting the neighbourhoods a sample is in, so that outliers count less; 1 is usual",
    "coverage": "share of test images with a sample in their neighbourhood: which kinds of images are missing",
}


def manifold_metric(name: str) -> Callable[[Comparison], Measurement]:
    """The metric ``name`` of NOTES; its floor is that of as many train patients against the test patients."""

    def metric(c: Comparison) -> Measurement:
        result, floor = (mean_with_interval(*one.of_images(name), c.bootstrap, c.random()) for one in neighbours(c))
        note = f"{NOTES[name]}; k = {NEIGHBOURS}; depends on both sides' sizes, so compare with the floor"
        return Measurement.of(c, name, result, floor, c.n, note, better="higher")

    return metric
