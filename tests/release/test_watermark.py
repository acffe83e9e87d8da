"""The watermark: what is put in, that it is found again, and how often where there is none."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from imgsynth.release import watermark_search
from imgsynth.release.watermark import CREST, PERIOD, drawn, marked, noise_level, pattern_of
from imgsynth.release.watermark_search import (
    NOTHING,
    SHARE,
    _even,
    _ladder,
    _p,
    chernoff,
    p_as_made,
    residual,
    search,
    whitened,
)

OTHER = "somebody else's key"


def smooth(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Anatomy without noise: smooth blobs and an edge, in [-0.8, 0.8]."""
    random = np.random.default_rng(seed)
    x = ndimage.gaussian_filter(random.standard_normal(shape), 5, mode="wrap")
    x = 0.4 * x / np.abs(x).max()
    x[tuple(slice(n // 4, 3 * n // 4) for n in shape)] += 0.3
    return x.astype(np.float32)


def image(shape: tuple[int, ...], sigma: float = 0.02, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed + 1000).normal(0, sigma, shape)
    return (smooth(shape, seed) + noise).astype(np.float32)


def test_the_pattern_is_the_sum_of_its_cosines() -> None:
    """Against a loop over every frequency ±k, with the signs looked up one by one."""
    shape, period = (9, 7, 5), PERIOD[3]
    pattern = pattern_of(3)
    total, power = np.zeros(shape), 0
    centred = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")
    for k in itertools.product(range(-pattern.top, pattern.top + 1), repeat=3):
        sign = pattern.sign_K[tuple(abs(one) for one in k)]
        if sign:
            assert 0.08 <= math.hypot(*k) / period <= 0.35
            total += sign * np.cos(2 * np.pi / period * sum(k[i] * centred[i] for i in range(3)))
            power += 1
    np.testing.assert_allclose(drawn(shape), np.clip(total / np.sqrt(power), -CREST, CREST), atol=1e-4)


@pytest.mark.parametrize("shape", [(64, 64), (40, 40, 40)])
def test_the_pattern_is_the_same_after_flips_and_exchanges_of_axes_and_another_for_another_key(
    shape: tuple[int, ...],
) -> None:
    pattern = drawn(shape)
    assert 0.8 < pattern.std() < 1.05 and abs(pattern.mean()) < 0.05
    np.testing.assert_allclose(pattern, np.flip(pattern, 0), atol=1e-4)
    np.testing.assert_allclose(pattern, np.swapaxes(pattern, 0, -1), atol=1e-4)
    assert abs(np.corrcoef(pattern.ravel(), drawn(shape, OTHER).ravel())[0, 1]) < 0.3


@pytest.mark.parametrize("shape", [(96, 96), (40, 40, 40)])
@pytest.mark.parametrize("sigma", [0.005, 0.03])
def test_the_noise_is_measured_as_it_was_planted(shape: tuple[int, ...], sigma: float) -> None:
    measured = float(np.median(noise_level(image(shape, sigma))))
    assert measured == pytest.approx(sigma, rel=0.1)


def test_a_quiet_place_is_not_judged_by_a_noisy_one_and_what_is_constant_has_no_noise() -> None:
    x = 0.4 * ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((96, 96)), 5).astype(np.float32)
    sigma_W = np.where(np.arange(96) < 32, 0.01, 0.05)
    x += np.random.default_rng(0).normal(0, 1, (96, 96)).astype(np.float32) * sigma_W.astype(np.float32)
    level = noise_level(x)
    assert np.median(level[:, :22]) == pytest.approx(0.01, rel=0.15)
    assert 0.02 < np.median(level[:, 60:]) < 0.055
    x[10:20, 10:20] = 0.25
    assert not noise_level(x)[11:19, 11:19].any()


def test_values_at_the_ends_of_the_range_are_no_measure_of_noise() -> None:
    """Air that is clipped at the lower end, on two thirds of an image, beside tissue with less noise."""
    x = np.random.default_rng(0).normal(0, 0.01, (96, 96)).astype(np.float32)
    x[:, :64] = np.maximum(np.random.default_rng(1).normal(-1, 0.05, (96, 64)), -1)
    assert np.median(noise_level(x)[:, :56]) == pytest.approx(0.01, rel=0.15)  # not that of clipped air, 0.03


def test_what_is_added_is_as_strong_as_asked_in_range_and_not_in_air() -> None:
    x = image((128, 128), 0.03)
    x[:40] = -1.0
    x[100:, 100:] = 0.5
    added = marked(x, 0.5) - x
    assert not added[:39].any() and not added[102:, 102:].any()
    assert np.std(added[50:90]) == pytest.approx(0.5 * 0.03 * 0.93, rel=0.15)  # the pattern is cut off at ±2
    bright = np.clip(image((64, 64), 0.05) + 0.7, -1, 1)
    after = marked(bright, 1.0)
    assert after.max() <= 1 and after.dtype == np.float32
    assert (after[bright == 1] == 1).all()


def test_chernoffs_bound_against_every_combination_of_signs() -> None:
    y = np.random.default_rng(3).gamma(2.0, size=14)
    sums = np.array([np.dot(signs, y) for signs in itertools.product((-1, 1), repeat=14)])
    for z in np.linspace(0.5, y.sum() * 0.98, 25):
        exact = float(np.mean(sums >= z))
        assert exact <= chernoff(z, y) <= max(12 * exact, 2.0**-14 * 12)
    assert chernoff(y.sum(), y) == pytest.approx(2.0**-14)
    assert chernoff(-1.0, y) == chernoff(0.0, y) == 1.0


def stripes(shape: tuple[int, ...]) -> np.ndarray:
    """The worst for a correlation: a picture that is periodic itself, with the period of JPEG's blocks."""
    x = np.add.reduce(np.meshgrid(*[np.arange(n) % 8 < 4 for n in shape], indexing="ij")).astype(np.float32)
    return x / x.max() - 0.5 + np.random.default_rng(0).normal(0, 0.01, shape).astype(np.float32)


@pytest.mark.parametrize("make", [image, stripes, smooth], ids=["noise", "stripes", "smooth"])
def test_without_a_mark_score_and_p_value_are_right_over_keys(make: Callable[..., np.ndarray]) -> None:
    """A thousand keys on one picture, whatever it is. The score has variance 1, not 1.44; p ≤ α is
    no more frequent than α, and a p thirty times too small would be caught."""
    white = whitened(residual(make((48, 48))))
    y_K = _even(white, pattern_of(2), (0.0, 0.0), (0.0, 0.0))
    orbit_K, within = pattern_of(2).orbit_K, pattern_of(2).orbit_K >= 0
    power = float(np.sum(np.bincount(orbit_K[within], y_K[within]) ** 2))
    keys = [pattern_of.__wrapped__(2, f"key {n}") for n in range(1000)]
    score_N = np.array([float(np.sum(y_K * key.sign_K)) for key in keys]) / math.sqrt(power)
    assert abs(score_N.mean()) < 4 / math.sqrt(1000)
    assert abs(score_N.var() - 1) < 0.15 < abs(1.2**2 * score_N.var() - 1)
    p_N = np.array([_p(y_K, key, either=False) for key in keys])
    for alpha in (0.01, 0.05, 0.2):
        assert (p_N <= alpha).sum() <= stats.binom.ppf(0.9999, 1000, alpha)
    assert (p_N / 30 <= 0.01).sum() > stats.binom.ppf(0.9999, 1000, 0.01)


def test_the_search_counts_the_places_that_it_looks_at() -> None:
    """Over 200 images and one key: with the correction hardly any, without it most would have a mark."""
    found = [search(residual(image((32, 32), seed=n)), thorough=False) for n in range(200)]
    p_N = np.array([one.p for one in found])
    assert (p_N <= 0.05).sum() <= stats.binom.ppf(0.9999, 200, 0.05)
    places = (2 * PERIOD[2]) ** 2 / SHARE["cropped"]
    best = [search(residual(image((32, 32), seed=n)), f"{OTHER} {n}", thorough=False) for n in range(50)]
    uncorrected = np.array([one.p / places for one in best])
    assert (uncorrected <= 0.05).mean() > 0.5


@pytest.mark.parametrize("shape", [(40, 28), (28, 24, 20)], ids=["2d", "3d"])
def test_every_place_of_every_search_is_counted(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """One place gives 10⁻¹⁵ by force; what is left of it after the correction, against a count by hand."""
    monkeypatch.setattr(watermark_search, "_p", lambda *_, **__: 1e-15)
    dims, shifts = len(shape), (2 * PERIOD[len(shape)]) ** len(shape)
    white, pattern = whitened(residual(image(shape))), pattern_of(dims)
    ladder = [len(_ladder(n)) for n in shape]
    if dims == 2:
        pairs = ladder[0] * ladder[1]
    else:  # one axis alone, the other two alike
        pairs = sum(ladder[a] * max(ladder[b] for b in range(3) if b != a) for a in range(3))
    places = {"_as_made": 1, "_cropped": shifts, "_resampled": pairs * 5**dims,
              "_cropped_and_resampled": max(ladder) * shifts}  # fmt: skip
    for name, count in places.items():
        found = getattr(watermark_search, name)(white, pattern)
        assert found.p == pytest.approx(1e-15 * count / SHARE[found.how]), name
    assert sum(SHARE.values()) == 1


def test_a_negative_costs_a_factor_of_two_and_is_none_where_nothing_inverts() -> None:
    pattern = pattern_of(2)
    y_K = pattern.sign_K * pattern.weight_K * np.random.default_rng(0).normal(1, 3, pattern.sign_K.shape)
    assert (y_K * pattern.sign_K).sum() > 0
    assert _p(y_K, pattern) == pytest.approx(2 * _p(y_K, pattern, either=False)) == pytest.approx(_p(-y_K, pattern))
    assert _p(-y_K, pattern, either=False) == 1.0 > _p(y_K, pattern, either=False)


def eight_bits(x: np.ndarray) -> np.ndarray:
    low, high = np.quantile(x, [0.1, 0.9])
    return np.rint(255 * np.clip((x - low) / (high - low), 0, 1))


def jpeg(x: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(np.rint((x + 1) * 127.5).astype(np.uint8)).save(file, "JPEG", quality=90)
    return np.asarray(Image.open(file), dtype=np.float32)


def resampled(*factors: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: ndimage.zoom(x, factors, order=1, grid_mode=True, mode="nearest")


CONVERSIONS: dict[str, tuple[tuple[int, ...], Callable[[np.ndarray], np.ndarray], str]] = {
    "flat": ((96, 96), lambda x: x, "as made"),
    "flat-flipped-negative": ((96, 80), lambda x: -x[::-1].T, "as made"),
    "flat-8bit-clipped-window": ((96, 96), eight_bits, "as made"),
    "flat-jpeg": ((96, 96), jpeg, "as made"),
    "flat-cropped": ((96, 96), lambda x: x[13:90, 5:81], "cropped"),
    "flat-resampled": ((128, 128), resampled(0.7, 0.7), "resampled"),
    "flat-other-aspect": ((128, 128), resampled(0.8, 1.25), "resampled"),
    "volume": ((40, 40, 40), lambda x: x, "as made"),
    "volume-transposed": ((40, 44, 36), lambda x: x.transpose(2, 0, 1)[:, ::-1], "as made"),
    "volume-8bit-clipped-window": ((40, 40, 40), eight_bits, "as made"),
    "volume-cropped": ((48, 48, 48), lambda x: x[5:, 3:-4, :-2], "cropped"),
    "volume-thicker-slices": ((48, 48, 48), resampled(1.0, 1.0, 0.6), "resampled"),
}


@pytest.mark.parametrize("case", list(CONVERSIONS))
def test_it_is_found_again_and_not_where_it_is_not(case: str) -> None:
    shape, convert, how = CONVERSIONS[case]
    found = search(residual(convert(marked(image(shape), 0.5))))
    assert found.p < 1e-6 and (found.how == how or how == "cropped")  # by a little, and it fits as made, too
    without = residual(convert(image(shape)))
    assert search(without, thorough=how == "resampled").p > 1e-3
    another = residual(convert(marked(image(shape), 0.5, OTHER)))
    assert search(another, thorough=how == "resampled").p > 1e-3


def test_the_scale_that_is_found_is_the_one_that_was_used() -> None:
    found = search(residual(resampled(0.8, 1.25)(marked(image((128, 128)), 0.5))))
    assert found.scales == pytest.approx((0.8, 1.25), rel=0.03)


def test_many_small_images_tell_together_what_none_tells_alone() -> None:
    plain = [ndimage.shift(image((28, 28), seed=n), (n % 7, n // 7), mode="wrap", order=0) for n in range(60)]
    left = [residual(marked(x, 0.3)) for x in plain]
    assert np.median([p_as_made(one) for one in left]) > 1e-4
    assert p_as_made(np.sum(left, axis=0)) < 1e-5
    assert p_as_made(np.sum([residual(x) for x in plain], axis=0)) > 1e-2


def test_the_residual_forgets_brightness_and_contrast_and_is_white() -> None:
    x = image((64, 64))
    np.testing.assert_allclose(residual(x), residual(40 * x + 300), atol=2e-2)
    spectrum = np.abs(np.fft.fft2(whitened(residual(x)))) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    rings = [spectrum[(radius >= r) & (radius < r + 0.1)].mean() for r in (0.1, 0.2, 0.3, 0.4)]
    assert max(rings) < 1.6 * min(rings)


@pytest.mark.parametrize(
    "array", [np.zeros((64, 64)), np.ones((8, 8, 8)), np.full((6, 64), 3.0)], ids=["air", "tiny", "strip"]
)
def test_nothing_is_claimed_of_what_is_empty_or_tiny(array: np.ndarray) -> None:
    assert search(residual(array)) == NOTHING
    assert p_as_made(residual(array)) == 1.0
