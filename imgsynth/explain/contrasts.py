"""Class contrasts: what changes where the code stays and the class does not."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import t

from imgsynth.evaluate.metric import require
from imgsynth.explain import pictures
from imgsynth.explain.maker import Maker
from imgsynth.explain.part import Part

ALPHA = 0.05  # chance that a map shows any voxel where the means are equal
ROWS = 3  # codes in the picture


def contrasts(maker: Maker) -> Part:
    """Each class against the mean of the others (of two: the second against the first), voxel by voxel over many codes.

    Raises NotDone for one class, or a model without latent codes.
    """
    require(len(maker.classes) > 1, "there is one class")
    z_NL, y_N = maker.codes(maker.settings.codes, maker.random())
    x_YNC = np.stack([maker.images(z_NL, y_N * 0 + k) for k in range(len(maker.classes))])
    chosen = [1] if len(maker.classes) == 2 else list(range(len(maker.classes)))
    maps = []
    numbers: list[dict[str, Any]] = []
    for k in chosen:
        others_NS = np.delete(x_YNC, k, axis=0)[:, :, 0].mean(0)
        mean_S, error_S = difference(x_YNC[k, :, 0] - others_NS)
        above_S = np.abs(mean_S) > critical(len(z_NL), mean_S.size) * error_S
        maps.append((mean_S, np.where(above_S, mean_S, 0)))
        numbers.append({
            "class": maker.classes[k],
            "against": maker.classes[0] if len(chosen) == 1 else "the others",
            "rms": float(np.sqrt(np.square(mean_S).mean())),
            "largest": float(np.abs(mean_S).max()),
            "share_above_error": float(above_S.mean()),
        })  # fmt: skip
    largest = max(n["largest"] for n in numbers)
    cells, titles = [], []
    for row in range(min(ROWS, len(z_NL))):
        cells += pictures.images(x_YNC[:, row], maker.grid)
        titles += [f"code {row + 1}, {name}" for name in maker.classes]
    for column, note in ((0, "mean"), (1, "sure")):  # of two classes both maps are one row
        cells += [pictures.signed(pair[column], largest, maker.grid) for pair in maps]
        titles += [f"{note}: {n['class']}" for n in numbers]  # the note first: long titles are cut at their end
    less = f"{maker.classes[1]} less {maker.classes[0]}" if len(chosen) == 1 else "each class less the others' mean"
    rows = [
        (
            f"{n['class']} less {n['against']}",
            pictures.shown(n["rms"], maker.grid),
            pictures.shown(n["largest"], maker.grid),
            f"{100 * n['share_above_error']:.1f} %",
        )
        for n in numbers
    ]
    return Part(
        "contrasts",
        "Class contrasts",
        pictures.page(cells, titles, maker.grid, len(maker.classes)),
        f"The same codes decoded as each class. Below: {less}, mean over {len(z_NL)} codes, blue for darker "
        f"and orange for brighter, full colour at ±{pictures.shown(largest, maker.grid)} and black for none; then "
        f'("sure") only where it lies above its Monte-Carlo error (two-sided t test, {ALPHA:g} for all voxels).',
        {"contrasts": numbers, "codes": len(z_NL), "alpha": ALPHA},
        ["What the generator changes when it is told another class. It is no finding about the disease."],
        ("contrast", "RMS", "largest", "voxels above Monte-Carlo error"),
        rows,
    )


def difference(difference_NS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over codes and its standard error, voxel by voxel. The code is the same on both sides, so it is paired."""
    n = len(difference_NS)
    require(n > 1, "one code has no Monte-Carlo error")
    mean_S = difference_NS.mean(0, dtype=np.float64)
    return mean_S, difference_NS.std(0, ddof=1, dtype=np.float64) / np.sqrt(n)


def critical(n: int, voxels: int) -> float:
    """How many standard errors none of ``voxels`` means of ``n`` exceeds, but with probability ALPHA (Bonferroni)."""
    return float(t.isf(ALPHA / (2 * voxels), n - 1))
