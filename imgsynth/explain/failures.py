"""A page of failures: the samples that stand out by one number each, with that number and nothing more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label

from imgsynth.cohort.masks import label_map
from imgsynth.explain import pictures
from imgsynth.explain.maker import Drawn, Maker
from imgsynth.explain.part import Part
from imgsynth.measure.distances import distances
from imgsynth.types import Grid

SHOWN = 8
END = 0.999  # model values from which a voxel counts as at an end of the window


@dataclass(frozen=True)
class Standing:
    """A number of each sample; the samples with the largest are shown (of ``least`` with the smallest)."""

    name: str
    title: str
    caption: str
    value_N: np.ndarray
    text: Callable[[float], str]
    least: bool = False

    def part(self, x_NC: np.ndarray, grid: Grid) -> Part:
        order = np.argsort(self.value_N if self.least else -self.value_N, kind="stable")[:SHOWN]
        numbers = [{"sample": int(i), "value": float(self.value_N[i])} for i in order]
        titles = [self.text(n["value"]) for n in numbers]
        middle = float(np.median(self.value_N))
        alike = " None stands out: it is the same for all." if np.ptp(self.value_N) == 0 else ""
        return Part(
            self.name,
            self.title,
            pictures.page(pictures.images(x_NC[order], grid), titles, grid, SHOWN),
            f"{self.caption} Median {self.text(middle)} over {len(x_NC)} samples.{alike}",
            {"shown": numbers, "median": middle, "samples": len(x_NC)},
        )


def failures(maker: Maker, drawn: Drawn, features_ND: np.ndarray) -> list[Part]:
    """Outliers, empty and saturated images, broken masks: from samples alone."""
    grid, x_NV = maker.grid, drawn.x_NC[:, 0].reshape(len(drawn.x_NC), -1)
    found = [
        Standing("outliers", "Furthest from every other sample",
                 f"Distance of features ({maker.encoder.name}) to the nearest other sample.",
                 alone(features_ND), "{:.3g}".format),
        Standing("blank", "Least contrast", "Standard deviation over the image's voxels; 0 is one grey.",
                 x_NV.std(1), lambda v: pictures.shown(v, grid), least=True),
        Standing("saturated", "Most voxels at the ends of the window",
                 f"Share of voxels at {grid.low:g} or {grid.high:g} {grid.unit}; air is at an end, too.",
                 (np.abs(x_NV) >= END).mean(1), _percent),
    ]  # fmt: skip
    if grid.structures:
        masks = [label_map(x_C[1:]) for x_C in drawn.x_NC]
        found += [
            Standing("fragments", "Most broken masks",
                     "Share of mask voxels outside of the largest connected piece of their structure.",
                     np.array([fragments(mask) for mask in masks]), _percent),
            Standing("missing", "Smallest masks", "Voxels of the smallest structure; 0: it is not there.",
                     np.array([smallest(mask, len(grid.structures)) for mask in masks], dtype=float), "{:.0f}".format,
                     least=True),
        ]  # fmt: skip
    return [standing.part(drawn.x_NC, grid) for standing in found]


def alone(features_ND: np.ndarray) -> np.ndarray:
    """[N] distance to the nearest other."""
    apart_NN = distances(features_ND, features_ND)
    np.fill_diagonal(apart_NN, np.inf)
    return apart_NN.min(1)


def fragments(mask: np.ndarray) -> float:
    """Share of the voxels of a label map [*S] outside of the largest piece of their structure, pieces joined by faces;
    0 for an empty mask."""
    inside, outside = int((mask > 0).sum()), 0
    for value in np.unique(mask[mask > 0]):
        pieces = np.bincount(label(mask == value)[0].ravel())[1:]
        outside += int(pieces.sum() - pieces.max())
    return outside / inside if inside else 0.0


def smallest(mask: np.ndarray, structures: int) -> int:
    """Voxels of the structure that has fewest."""
    return int(np.bincount(mask.ravel(), minlength=structures + 1)[1:].min())


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
