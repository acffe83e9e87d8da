"""Every metric against another library's implementation, on the same features or voxels, to 1e-6.

What is tested against one elsewhere: precision, recall, density, coverage (``prdc``, test_manifold.py), AUC and
balanced accuracy (scikit-learn) and calibration error (torchmetrics, test_utility.py), AUC by subgroup
(test_subgroups.py).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_ms_ssim
from scipy.fft import fft, fftfreq
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from scipy.signal import periodogram
from scipy.stats import binned_statistic, wasserstein_distance
from skimage.metrics import structural_similarity
from skimage.transform import downscale_local_mean
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import brier_score_loss, mean_absolute_error, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import Tensor, nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from imgsynth.evaluate.classifiers import Classifier, LinearProbe
from imgsynth.evaluate.continuity import continuity, roughness
from imgsynth.evaluate.detect import halves, told_apart
from imgsynth.evaluate.diversity import WEIGHTS, ms_ssim, scales_for
from imgsynth.evaluate.fid import fid_with_interval
from imgsynth.evaluate.frechet import distance_of, frechet_distance, projection_for
from imgsynth.evaluate.intensity import BINS, intensity_distance
from imgsynth.evaluate.kid import kernel_distance
from imgsynth.evaluate.metric import Comparison
from imgsynth.evaluate.scores import brier
from imgsynth.evaluate.segmentation import dice
from imgsynth.evaluate.side import Side
from imgsynth.evaluate.slices import slice_frechet
from imgsynth.evaluate.spectrum import spectra, spectrum_distance
from imgsynth.evaluate.utility import _share_of, utility
from imgsynth.measure.encoders import Encoder, get_encoder
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.types import Grid

EXACT = 1e-6


class Voxels(Encoder):
    """The features of a volume are its voxels; it says that they are of three planes."""

    name, dims, planes = "voxels", 3, 3

    def _features(self, x_BC: Tensor) -> Tensor:
        return x_BC.flatten(1)


class Given(nn.Module):
    """Stands in torchmetrics for Inception: what comes in are the features."""

    def __init__(self, features: int):
        super().__init__()
        self.num_features = features

    def forward(self, x_ND: Tensor) -> Tensor:
        return x_ND


def sides(n: int, shape: tuple[int, ...]) -> Comparison:
    """As many train, test and synthetic images, one for each patient; the synthetic ones are smoother and brighter."""
    random = np.random.default_rng(0)
    train, test, made = random.normal(0, 0.3, (3, n, 1, *shape)).astype(np.float32)
    made = 0.6 * made + 0.4 * np.roll(made, 1, axis=-1) + 0.1
    y_N = np.arange(n) % 2
    who = [np.array([f"{side}{i:03d}" for i in range(n)]) for side in "ab"]
    dims = len(shape)
    grid = Grid(shape, (1.0,) * dims, "PL" if dims == 2 else "RAS", "CT", "HU", -1000.0, 600.0)
    real = (Images(x, y_N, names) for x, names in zip((train, test), who, strict=True))
    return Comparison(*real, synthetic_images(made, y_N), Voxels(), grid, 20, 0)


@pytest.fixture(scope="module")
def volumes() -> Comparison:
    return sides(40, (5, 6, 7))


def by_scipy(a_ND: np.ndarray, b_MD: np.ndarray) -> float:
    (m1, c1), (m2, c2) = ((x.mean(0), np.cov(x.T)) for x in (a_ND.astype(float), b_MD.astype(float)))
    return float(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * np.trace(sqrtm(c1 @ c2).real))


def test_frechet_distance_by_scipy(volumes: Comparison) -> None:
    c = volumes
    projection = projection_for(c, 210)
    a, b, t = (x @ projection for x in (c.synthetic_features, c.test_features, c.train_features))
    found = frechet_distance(c)
    assert found.value == pytest.approx(by_scipy(a, b), rel=EXACT)
    assert found.floor is not None and found.floor.value == pytest.approx(by_scipy(t, b), rel=EXACT)


def test_slice_frechet_distance_by_scipy_is_of_the_worst_plane(volumes: Comparison) -> None:
    c = volumes
    projection = projection_for(c, 70)
    planes = [slice(0, 70), slice(70, 140), slice(140, 210)]
    expected = [by_scipy(c.synthetic_features[:, p] @ projection, c.test_features[:, p] @ projection) for p in planes]
    assert slice_frechet(c).value == pytest.approx(max(expected), rel=EXACT)


def test_fid_by_torchmetrics() -> None:
    """All features, without projection."""
    a, b = np.random.default_rng(1).standard_normal((2, 120, 20))
    b += 0.4
    oracle = FrechetInceptionDistance(feature=Given(20), input_img_size=(20,)).set_dtype(torch.float64)
    oracle.update(torch.from_numpy(b), real=True)
    oracle.update(torch.from_numpy(a), real=False)
    mine, other = (Side.of(x, np.arange(120)) for x in (a, b))
    assert distance_of(mine, other) == pytest.approx(oracle.compute().item(), rel=EXACT)
    assert fid_with_interval(mine, other, np.random.default_rng(0)).value == distance_of(mine, other)


def test_kernel_distance_by_torchmetrics(volumes: Comparison) -> None:
    c = volumes
    oracle = KernelInceptionDistance(feature=Given(210), subsets=1, subset_size=40).set_dtype(torch.float64)
    oracle.update(torch.from_numpy(c.test_features).double(), real=True)
    oracle.update(torch.from_numpy(c.synthetic_features).double(), real=False)
    assert kernel_distance(c).value == pytest.approx(oracle.compute()[0].item(), rel=EXACT)


@pytest.mark.parametrize("shape", [(28, 28), (44, 47), (13, 12, 14)])
def test_ms_ssim_by_scikit_image_and_torchmetrics(shape: tuple[int, ...]) -> None:
    """The coarsest scale's similarity where the whole window fits, and the finer ones' contrast."""
    random = np.random.default_rng(2)
    a = np.tanh(random.normal(size=shape).cumsum(-1) / 4).astype(np.float32)
    b = np.clip(a + random.normal(0, 0.3, shape), -1, 1).astype(np.float32)
    weights = np.array(WEIGHTS[: scales_for(shape)])
    expected, left = 1.0, [x.astype(float) for x in (a, b)]
    for weight in weights[:-1] / weights.sum():
        contrast = multiscale_structural_similarity_index_measure(
            *(torch.from_numpy(x)[None, None] for x in left), data_range=2.0, betas=(1.0, 0.0), normalize="relu"
        )
        expected *= contrast.item() ** weight
        left = [downscale_local_mean(x[tuple(slice(n // 2 * 2) for n in x.shape)], (2,) * x.ndim) for x in left]
    _, full = structural_similarity(*left, data_range=2.0, gaussian_weights=True, sigma=1.5, full=True,
                                    use_sample_covariance=False)  # fmt: skip
    expected *= full[(slice(5, -5),) * len(shape)].mean() ** (weights[-1] / weights.sum())
    assert ms_ssim(a[None, None], b[None, None])[0] == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("shape", [(64, 70), (44, 47, 45)])
def test_ms_ssim_by_monai(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(3)
    a = gaussian_filter(random.normal(0, 2, (2, 1, *shape)), (0, 0, *[1.5] * len(shape))).clip(-1, 1)
    b = (a + random.normal(0, 0.2, a.shape)).clip(-1, 1)
    b[1] = -a[1]  # no structure in common: 0
    weights = np.array(WEIGHTS[: scales_for(shape)])
    assert len(weights) > 1
    pair = (torch.from_numpy(x).float() for x in (a, b))
    expected = compute_ms_ssim(*pair, len(shape), data_range=2.0, weights=(weights / weights.sum()).tolist())
    np.testing.assert_allclose(ms_ssim(a, b), expected[:, 0].numpy(), atol=EXACT)


def test_intensity_wasserstein_by_scipy(volumes: Comparison) -> None:
    """Of the same bins; against the voxels themselves it is within a bin (test_diversity_and_intensity.py)."""
    counts = [np.histogram(x.x_NC, BINS, (-1, 1))[0] for x in (volumes.synthetic, volumes.test)]
    outside = [((x.x_NC < -1).sum(), (x.x_NC > 1).sum()) for x in (volumes.synthetic, volumes.test)]
    for count, (low, high) in zip(counts, outside, strict=True):
        count[0] += low
        count[-1] += high
    centres = volumes.grid.low + (np.arange(BINS) + 0.5) * (volumes.grid.high - volumes.grid.low) / BINS
    expected = wasserstein_distance(centres, centres, *counts)
    assert intensity_distance(volumes).value == pytest.approx(expected, rel=EXACT)


def by_periodogram(x_ab: np.ndarray) -> np.ndarray:
    """Power in rings of width 1/n of spatial frequency, of a plane less its polynomial of second order."""
    a, b = x_ab.shape
    places = np.stack(np.meshgrid(np.arange(a), np.arange(b), indexing="ij"), -1).reshape(-1, 2)
    trend = make_pipeline(PolynomialFeatures(2), LinearRegression()).fit(places, x_ab.ravel().astype(float))
    left = x_ab - trend.predict(places).reshape(a, b)
    _, power = periodogram(fft(left, axis=0), detrend=False, return_onesided=False, scaling="spectrum", axis=1)
    radius = np.hypot(fftfreq(a)[:, None], fftfreq(b)[None, :]).ravel()
    n = min(a, b) // 2 * 2
    edges = np.arange(0, np.ceil(0.5**0.5 * n - 1e-9) - 1) / n + 1e-9  # the outermost two rings are one
    return binned_statistic(radius, (power * b / a).ravel(), "mean", [*edges, 1.0]).statistic


def test_noise_power_spectrum_by_scipy_and_scikit_learn() -> None:
    c = sides(20, (16, 13))
    means = []
    for images in (c.synthetic, c.test):
        expected = np.stack([by_periodogram(x[0]) for x in images.x_NC])
        np.testing.assert_allclose(spectra(images.x_NC[:, 0]), expected, rtol=EXACT)
        means.append(expected.mean(0))
    decibels = np.abs(10 * np.log10(means[0] / means[1])).mean()
    assert spectrum_distance(c).value == pytest.approx(decibels, rel=EXACT)


def test_through_plane_continuity_by_scikit_learn(volumes: Comparison) -> None:
    def rough(x: np.ndarray) -> np.ndarray:
        turned = (np.moveaxis(x.astype(float), axis, 0) for axis in range(3))
        steps = np.array([mean_absolute_error(one[1:].ravel(), one[:-1].ravel()) for one in turned])
        return steps / steps.mean()

    made, real = (np.stack([rough(x[0]) for x in side.x_NC]) for side in (volumes.synthetic, volumes.test))
    np.testing.assert_allclose(roughness(volumes.test.x_NC), real, rtol=EXACT)
    assert continuity(volumes).value == pytest.approx(np.abs(made.mean(0) - real.mean(0)).max(), abs=EXACT)


@pytest.mark.parametrize("classes", [2, 4])
def test_brier_score_by_scikit_learn(classes: int) -> None:
    """Over all classes: the sum of those of each against the rest, which in two is twice the usual one."""
    random = np.random.default_rng(3)
    y_N, p_NK = random.integers(0, classes, 90), random.dirichlet(np.ones(classes), 90)
    w_N = random.integers(0, 4, 90).astype(float)
    expected = sum(brier_score_loss(y_N == k, p_NK[:, k], sample_weight=w_N) for k in range(classes))
    assert brier(p_NK, y_N, w_N[None])[0] == pytest.approx(expected, rel=EXACT)


def test_dice_by_monai() -> None:
    random = np.random.default_rng(4)
    found, true = random.integers(0, 4, (2, 6, 5, 7, 4))
    found[0], true[0] = 0, 0  # no structure at all
    found[1][found[1] == 2] = 0
    masks = [torch.from_numpy(np.stack([x == k for k in (1, 2, 3)], axis=1)) for x in (found, true)]
    expected = compute_dice(*masks, include_background=True, ignore_empty=False)
    np.testing.assert_allclose(dice(found, true, 3), expected.numpy(), atol=EXACT)


class Brightness(Classifier):
    """Says that what is brighter than its training images' mean is of class 1."""

    name, encoder, seeds, settings = "brightness", None, 1, ""

    def seen(self, x_NC: np.ndarray) -> np.ndarray:
        return x_NC.mean(tuple(range(1, x_NC.ndim)))

    def scores(
        self, seen_N: np.ndarray, y_N: np.ndarray, seen_M: np.ndarray, classes: int, seed: int, like: int | None = None
    ) -> np.ndarray:  # fmt: skip
        return np.stack([-seen_M, seen_M - seen_N.mean()], axis=1)


