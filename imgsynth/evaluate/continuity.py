"""Through-plane continuity: do neighbouring slices belong together, as they do in patients.

For each axis of a volume, the mean absolute difference of neighbouring slices over the mean absolute difference of
neighbouring voxels along all axes: 1 where an axis is as smooth as the rest. A generator that makes slices one by one
has a rough axis; one that blurs along an axis has a smooth one.
"""

from __future__ import annotations

import numpy as np

from imgsynth.evaluate.metric import Comparison, Measurement, distance_of_means, require
from imgsynth.measure.images import Images, in_blocks
from imgsynth.measure.resampling import mean_by_patient

MIN_PATIENTS = 5


def roughness(x_NC: np.ndarray) -> np.ndarray:
    """[N, 3] of each axis, relative to the mean of the three; 1 throughout for a constant volume."""
    steps = np.stack([np.abs(np.diff(x_NC[:, 0], axis=axis)).mean((1, 2, 3)) for axis in (1, 2, 3)], 1)
    mean = steps.mean(1, keepdims=True)
    return np.divide(steps, mean, out=np.ones_like(steps), where=mean > 0)


def _of_patients(images: Images) -> np.ndarray:
    return mean_by_patient(in_blocks(roughness, images.x_NC), images.owner_N, images.n_patients)


def difference(a_R3: np.ndarray, b_R3: np.ndarray) -> np.ndarray:
    """[R] the largest absolute difference of the three axes."""
    return np.abs(a_R3 - b_R3).max(1)


def continuity(c: Comparison) -> Measurement:
    """How far the samples' roughness along an axis is from the test patients'; floor between train and test."""
    require(c.test.x_NC.ndim == 5, "single images, which have no slices")
    c.require_patients(MIN_PATIENTS)
    synthetic, train, test = (_of_patients(images) for images in c.matched_images())
    said = " × ".join(f"{a:.2f} ({b:.2f})" for a, b in zip(synthetic.mean(0), test.mean(0), strict=True))
    return Measurement.of(
        c,
        "through_plane_continuity",
        distance_of_means(synthetic, test, difference, c.bootstrap, c.random()),
        distance_of_means(train, test, difference, c.bootstrap, c.random()),
        c.n,
        f"largest difference, over the axes, of how rough they are beside their mean; synthetic (real): {said}",
        on_voxels=True,
    )
