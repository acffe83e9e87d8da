"""Fréchet distance between Gaussians fitted to features (Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500).

d² = ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½). It is an "FID" only on all features of Inception-v3: ``fid.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgsynth.evaluate.metric import Comparison, Interval, Measurement, require
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import bootstrap_weights, recentred_interval, sum_by_patient

PATIENTS_PER_DIMENSION = 5  # a d×d covariance from fewer than 5 d patients is mostly estimation error
MIN_DIMENSIONS = 4
MAX_DIMENSIONS = 128


def frechet_squared(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """d² of two Gaussians. tr (Σ₁Σ₂)^½ is taken as the sum of square roots of eigenvalues of Σ₁^½ Σ₂ Σ₁^½.

    That matrix is symmetric with the same spectrum as Σ₁Σ₂, so no complex root and no failure on singular input.
    """
    values, vectors = np.linalg.eigh(cov1)
    root1 = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root1 @ cov2 @ root1), 0, None)).sum()
    gap = mean1 - mean2
    return float(max(gap @ gap + np.trace(cov1) + np.trace(cov2) - 2 * cross, 0.0))


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over each patient's images, from which mean and covariance follow for any weighting of patients."""

    count_P: np.ndarray
    sum_PD: np.ndarray
    outer_PDD: np.ndarray

    @staticmethod
    def of(features_ND: np.ndarray, images: Images) -> Moments:
        owner_N, n = images.owner_N, images.n_patients
        outer_NDD = features_ND[:, :, None] * features_ND[:, None, :]
        return Moments(
            sum_by_patient(np.ones(len(features_ND)), owner_N, n),
            sum_by_patient(features_ND, owner_N, n),
            sum_by_patient(outer_NDD, owner_N, n),
        )

    def gaussian(self, weights_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean [D] and covariance [D, D] (divisor n − 1) when patient p counts ``weights_P[p]`` times."""
        count = weights_P @ self.count_P
        mean = weights_P @ self.sum_PD / count
        outer = np.tensordot(weights_P, self.outer_PDD, axes=1)
        return mean, (outer - count * np.outer(mean, mean)) / (count - 1)


def frechet_with_interval(a: Moments, b: Moments, replicates: int, random: np.random.Generator) -> Interval:
    """d² and its interval: the patients of both sides are resampled."""
    n_a, n_b = len(a.count_P), len(b.count_P)
    value = frechet_squared(*a.gaussian(np.ones(n_a)), *b.gaussian(np.ones(n_b)))
    weights = zip(bootstrap_weights(n_a, replicates, random), bootstrap_weights(n_b, replicates, random), strict=True)
    replicates_R = np.array([frechet_squared(*a.gaussian(w_a), *b.gaussian(w_b)) for w_a, w_b in weights])
    low, high = recentred_interval(value, replicates_R)
    return Interval(value, max(low, 0.0), high)


def dimensions_for(n_patients: int, features: int) -> int:
    """How many dimensions ``n_patients`` can carry: the largest power of two ≤ n/5, so that cohorts compare."""
    affordable = min(features, n_patients // PATIENTS_PER_DIMENSION, MAX_DIMENSIONS)
    return 1 << (affordable.bit_length() - 1) if affordable else 0


def random_projection(features: int, dimensions: int) -> np.ndarray:
    """[D, d] with orthonormal columns, the same for everybody: drawn once, from a fixed seed, looking at no data."""
    if dimensions == features:
        return np.eye(features)
    return np.linalg.qr(np.random.default_rng(20170626).standard_normal((features, dimensions)))[0]


def frechet_distance(c: Comparison) -> Measurement:
    """d² between synthetic and test features, floor between train and test, in as many dimensions as n allows.

    The statistic is biased upward by small samples, so synthetic and train get the same number of patients.
    """
    n = min(c.train.n_patients, c.synthetic.n_patients)
    smallest = min(n, c.test.n_patients)
    full = c.test_features.shape[1]
    dimensions = dimensions_for(smallest, full)
    require(
        dimensions >= MIN_DIMENSIONS,
        f"{smallest} patients on the smallest side; a covariance in {MIN_DIMENSIONS} dimensions takes "
        f"{MIN_DIMENSIONS * PATIENTS_PER_DIMENSION}",
    )
    projection = random_projection(full, dimensions)
    keep = np.isin(c.train.patients_N, c.train.draw_patients(n, c.random()).names_P)
    test = Moments.of(c.test_features @ projection, c.test)
    train = Moments.of(c.train_features[keep] @ projection, c.train.select(keep))
    synthetic = Moments.of(c.synthetic_features[:n] @ projection, c.synthetic.select(np.arange(n)))
    result = frechet_with_interval(synthetic, test, c.bootstrap, c.random())
    return Measurement(
        name="frechet_distance",
        value=result.value,
        low=result.low,
        high=result.high,
        floor=frechet_with_interval(train, test, c.bootstrap, c.random()),
        unit="",
        better="lower",
        n_real=c.test.n_patients,
        n_synthetic=n,
        encoder=c.encoder.name,
        note=f"squared; not an FID ({'features projected' if c.encoder.standard_fid else 'not Inception'}); {full} "
        f"features by a fixed random projection to {dimensions}, the most that {smallest} patients carry; compare only "
        "at the same encoder and dimensions",
    )
