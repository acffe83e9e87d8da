"""Structural similarity of all pairs, against scikit-image at every window."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from imgsynth.audit import ssim


def images(n: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    smooth = random.uniform(-1, 1, (n, 1, *[max(2, side // 4) for side in shape]))
    for axis, side in enumerate(shape, 2):
        smooth = np.repeat(smooth, 4, axis=axis).take(np.arange(side) % (4 * smooth.shape[axis]), axis=axis)
    return np.clip(smooth + 0.2 * random.standard_normal(smooth.shape), -1, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "stride"), [((28, 28), 5), ((16, 13, 16), 3), ((8, 8), 5)], ids=["2d", "3d", "one window"]
)
def test_every_window_is_that_of_scikit_image(shape: tuple[int, ...], stride: int, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(ssim, "PAIRS", 3000)  # several blocks of columns
    a, b = images(5, shape, 0), images(9, shape, 1)
    a[1] = b[7]
    centres = tuple(slice(3, side - 3, stride) for side in shape)

    def similarity(p: np.ndarray, q: np.ndarray) -> float:
        windows = structural_similarity(p[0], q[0], win_size=7, data_range=2.0, full=True)[1]
        return float(windows[centres].mean())

    expected = np.array([[similarity(p, q) for q in b] for p in a])
    measured = ssim.dissimilarities(ssim.coarse(a), ssim.coarse(b))
    np.testing.assert_allclose(measured, 1 - expected, atol=2e-5)
    assert measured[1, 7] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("shape", "grid"), [((64, 48), (32, 24)), ((32, 32, 16), (16, 16, 8))], ids=["2d", "3d"])
def test_large_images_are_averaged_down(shape: tuple[int, ...], grid: tuple[int, ...]) -> None:
    x = images(3, shape, 0)
    cells = [part for side, cell in zip(shape, grid, strict=True) for part in (cell, side // cell)]
    expected = x[:, 0].reshape(3, *cells).mean(axis=tuple(range(2, 2 * len(shape) + 1, 2)))
    np.testing.assert_allclose(ssim.coarse(x, batch=2), expected, atol=1e-6)
    np.testing.assert_allclose(ssim.coarse(x.astype(np.float16)), expected, atol=1e-3)
