"""Slice level: the Fréchet distance of single planes of volumes, beside that of whole volumes.

An encoder of planes sees a volume by its three middle planes. Features of all three together say whether volumes
are alike; those of each plane alone, which fewer patients can carry, whether its slices are.
"""

from __future__ import annotations

from imgsynth.evaluate.frechet import frechet_with_interval, projection_for
from imgsynth.evaluate.metric import Comparison, Measurement, require


def slice_frechet(c: Comparison) -> Measurement:
    """The largest d² of the three planes, each with its own features; the floor is that plane's."""
    require(c.encoder.planes == 3, f"{c.encoder.name} does not see volumes by planes")
    width = c.test_features.shape[1] // 3
    projection = projection_for(c, width)
    found = []
    for plane in range(3):
        columns = slice(plane * width, (plane + 1) * width)
        made, train, test = (side.seen_by(projection, columns) for side in c.matched())
        found.append((frechet_with_interval(made, test, c.bootstrap, c.random()),
                      frechet_with_interval(train, test, c.bootstrap, c.random())))  # fmt: skip
    result, floor = max(found, key=lambda pair: pair[0].value)
    values = ", ".join(f"{one.value:.3g}" for one, _ in found)
    return Measurement.of(
        c,
        "slice_frechet_distance",
        result,
        floor,
        c.n,
        f"of middle slices: the largest of those across each axis ({values}), in {projection.shape[1]} dimensions",
    )
