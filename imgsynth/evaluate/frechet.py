"""Fréchet distance between Gaussians fitted to features (Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500).

d² = ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½). It is an "FID" only on all features of Inception-v3: ``fid.py``.
"""

from __future__ import annotations

import numpy as np

from imgsynth.evaluate.metric import Comparison, Interval, Measurement, require
from imgsynth.evaluate.side import Side
from imgsynth.measure.resampling import bootstrap_weights, recentred_interval

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


def gaussian(side: Side, weights_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and covariance [D, D] (divisor n − 1) when patient p counts ``weights_P[p]`` times.

    Of sums of x xᵀ around the plain mean, so that no digits are lost where features are far from 0.
    """
    w_N = weights_P[side.owner_N]
    total = w_N.sum()
    centre = side.x_ND.mean(0, dtype=np.float64)
    x_ND = side.x_ND - centre
    moved = w_N @ x_ND / total
    return centre + moved, ((x_ND * w_N[:, None]).T @ x_ND - total * np.outer(moved, moved)) / (total - 1)


def distance_of(a: Side, b: Side) -> float:
    return frechet_squared(*gaussian(a, np.ones(a.n_patients)), *gaussian(b, np.ones(b.n_patients)))


def resampled(a: Side, b: Side, replicates: int, random: np.random.Generator) -> np.ndarray:
    """[R] d² where the patients of both sides are resampled."""
    weights = (bootstrap_weights(side.n_patients, replicates, random) for side in (a, b))
    return np.array([frechet_squared(*gaussian(a, w), *gaussian(b, v)) for w, v in zip(*weights, strict=True)])


def frechet_with_interval(a: Side, b: Side, replicates: int, random: np.random.Generator) -> Interval:
    """d² and its interval."""
    value = distance_of(a, b)
    low, high = recentred_interval(value, resampled(a, b, replicates, random))
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


def projection_for(c: Comparison, features: int) -> np.ndarray:
    """[D, d] for ``features`` and the patients there are. Raises NotDone where they carry too few dimensions."""
    dimensions = dimensions_for(c.smallest, features)
    require(
        dimensions >= MIN_DIMENSIONS,
        f"{c.smallest} patients on the smallest side; a covariance in {MIN_DIMENSIONS} dimensions takes "
        f"{MIN_DIMENSIONS * PATIENTS_PER_DIMENSION}",
    )
    return random_projection(features, dimensions)


def frechet_distance(c: Comparison) -> Measurement:
    """d² between synthetic and test features, floor between train and test, in as many dimensions as n allows.

    The statistic is biased upward by small samples, so synthetic and train get the same number of patients.
    """
    full = c.test_features.shape[1]
    projection = projection_for(c, full)
    synthetic, train, test = (side.seen_by(projection) for side in c.matched())
    return Measurement.of(
        c,
        "frechet_distance",
        frechet_with_interval(synthetic, test, c.bootstrap, c.random()),
        frechet_with_interval(train, test, c.bootstrap, c.random()),
        c.n,
        f"squared; not an FID ({'features projected' if c.encoder.standard_fid else 'not Inception'}); {full} "
        f"features by a fixed random projection to {projection.shape[1]}, the most that {c.smallest} patients carry; "
        "compare only at the same encoder and dimensions",
    )
