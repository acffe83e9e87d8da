"""MS-SSIM between patients and the Wasserstein distance of intensities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from imgsynth.evaluate.diversity import disjoint_pairs, ms_ssim, scales_for, similarity
from imgsynth.evaluate.intensity import BINS, histogram_json, histograms, wasserstein
from imgsynth.evaluate.metric import NotDone, distance_of_means
from imgsynth.measure.images import Images
from imgsynth.types import Grid

HU = Grid((16, 16), (1.0, 1.0), "PL", "CT", "HU", -1000.0, 1000.0)


def some(x_NC: np.ndarray, patients: list[str] | None = None, y: list[int] | None = None) -> Images:
    n = len(x_NC)
    return Images(x_NC, np.array(y or [0] * n), np.array(patients or [f"p{i:03d}" for i in range(n)]))


def test_scales_shrink_with_the_image() -> None:
    shapes = [(10, 64), (11, 11), (28, 28), (32, 32, 32), (64, 64), (256, 256)]
    assert [scales_for(shape) for shape in shapes] == [0, 1, 2, 2, 3, 5]


@pytest.mark.parametrize("shape", [(11, 13), (28, 28), (44, 44), (24, 23, 25)])
def test_an_image_is_wholly_similar_to_itself(shape: tuple[int, ...]) -> None:
    x_NC = np.random.default_rng(0).uniform(-1, 1, (2, 1, *shape)).astype(np.float32)
    np.testing.assert_allclose(ms_ssim(x_NC, x_NC), 1.0, atol=1e-5)
    assert (ms_ssim(x_NC, x_NC[::-1]) < 0.5).all()


def test_pairs_are_disjoint_of_different_patients_and_of_one_class() -> None:
    random = np.random.default_rng(2)
    patients = [f"p{i}" for i in random.integers(0, 30, 90)]
    labels = {p: k % 3 for k, p in enumerate(sorted(set(patients)))}
    images = some(np.zeros((90, 1, 16, 16)), patients, [labels[p] for p in patients])
    pairs = disjoint_pairs(images, random)
    names = images.patients_N[pairs]
    assert len(pairs) >= 12
    assert len(np.unique(names)) == names.size
    assert (images.y_N[pairs[:, 0]] == images.y_N[pairs[:, 1]]).all()


def test_mode_collapse_shows_and_few_pairs_are_refused(digits: Images) -> None:
    random = np.random.default_rng(3)
    real = similarity(digits.select(np.arange(200)), random)
    one_each = np.array([np.flatnonzero(digits.y_N == k)[0] for k in range(10)])
    collapsed = similarity(
        Images(digits.x_NC[one_each].repeat(10, 0), np.repeat(np.arange(10), 10), np.arange(100)), random
    )
    assert collapsed.value == pytest.approx(1.0, abs=1e-5)
    assert real.high < 0.6
    with pytest.raises(NotDone, match="it takes 5"):
        similarity(digits.select(np.flatnonzero(digits.y_N == 0)[:9]), random)


def test_wasserstein_agrees_with_scipy_in_hounsfield_units() -> None:
    random = np.random.default_rng(4)
    a = some(random.uniform(-0.5, 0.9, (6, 1, 16, 16)))
    b = some(random.uniform(-0.9, 0.2, (9, 1, 16, 16)), list("aabbccdde"))
    width = (HU.high - HU.low) / BINS
    measured = distance_of_means(histograms(a), histograms(b), lambda p, q: wasserstein(p, q) * width, 50, random)
    expected = wasserstein_distance(HU.to_intensity(a.x_NC).ravel(), HU.to_intensity(b.x_NC).ravel())
    assert measured.value == pytest.approx(expected, abs=width)
    assert measured.low < measured.value < measured.high


def test_histogram_counts_every_voxel_once_in_its_unit() -> None:
    x_NC = np.full((3, 1, 16, 16), 0.25)
    x_NC[0, 0, 0, 0], x_NC[1, 0, 0, 0] = 7.0, -7.0  # beyond the grid: in the end bins
    drawn = histogram_json(some(x_NC), some(x_NC[:1]), HU)
    assert (drawn["edges"][0], drawn["edges"][-1], drawn["unit"]) == (-1000.0, 1000.0, "HU")
    assert sum(drawn["real"]) == pytest.approx(1.0)
    place = int(np.argmax(drawn["real"]))
    assert drawn["edges"][place] <= 250.0 <= drawn["edges"][place + 1]
    assert drawn["real"][0] == drawn["real"][-1] == pytest.approx(1 / 768)
