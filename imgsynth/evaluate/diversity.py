"""Diversity: mean MS-SSIM between different patients of one class (Odena et al. 2017, arXiv:1610.09585).

High similarity among synthetic samples means that the generator repeats itself (mode collapse). The pairs are
disjoint, so they are independent and the interval of their mean is an ordinary one.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import t as student

from imgsynth.evaluate.metric import Comparison, Interval, Measurement, require
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import LEVEL

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, Wang, Simoncelli & Bovik 2003
KERNEL, SIGMA = 11, 1.5  # voxels, Gaussian window of the same paper
STABLE = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # its constants of luminance and contrast, for values of [-1, 1]
MIN_PAIRS = 5
MAX_PAIRS = 128


def scales_for(shape: tuple[int, ...]) -> int:
    """How many of the five scales an image of ``shape`` has room for (MONAI's condition); 0: not even one."""
    room = [s for s in range(1, len(WEIGHTS) + 1) if min(shape) // max(1, s - 1) ** 2 >= KERNEL and _fits(shape, s)]
    return max(room, default=0)


def _fits(shape: tuple[int, ...], scales: int) -> bool:
    """Whether the window still fits after scales − 1 halvings (MONAI's own condition misses two scales of 11 to 21)."""
    return min(shape) >> (scales - 1) >= KERNEL


def ms_ssim(a_NC: np.ndarray, b_NC: np.ndarray) -> np.ndarray:
    """[N] MS-SSIM of image pairs in [-1, 1], on as many scales as fit; their weights are renormalised to sum 1.

    Wang, Simoncelli & Bovik 2003, in double precision; the window goes along one axis after another, which is the same
    sum and in 3D a tenth of the work.
    """
    weights = np.array(WEIGHTS[: scales_for(a_NC.shape[2:])])
    return np.array([_of_pair(a[0], b[0], weights / weights.sum()) for a, b in zip(a_NC, b_NC, strict=True)])


def _of_pair(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    found = 1.0
    for scale, weight in enumerate(weights, 1):
        luminance, contrast = _luminance_and_contrast(a, b)
        similarity = luminance * contrast if scale == len(weights) else contrast
        found *= float(np.maximum(0.0, similarity.mean())) ** weight  # keeps a NaN, which max would call 0
        a, b = _halved(a), _halved(b)
    return found


def _luminance_and_contrast(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every place where the whole window lies in the image."""
    mean_a, mean_b, aa, bb, ab = (_window(x) for x in (a, b, a * a, b * b, a * b))
    squares = mean_a**2 + mean_b**2
    luminance = (2 * mean_a * mean_b + STABLE[0]) / (squares + STABLE[0])
    contrast = (2 * (ab - mean_a * mean_b) + STABLE[1]) / (aa + bb - squares + STABLE[1])
    return luminance, contrast


def _window(x: np.ndarray) -> np.ndarray:
    return gaussian_filter(x, SIGMA, radius=KERNEL // 2)[(slice(KERNEL // 2, -(KERNEL // 2)),) * x.ndim]


def _halved(x: np.ndarray) -> np.ndarray:
    """Means of 2 voxels along each axis; a last odd one is left out."""
    for axis in range(x.ndim):
        even = x.shape[axis] // 2 * 2
        pairs = x.take(range(even), axis=axis)
        x = pairs.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :]).mean(axis + 1)
    return x


def disjoint_pairs(images: Images, random: np.random.Generator) -> np.ndarray:
    """[M, 2] indices of images: two different patients of one class, no patient in two pairs, at most MAX_PAIRS."""
    order = random.permutation(len(images))
    _, first = np.unique(images.patients_N[order], return_index=True)
    one_each = order[np.sort(first)]  # one image of each patient, patients in random order
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for label in np.unique(images.y_N[one_each]):
        of_class = one_each[images.y_N[one_each] == label]
        pairs.append(of_class[: len(of_class) // 2 * 2].reshape(-1, 2))
    return random.permutation(np.concatenate(pairs))[:MAX_PAIRS]


def similarity(images: Images, random: np.random.Generator) -> Interval:
    """Mean MS-SSIM of disjoint pairs with its Student interval. Raises NotDone under MIN_PAIRS pairs."""
    pairs = disjoint_pairs(images, random)
    require(len(pairs) >= MIN_PAIRS, f"{len(pairs)} pairs of different patients of one class; it takes {MIN_PAIRS}")
    values = ms_ssim(images.x_NC[pairs[:, 0]], images.x_NC[pairs[:, 1]])
    half = student.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def ms_ssim_diversity(c: Comparison) -> Measurement:
    """Mean MS-SSIM among synthetic samples, beside that among test patients (in ``floor``)."""
    shape = c.synthetic.x_NC.shape[2:]
    scales = scales_for(shape)
    require(scales > 0, f"images of {shape} voxels; the window of MS-SSIM takes {KERNEL} along each axis")
    real, result = similarity(c.test, c.random()), similarity(c.synthetic, c.random())
    note = (
        f"between different patients of one class, {scales} scale(s); well above the real one means that the "
        "generator repeats itself, well below it that samples share less structure than patients do (noise)"
    )
    return Measurement.of(c, "ms_ssim", result, real, len(c.synthetic), note, on_voxels=True)
