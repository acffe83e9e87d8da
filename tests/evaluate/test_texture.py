"""The noise power spectrum and through-plane continuity, against closed forms and planted faults."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, uniform_filter1d

from imgsynth.evaluate.continuity import continuity, roughness
from imgsynth.evaluate.metric import Comparison
from imgsynth.evaluate.spectrum import decibels, detrended, rings, spectra, spectrum_distance
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.types import Grid


def test_white_noise_is_flat_at_its_variance() -> None:
    x = np.random.default_rng(0).normal(0, 0.3, (400, 24, 20))
    found = spectra(x)
    assert found.shape == (400, 14)
    np.testing.assert_allclose(found.mean(0)[2:], 0.09, rtol=0.05)  # below, the polynomial has taken its part
    assert found.mean(0)[0] < 0.09


def test_a_polynomial_of_second_order_is_no_texture_and_one_wave_is_in_its_ring() -> None:
    u, v = np.meshgrid(np.arange(32.0), np.arange(24.0), indexing="ij")
    trend = (1 + 0.2 * u - 0.1 * v + 0.01 * u * u - 0.02 * u * v + 0.005 * v * v)[None]
    np.testing.assert_allclose(detrended(trend), 0, atol=1e-10)
    wave = np.cos(2 * np.pi * 6 * v / 24)[None]  # 6 periods in 24 voxels: frequency 1/4
    found = spectra(wave + trend)[0]
    ring = rings((32, 24))[0, 6]
    assert ring == 5 and found.argmax() == ring  # of 12 rings up to 1/2
    assert found[ring] > 10 * np.delete(found, ring).max()


def test_energy_is_kept() -> None:
    """Parseval: the rings hold all the variance of the detrended plane."""
    x = detrended(np.random.default_rng(1).normal(size=(1, 16, 16)))
    index = rings((16, 16))
    counted = sum(spectra(x)[0][f] * (index == f).sum() for f in range(index.max() + 1))
    assert counted == pytest.approx((x**2).sum())


def test_decibels_of_a_factor() -> None:
    ones = np.ones((1, 7))
    assert decibels(10 * ones, ones)[0] == pytest.approx(10, abs=1e-6)
    assert decibels(ones, 2 * ones)[0] == pytest.approx(10 * np.log10(2), abs=1e-6)


def volumes(n: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return gaussian_filter(random.normal(size=(n, 1, 16, 16, 16)), (0, 0, 1.5, 1.5, 1.5)).astype(np.float32)


def compare(synthetic_NC: np.ndarray) -> Comparison:
    sides = [
        Images(volumes(30, seed), np.zeros(30, int), np.array([f"{seed}-{i}" for i in range(30)])) for seed in (0, 1)
    ]
    grid = Grid((16, 16, 16), (1.0,) * 3, "RAS", "MR", "a.u.", 0.0, 1.0)
    made = synthetic_images(synthetic_NC, np.zeros(len(synthetic_NC), int))
    return Comparison(*sides, made, get_encoder("random_conv", 3, 0), grid, 100, 0)


def test_slices_made_one_by_one_are_found_along_their_axis() -> None:
    like = continuity(compare(volumes(30, 2)))
    assert like.low <= like.floor.high and like.value < 0.05
    order = np.random.default_rng(0).permutation(16)
    shuffled = volumes(30, 2)[..., order]  # whole slices in another order: rough along the last axis alone
    assert roughness(shuffled).mean(0).argmax() == 2
    found = continuity(compare(shuffled))
    assert found.low > 10 * like.floor.high and found.value > 0.5
    smoothed = uniform_filter1d(volumes(30, 2), 5, axis=2)
    assert roughness(smoothed).mean(0).argmin() == 0
    assert continuity(compare(smoothed)).low > like.floor.high


def test_a_constant_volume_is_as_smooth_everywhere() -> None:
    np.testing.assert_array_equal(roughness(np.ones((2, 1, 4, 4, 4))), 1.0)


@pytest.mark.parametrize(("change", "sign"), [("blur", "-"), ("noise", "+"), ("checkerboard", "+")])
def test_blur_and_noise_are_seen_with_their_sign(change: str, sign: str) -> None:
    x = volumes(30, 2)
    like = spectrum_distance(compare(x))
    assert like.low <= like.floor.high
    changed = {"blur": gaussian_filter(x, (0, 0, 1, 1, 1)),
               "checkerboard": x + 0.04 * (np.indices(x.shape[2:]).sum(0) % 2 - 0.5),
               "noise": x + np.random.default_rng(0).normal(0, 0.02, x.shape).astype(np.float32)}[change]  # fmt: skip
    found = spectrum_distance(compare(changed))
    assert found.low > like.floor.high
    assert f"quarter has {sign}" in found.note
