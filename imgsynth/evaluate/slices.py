"""Slice level: the Fréchet distance of single planes of volumes, beside that of whole volumes.

An encoder of planes sees a volume by its three middle planes. Features of all three together say whether volumes
are alike; those of each plane alone, which fewer patients can carry, whether its slices are.
"""

from __future__ import annotations

import numpy as np

from imgsynth.evaluate.frechet import (
    MIN_DIMENSIONS,
    PATIENTS_PER_DIMENSION,
    Moments,
    dimensions_for,
    frechet_with_interval,
    random_projection,
)
from imgsynth.evaluate.metric import Comparison, Measurement, require


def slice_frechet(c: Comparison) -> Measurement:
    """The largest d² of the three planes, each with its own features; the floor is that plane's."""
    require(c.encoder.planes == 3, f"{c.encoder.name} does not see volumes by planes")
    n = min(c.train.n_patients, c.synthetic.n_patients)
    smallest = min(n, c.test.n_patients)
    width = c.test_features.shape[1] // 3
    dimensions = dimensions_for(smallest, width)
    require(
        dimensions >= MIN_DIMENSIONS,
        f"{smallest} patients on the smallest side; a covariance in {MIN_DIMENSIONS} dimensions takes "
        f"{MIN_DIMENSIONS * PATIENTS_PER_DIMENSION}",
    )
    projection = random_projection(width, dimensions)
    keep = np.isin(c.train.patients_N, c.train.draw_patients(n, c.random()).names_P)
    found = []
    for plane in range(3):
        columns = slice(plane * width, (plane + 1) * width)
        test = Moments.of(c.test_features[:, columns] @ projection, c.test)
        train = Moments.of(c.train_features[keep][:, columns] @ projection, c.train.select(keep))
        made = Moments.of(c.synthetic_features[:n, columns] @ projection, c.synthetic.select(np.arange(n)))
        found.append((frechet_with_interval(made, test, c.bootstrap, c.random()),
                      frechet_with_interval(train, test, c.bootstrap, c.random())))  # fmt: skip
    worst = max(range(3), key=lambda plane: found[plane][0].value)
    result, floor = found[worst]
    values = ", ".join(f"{one.value:.3g}" for one, _ in found)
    return Measurement(
        name="slice_frechet_distance",
        value=result.value,
        low=result.low,
        high=result.high,
        floor=floor,
        unit="",
        better="lower",
        n_real=c.test.n_patients,
        n_synthetic=n,
        encoder=c.encoder.name,
        note=f"of middle slices: the largest of those across each axis ({values}), in {dimensions} dimensions",
    )
