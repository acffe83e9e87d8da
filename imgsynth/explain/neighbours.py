"""Nearest generated neighbours: images that are alike though their codes are not, samples that repeat each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import spearmanr

from imgsynth.evaluate.metric import NotDone
from imgsynth.explain import pictures
from imgsynth.explain.maker import Drawn, Maker
from imgsynth.explain.part import Part
from imgsynth.measure.distances import distances

PAIRS = 4  # shown
NEARER = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05)  # root mean square over voxels, as a share of the window


def neighbours(maker: Maker, drawn: Drawn, features_ND: np.ndarray) -> Part:
    """Pairs whose features are nearest among those whose codes are at least as far apart as the median pair's.

    Raises NotDone where the model has no latent codes.
    """
    if drawn.z_NL is None:
        raise NotDone("the model has no map from latent codes to images")
    first_p, second_p = np.triu_indices(len(features_ND), 1)
    code_p = distances(drawn.z_NL.numpy(), drawn.z_NL.numpy())[first_p, second_p]
    feature_p = distances(features_ND, features_ND)[first_p, second_p]
    middle = float(np.median(feature_p)), float(np.median(code_p))
    chosen = apart(first_p, second_p, np.where(code_p >= middle[1], feature_p, np.inf), PAIRS)
    agreement = float(spearmanr(code_p, feature_p).statistic) if len(set(feature_p)) > 1 else 0.0
    pairs: list[dict[str, Any]] = [
        {"samples": [int(first_p[p]), int(second_p[p])],
         "features": float(feature_p[p] / middle[0]) if middle[0] else 0.0,
         "codes": float(code_p[p] / middle[1])}
        for p in chosen
    ]  # fmt: skip
    index = [i for pair in pairs for i in pair["samples"]]
    titles = [f"pair {n + 1}{side}" for n in range(len(pairs)) for side in "ab"]
    rows = [(f"pair {n}", f"{pair['features']:.2f}", f"{pair['codes']:.2f}") for n, pair in enumerate(pairs, 1)]
    return Part(
        "neighbours",
        "Near images from codes far apart",
        pictures.page(pictures.images(drawn.x_NC[index], maker.grid), titles, maker.grid, 2 * PAIRS),
        f"Of {len(drawn.x_NC)} samples the {len(pairs)} pairs with the nearest features ({maker.encoder.name}) whose "
        "codes are as far apart as those of the median pair, or farther.",
        {"pairs": pairs, "rank_correlation": agreement, "encoder": maker.encoder.name, "samples": len(drawn.x_NC)},
        [f"Distances between codes and between features of all pairs: rank correlation {agreement:.2f}. Near 0, the "
         "code says little of what is seen: images differ by their class, or the generator ignores most of the code."],
        ("pair", "distance of features, of the median pair's", "distance of codes, of the median pair's"),
        rows,
    )  # fmt: skip


def apart(first_p: np.ndarray, second_p: np.ndarray, cost_p: np.ndarray, n: int) -> list[int]:
    """The n cheapest pairs of which none shares an image with a cheaper one; none whose cost is infinite."""
    chosen: list[int] = []
    used: set[int] = set()
    for p in np.argsort(cost_p, kind="stable"):
        ends = {int(first_p[p]), int(second_p[p])}
        if len(chosen) == n or not np.isfinite(cost_p[p]):
            break
        if not ends & used:
            chosen.append(int(p))
            used |= ends
    return chosen


def repeats(maker: Maker, drawn: Drawn) -> Part:
    """How many samples have another one nearer than so much, and the nearest pairs."""
    flat_ND = drawn.x_NC[:, 0].reshape(len(drawn.x_NC), -1)
    apart_NN = distances(flat_ND, flat_ND).astype(np.float64) / np.sqrt(flat_ND.shape[1])
    first_p, second_p = np.triu_indices(len(flat_ND), 1)
    chosen = apart(first_p, second_p, apart_NN[first_p, second_p], PAIRS)
    median = float(np.median(apart_NN[first_p, second_p]))
    np.fill_diagonal(apart_NN, np.inf)
    nearest_N = apart_NN.min(1)
    shares = {f"{x:g}": float((nearest_N < 2 * x).mean()) for x in NEARER}  # the window is 2 model values wide
    ends = [(int(first_p[p]), int(second_p[p])) for p in chosen]
    titles = [t for i, j in ends for t in (pictures.shown(apart_NN[i, j], maker.grid), "and its nearest")]
    rows = [(f"{pictures.shown(2 * x, maker.grid)} ({100 * x:g} % of the window)", f"{100 * share:.1f} %")
            for x, share in zip(NEARER, shares.values(), strict=True)]  # fmt: skip
    return Part(
        "repeats",
        "Samples that repeat each other",
        pictures.page(pictures.images(drawn.x_NC[[i for pair in ends for i in pair]], maker.grid), titles, maker.grid,
                      2 * PAIRS),
        f"The nearest pairs among {len(flat_ND)} samples, by the root mean square over voxels; the median pair is "
        f"{pictures.shown(median, maker.grid)} apart.",
        {"nearer_than": shares, "median_pair": median / 2, "samples": len(flat_ND),
         "pairs": [{"samples": list(pair), "rms": float(apart_NN[pair]) / 2} for pair in ends]},
        [f"Shares of {len(flat_ND)} samples; they grow with that number."],
        ("nearest other sample nearer than", "share of samples"),
        rows,
    )  # fmt: skip
