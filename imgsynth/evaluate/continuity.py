"""Through-plane continuity: do neighbouring slices belong together, as they do in patients.

For each axis of a volume, the mean absolute difference of neighbouring slices over the mean absolute difference of
neighbouring voxels along all axes: 1 where an axis is as smooth as the rest. A generator that makes slices one by one
has a rough axis; one that blurs along an axis has a smooth one.
"""

from __future__ import annotations

import numpy as np

from imgsynth.evaluate.metric import Comparison, Interval, Measurement, require
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import bootstrap_weights, recentred_interval, sum_by_patient

MIN_PATIENTS = 5


def roughness(x_NC: np.ndarray) -> np.ndarray:
    """[N, 3] of each axis, relative to the mean of the three; 1 throughout for a constant volume."""
    steps = np.stack(
        [np.abs(np.diff(x_NC[:, 0].astype(np.float32), axis=axis)).mean((1, 2, 3)) for axis in (1, 2, 3)], 1
    )
    mean = steps.mean(1, keepdims=True)
    return np.divide(steps, mean, out=np.ones_like(steps), where=mean > 0)


def _of_patients(images: Images) -> np.ndarray:
    sums = sum_by_patient(roughness(images.x_NC), images.owner_N, images.n_patients)
    return sums / sum_by_patient(np.ones(len(images)), images.owner_N, images.n_patients)[:, None]


def difference(a_R3: np.ndarray, b_R3: np.ndarray) -> np.ndarray:
    """[R] the largest absolute difference of the three axes."""
    return np.abs(a_R3 - b_R3).max(1)


def continuity_with_interval(
    a_P3: np.ndarray, b_Q3: np.ndarray, replicates: int, random: np.random.Generator
) -> Interval:  # fmt: skip
    value = float(difference(a_P3.mean(0, keepdims=True), b_Q3.mean(0, keepdims=True))[0])
    w_RP, v_RQ = (bootstrap_weights(len(side), replicates, random) / len(side) for side in (a_P3, b_Q3))
    low, high = recentred_interval(value, difference(w_RP @ a_P3, v_RQ @ b_Q3))
    return Interval(value, max(low, 0.0), high)


def continuity(c: Comparison) -> Measurement:
    """How far the samples' roughness along an axis is from the test patients'; floor between train and test."""
    require(c.test.x_NC.ndim == 5, "single images, which have no slices")
    n = min(c.train.n_patients, len(c.synthetic))
    smallest = min(n, c.test.n_patients)
    require(smallest >= MIN_PATIENTS, f"{smallest} patients on the smallest side; it takes {MIN_PATIENTS}")
    test, synthetic = _of_patients(c.test), _of_patients(c.synthetic.select(np.arange(n)))
    train = _of_patients(c.train.draw_patients(n, c.random()))
    found = continuity_with_interval(synthetic, test, c.bootstrap, c.random())
    said = " × ".join(f"{a:.2f} ({b:.2f})" for a, b in zip(synthetic.mean(0), test.mean(0), strict=True))
    return Measurement(
        name="through_plane_continuity",
        value=found.value,
        low=found.low,
        high=found.high,
        floor=continuity_with_interval(train, test, c.bootstrap, c.random()),
        unit="",
        better="lower",
        n_real=c.test.n_patients,
        n_synthetic=n,
        encoder=None,
        note=f"largest difference, over the axes, of how rough they are beside their mean; synthetic (real): {said}",
    )
