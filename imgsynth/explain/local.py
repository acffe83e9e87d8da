"""The part that looks at real patients: what tells synthetic images from them, and which are furthest from them.

LOCAL ONLY: pictures of patients, and numbers measured on them without noise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from imgsynth.evaluate.metric import require
from imgsynth.explain import pictures
from imgsynth.explain.alone import done
from imgsynth.explain.attribution import Told, likeness, told
from imgsynth.explain.failures import Standing
from imgsynth.explain.maker import standardised
from imgsynth.explain.part import Part
from imgsynth.measure.distances import distances, nearest
from imgsynth.measure.encoders import Encoder
from imgsynth.measure.images import Images
from imgsynth.types import Grid

SUREST = 4  # of each kind


def explained(
    test: Images, made: Images, grid: Grid, encoder: Encoder, attributed: int, seed: int
) -> tuple[list[Part], list[dict[str, str]]]:
    """Every part about ``made``, fresh samples, beside ``test``, real test patients; ``attributed`` 0: no maps."""
    asked: dict[str, Callable[[], Part | list[Part]]] = {
        "samples far from patients": lambda: far(test, made, grid, encoder),
    }
    if attributed:
        asked["what tells synthetic from real"] = lambda: attribution(test, made, grid, attributed, seed)
    return done(asked)


def attribution(test: Images, made: Images, grid: Grid, attributed: int, seed: int) -> list[Part]:
    """Mean maps and the surest examples of the classifier, and the samples that are surest synthetic."""
    real = told(test, made, attributed, seed)
    control = told(test, made, attributed, seed, shuffle=True)
    x_NC = np.concatenate([test.x_NC, made.x_NC.astype(test.x_NC.dtype)])
    surest = Standing("surest", "Surest synthetic, says the classifier",
                      "Held-out log odds that the image is synthetic, by the same classifier.",
                      real.odds_N[real.synthetic_N == 1], "{:.2f}".format)  # fmt: skip
    return [_means(real, control, grid), _examples(real, x_NC, grid), surest.part(made.x_NC, grid)]


def _means(real: Told, control: Told, grid: Grid) -> Part:
    kind_M = real.synthetic_N[real.pick_M]
    maps = [real.map_MS[kind_M == k].mean(0) for k in (0, 1)]
    amounts = [real.mean_amount(), control.mean_amount()]
    largest = _full_colour(np.stack(maps))
    cells = [
        *(pictures.signed(_rooted(m, largest), 1.0, grid) for m in maps),
        *(pictures.amount(_rooted(a, _full_colour(a)), 1.0, grid) for a in amounts),
    ]
    alike = likeness(real, control)
    weak = " It hardly tells them apart, so that its maps explain little." if real.auc < 0.6 else ""
    return Part(
        "attribution",
        "What tells synthetic from real",
        pictures.page(cells, ["real, mean", "synthetic, mean", "both, amount", "shuffled labels"], grid, len(cells)),
        f"Integrated gradients of the log odds \"synthetic\", mean over {int((kind_M == 0).sum())} real and "
        f"{int((kind_M == 1).sum())} synthetic images, half of them those it is surest of: orange speaks for "
        f"synthetic, blue for real. {_colours(largest)} Then the mean absolute map, and that of classifiers trained on "
        "shuffled labels, each of the two to a scale of its own.",
        {"auc": real.auc, "completeness_error": real.missed, "auc_shuffled": control.auc, "likeness_to_shuffled": alike,
         "attributed": len(real.pick_M), "baseline_log_odds": real.start},
        [f"The classifier's held-out AUC is {real.auc:.2f} (½: it cannot tell).{weak}",
         f"Rank correlation of the mean absolute map with that of shuffled labels, over voxels in which images vary: "
         f"{alike:.2f}. Near 1, the map shows the images and not what the classifier learned.",
         f"A map sums to an image's log odds less {real.start:+.1f}, those of the baseline (the mean of all real and "
         f"synthetic images), but for {100 * real.missed:.2g} % at most (completeness). Maps of images whose log odds "
         "are near the baseline's have little to show."],
    )  # fmt: skip


def _examples(real: Told, x_NC: np.ndarray, grid: Grid) -> Part:
    kind_M, odds_M = real.synthetic_N[real.pick_M], real.odds_N[real.pick_M]
    chosen = [
        int(m)
        for k in (1, 0)
        for m in np.flatnonzero(kind_M == k)[np.argsort((1 - 2 * k) * odds_M[kind_M == k])][:SUREST]
    ]
    largest = _full_colour(real.map_MS[chosen])
    titles = [f"{'synthetic' if kind_M[m] else 'real'}, {odds_M[m]:+.1f}" for m in chosen]
    cells = [
        *pictures.images(x_NC[real.pick_M[chosen]], grid),
        *(pictures.signed(_rooted(real.map_MS[m], largest), 1.0, grid) for m in chosen),
    ]
    return Part(
        "surest_maps",
        "Where it is surest",
        pictures.page(cells, [*titles, *["its map"] * len(chosen)], grid, len(chosen)),
        "The synthetic images that it takes most surely for synthetic and the real ones that it takes most surely for "
        "real, with the held-out log odds; below, what speaks for synthetic (orange) and for real (blue). "
        f"{_colours(largest)}",
        {"shown": [{"synthetic": bool(kind_M[m]), "log_odds": float(odds_M[m])} for m in chosen]},
    )


def _full_colour(map_S: np.ndarray) -> float:
    """The value from which a map has its full colour."""
    return float(np.quantile(np.abs(map_S), 0.995))


def _rooted(map_S: np.ndarray, largest: float) -> np.ndarray:
    """A map in shares of ``largest``, its amounts by their square root: single voxels would leave all else dark."""
    share_S = map_S / largest if largest > 0 else map_S
    rooted_S: np.ndarray = np.sign(share_S) * np.sqrt(np.abs(share_S))
    return rooted_S


def _colours(largest: float) -> str:
    return f"One scale for both signs: full colour at ±{largest:.2g} log odds a voxel, half of it at a quarter."


def far(test: Images, made: Images, grid: Grid, encoder: Encoder) -> Part:
    """Samples whose nearest test patient is furthest, by features."""
    require(test.n_patients > 1, f"{test.n_patients} test patients; it takes two")
    of_test, of_made = encoder.encode(test.x_NC), encoder.encode(made.x_NC)
    test_ND, made_MD = standardised(of_test, encoder, of_test), standardised(of_made, encoder, of_test)
    between_NN = distances(test_ND, test_ND)
    between_NN[test.owner_N[:, None] == test.owner_N[None, :]] = np.inf
    usual = float(np.median(between_NN.min(1)))
    standing = Standing("far", "Furthest from real test patients",
                        f"Distance of features ({encoder.name}) to the nearest of {test.n_patients} test patients. A "
                        f"real test image's median distance to another patient: {usual:.3g}.",
                        nearest(made_MD, test_ND)[0], "{:.3g}".format)  # fmt: skip
    part = standing.part(made.x_NC, grid)
    part.numbers["median_between_patients"] = usual
    return part
