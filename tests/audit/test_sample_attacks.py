"""Attacks on samples, against loops and closed forms; copies are found, and nothing where there are none. 2D and 3D."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import gaussian_kde, multivariate_normal

from imgsynth.audit.attacks.attack import NotApplicable, Released, Tools
from imgsynth.audit.attacks.domias import KernelDensity
from imgsynth.audit.registry import NAMES, build
from imgsynth.audit.roc import auc
from imgsynth.audit.synthesizers import innocent, leaky
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images
from imgsynth.schema import AuditConfig

FAMILIES = (
    "nearest_neighbour",
    "calibrated_nearest_neighbour",
    "monte_carlo_median",
    "monte_carlo_percentile",
    "domias",
)
SAMPLE_ATTACKS = [name for name in NAMES if name.split("/")[0] in FAMILIES]


def tools(dims: int = 2) -> Tools:
    return Tools(get_encoder("random_conv", dims, 0), AuditConfig())


def cohort(
    patients: int, shape: tuple[int, ...], random: np.random.Generator, each: tuple[int, ...] = (1, 2, 3)
) -> Images:
    """Smooth blobs; a patient's images are noisy versions of one another; numbers of images differ."""
    axes = np.meshgrid(*[np.linspace(-1, 1, side) for side in shape], indexing="ij")
    x, names = [], []
    for p in range(patients):
        centre, width = random.uniform(-0.6, 0.6, len(shape)), random.uniform(0.1, 0.6)
        blob = 2 * np.exp(-sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)) / width) - 1
        name = f"p{random.integers(1 << 40):013d}"
        for _ in range(each[p % len(each)]):
            x.append(blob + 0.05 * random.standard_normal(shape))
            names.append(name)
    order = random.permutation(len(x))
    x_NC = np.stack(x)[order][:, None].astype(np.float32)
    return Images(x_NC, np.zeros(len(x), dtype=int), np.array(names)[order])


def by_patient(score_N: np.ndarray, images: Images) -> list[float]:
    return [max(score_N[images.patients_N == name]) for name in sorted(set(images.patients_N))]


@pytest.fixture
def parts() -> tuple[Images, Images, Images]:
    random = np.random.default_rng(0)
    patients, reference = cohort(6, (8, 8), random), cohort(9, (8, 8), random)
    samples = innocent(cohort(9, (8, 8), random), 400, random)
    samples = leaky(samples, reference.draw_patients(1, random), 0.01, 0.2, random)[0]
    return patients, reference, leaky(samples, patients.draw_patients(3, random), 0.02, 0.05, random)[0]


def flat(images: Images) -> np.ndarray:
    return images.x_NC.reshape(len(images), -1).astype(np.float64)


def naive(name: str, patients: Images, reference: Images, samples: Images) -> np.ndarray:
    to_samples, to_reference = cdist(flat(patients), flat(samples)), cdist(flat(patients), flat(reference))
    between = cdist(flat(reference), flat(samples))
    if name == "nearest_neighbour/raw":
        return -to_samples.min(1)
    if name == "calibrated_nearest_neighbour/raw":
        return to_reference.min(1) - to_samples.min(1)
    radius = np.median(between.min(1)) if "median" in name else np.quantile(between, 1e-3)
    return np.array([sum(d <= radius for d in row) / len(row) for row in to_samples])


@pytest.mark.parametrize("name", [n for n in SAMPLE_ATTACKS if n.endswith("/raw")])
def test_scores_are_those_of_a_loop(name: str, parts: tuple[Images, Images, Images]) -> None:
    patients, reference, samples = parts
    attack = build(name, tools())
    attack.prepare(Released(samples, reference))
    measured = attack.scores(patients)
    assert measured == pytest.approx(by_patient(naive(name, *parts), patients), rel=1e-3, abs=1e-5)
    assert len(set(measured)) > 1


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SAMPLE_ATTACKS)
def test_planted_copies_are_found_and_without_any_the_attack_is_silent(name: str, dims: int) -> None:
    random = np.random.default_rng(1)
    shape = (16, 16) if dims == 2 else (12, 12, 12)
    members, nonmembers, reference, others = (cohort(40, shape, random) for _ in range(4))
    base, attack = innocent(others, 400, random), build(name, tools(dims))
    areas = []
    for rate in (0.0, 0.5):
        attack.prepare(Released(leaky(base, members, rate, 0.0, random)[0], reference))
        areas.append(auc(attack.scores(members), attack.scores(nonmembers)))
    assert 0.3 < areas[0] < 0.7, "the interval of 40 against 40 patients is some 0.13 to either side"
    assert areas[1] > (0.8 if "domias" not in name else 0.68)


@pytest.mark.parametrize("name", [n for n in SAMPLE_ATTACKS if not n.startswith("nearest_neighbour")])
def test_without_reference_patients_there_is_no_calibration(name: str, parts: tuple[Images, Images, Images]) -> None:
    with pytest.raises(NotApplicable, match="reference"):
        build(name, tools()).prepare(Released(parts[2]))


def test_density_is_that_of_scipy() -> None:
    random = np.random.default_rng(0)
    data = random.standard_normal((200, 3)) @ np.array([[2.0, 0, 0], [0.5, 1, 0], [0, 0.3, 0.2]]) + 4
    x = np.concatenate([data[:10], random.standard_normal((10, 3)) + 4])
    np.testing.assert_allclose(KernelDensity(data).log_density(x), gaussian_kde(data.T).logpdf(x.T), atol=5e-3)


def test_density_ratio_of_two_gaussians_is_the_closed_form_of_their_smoothed_versions() -> None:
    """A kernel estimate of N(m, S) from n data has expectation N(m, (1 + h²) S)."""
    random = np.random.default_rng(0)
    d, n = 3, 20_000
    shapes = np.diag([1.0, 2.0, 0.5]), np.diag([1.5, 1.0, 0.5])
    means = np.zeros(d), np.array([0.5, 0.0, -0.2])
    estimates = [KernelDensity(random.multivariate_normal(m, s, n)) for m, s in zip(means, shapes, strict=True)]
    x = random.multivariate_normal(means[0], shapes[0], 300)
    smooth = 1 + n ** (-2 / (d + 4))
    one, other = (multivariate_normal(m, s * smooth).logpdf(x) for m, s in zip(means, shapes, strict=True))
    measured = estimates[0].log_density(x) - estimates[1].log_density(x)
    near = one > np.quantile(one, 0.3)  # far out there are few data to estimate from
    assert np.abs(measured - (one - other))[near].mean() < 0.08
    assert np.corrcoef(measured[near], (one - other)[near])[0, 1] > 0.95


def test_domias_needs_images_that_differ() -> None:
    varied = cohort(60, (8, 8), np.random.default_rng(0), each=(1,))
    same = varied.with_images(np.ones_like(varied.x_NC))
    for samples, reference in ((same, varied), (varied, same)):
        with pytest.raises(NotApplicable, match="do not differ"):
            build("domias/pca", tools()).prepare(Released(samples, reference))
    with pytest.raises(NotApplicable, match="4 reference images"):
        build("domias/pca", tools()).prepare(Released(varied, varied.select(np.arange(4))))
