"""Are samples like real images, and are all real images covered.

Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020,
arXiv:2002.09797), on an encoder's features.

A side's manifold is the union of balls around its images that reach to the image's k-th nearest neighbour *of another
patient*: two images of one patient would shrink their balls. With one image a patient these are the published
definitions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from imgsynth.evaluate.metric import Comparison, Interval, Measurement, require
from imgsynth.measure.distances import distances
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import bootstrap_weights, percentile_interval, sum_by_patient

NEIGHBOURS = 5  # Naeem et al.'s default
MIN_PATIENTS = 20


@dataclass(frozen=True, eq=False)
class Balls:
    """For all pairs, whether image j of side b is within image i of side a's ball [N, M], and the reverse."""

    b_in_a_NM: np.ndarray
    a_in_b_NM: np.ndarray

    @staticmethod
    def of(a_ND: np.ndarray, a: Images, b_MD: np.ndarray, b: Images) -> Balls:
        between_NM = distances(a_ND, b_MD)
        radius_a_N, radius_b_M = radii(a_ND, a.owner_N), radii(b_MD, b.owner_N)
        return Balls(between_NM < radius_a_N[:, None], between_NM < radius_b_M[None, :])


def radii(x_ND: np.ndarray, owner_N: np.ndarray) -> np.ndarray:
    """[N] distance of each image to its NEIGHBOURS-th nearest image of another patient."""
    within_NN = distances(x_ND, x_ND)
    within_NN[owner_N[:, None] == owner_N[None, :]] = np.inf
    return np.partition(within_NN, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]


def of_images(name: str, real_synthetic: Balls) -> tuple[np.ndarray, bool]:
    """A number for each image, whose mean is the metric; and whether the images are the real side's (else the other's).

    Side a of ``real_synthetic`` is real. Precision and density are means over samples, recall and coverage over real
    images.
    """
    in_real_NM, in_synthetic_NM = real_synthetic.b_in_a_NM, real_synthetic.a_in_b_NM
    if name == "precision":
        return in_real_NM.any(0).astype(float), False
    if name == "recall":
        return in_synthetic_NM.any(1).astype(float), True
    if name == "density":
        return in_real_NM.sum(0) / NEIGHBOURS, False
    assert name == "coverage"
    return in_real_NM.any(1).astype(float), True


def mean_with_interval(values_N: np.ndarray, images: Images, replicates: int, random: np.random.Generator) -> Interval:
    """The mean over images; its interval resamples patients, both manifolds being taken as they are."""
    sums_P = sum_by_patient(values_N, images.owner_N, images.n_patients)
    count_P = sum_by_patient(np.ones(len(images)), images.owner_N, images.n_patients)
    w_RP = bootstrap_weights(images.n_patients, replicates, random)
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
        n = min(c.train.n_patients, len(c.synthetic))
        smallest = min(n, c.test.n_patients)
        require(smallest >= MIN_PATIENTS, f"{smallest} patients on the smallest side; it takes {MIN_PATIENTS}")
        keep = np.isin(c.train.patients_N, c.train.draw_patients(n, c.random()).names_P)
        sides = (
            (c.synthetic.select(np.arange(n)), c.synthetic_features[:n]),
            (c.train.select(keep), c.train_features[keep]),
        )
        found = []
        for other, features in sides:
            values_N, real = of_images(name, Balls.of(c.test_features, c.test, features, other))
            found.append(mean_with_interval(values_N, c.test if real else other, c.bootstrap, c.random()))
        return Measurement(
            name=name,
            value=found[0].value,
            low=found[0].low,
            high=found[0].high,
            floor=found[1],
            unit="",
            better="higher",
            n_real=c.test.n_patients,
            n_synthetic=n,
            encoder=c.encoder.name,
            note=f"{NOTES[name]}; k = {NEIGHBOURS}; depends on both sides' sizes, so compare with the floor",
        )

    return metric
