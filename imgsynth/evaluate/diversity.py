"""Diversity: mean MS-SSIM between different patients of one class (Odena et al. 2017, arXiv:1610.09585).

High similarity among synthetic samples means that the generator repeats itself (mode collapse). The pairs are
disjoint, so they are independent and the interval of their mean is an ordinary one.
"""

from __future__ import annotations

import numpy as np
import torch
from monai.metrics import compute_ms_ssim
from scipy.stats import t as student

from imgsynth.evaluate.metric import Comparison, Interval, Measurement, require
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import LEVEL

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, Wang, Simoncelli & Bovik 2003
KERNEL = 11  # voxels, Gaussian window of the same paper
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
    """[N] MS-SSIM of image pairs in [-1, 1], on as many scales as fit; their weights are renormalised to sum 1."""
    shape = a_NC.shape[2:]
    weights = np.array(WEIGHTS[: scales_for(shape)])
    values = [
        compute_ms_ssim(
            torch.from_numpy(a[None]).float(),
            torch.from_numpy(b[None]).float(),
            spatial_dims=len(shape),
            data_range=2.0,
            kernel_size=KERNEL,
            weights=(weights / weights.sum()).tolist(),
        ).item()
        for a, b in zip(a_NC, b_NC, strict=True)
    ]
    return np.array(values)


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