def test_c2st_by_scikit_learn(volumes: Comparison) -> None:
    real, made = volumes.test, volumes.synthetic
    seen = np.concatenate([Brightness().seen(side.x_NC) for side in (real, made)])
    seen = (seen + np.random.default_rng(0).normal(0, 0.1, len(seen))).round(2)  # with ties
    found = told_apart(real, made, Brightness(), seen, 20, np.random.default_rng(5))["value"]
    random = np.random.default_rng(5)
    half_N = np.concatenate([halves(side, random) for side in (real, made)])
    label_N = np.repeat([0, 1], 40)
    expected = np.mean([roc_auc_score(label_N[half_N == h], seen[half_N == h]) for h in (0, 1)])
    assert 0.5 < expected < 1 and found == pytest.approx(expected, abs=EXACT)


def test_the_curve_of_few_patients_by_scikit_learn(digits: Images) -> None:
    three = digits.select(digits.y_N < 3)
    noise = np.random.default_rng(6).normal(0, 1.5, three.x_NC.shape).astype(np.float32)
    train, test, made = (three.with_images(three.x_NC + noise).select(p) for p in np.split(np.arange(450), [150, 300]))
    encoder = get_encoder("random_conv", 2, 0)
    (row,) = utility(train, test, made, [LinearProbe(encoder)], list("abc"), 10, 0, None, (0.2,))[0]["curve"]
    keep = _share_of(train, 0.2, 3, np.random.default_rng(0))
    assert keep is not None and 25 < keep.sum() < 40 and row["n_patients"] == keep.sum()
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, class_weight="balanced"))
    x, both = encoder.encode(train.x_NC)[keep], encoder.encode(made.x_NC)
    for name, seen, labels in (
        ("real", x, train.y_N[keep]),
        ("real_and_synthetic", np.concatenate([x, both]), np.r_[train.y_N[keep], made.y_N]),
    ):
        scores = oracle.fit(seen, labels).predict_proba(encoder.encode(test.x_NC))
        expected = roc_auc_score(test.y_N, scores, multi_class="ovr")
        assert row[name]["value"] == pytest.approx(expected, abs=EXACT), name
