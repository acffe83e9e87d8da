"""Can synthetic images be told from real ones, and by what.

A classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv:1610.06545), two-fold across patients, on the test
patients and as many samples.

Each image is scored by the classifier that was trained on the other half. The AUC of these scores is ½ where nothing
tells the two apart. Its floor is the same with train patients in the samples' place. What the classifier uses is seen
by taking it away from all images, in training and in testing: fine texture, coarse structure, or grey values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from imgsynth import console
from imgsynth.evaluate.classifiers import Classifier
from imgsynth.evaluate.metric import Comparison, require
from imgsynth.evaluate.scores import weighted_auc
from imgsynth.measure.images import Images, in_blocks
from imgsynth.measure.resampling import bootstrap_weights, value_and_interval

MIN_PATIENTS = 20
MOST_PATIENTS = 2000  # AUC is then known to ± 0.02 at worst, and training costs no more with more of them
BLUR = 1.5  # voxels, standard deviation: what is finer is texture


def without_texture(x_NC: np.ndarray) -> np.ndarray:
    """Blurred: only coarse structure is left."""
    return gaussian_filter(x_NC.astype(np.float32), (0, 0, *[BLUR] * (x_NC.ndim - 2)))


def without_structure(x_NC: np.ndarray) -> np.ndarray:
    """What the blur takes away: only texture and edges are left."""
    return x_NC.astype(np.float32) - without_texture(x_NC)


def without_grey_values(x_NC: np.ndarray) -> np.ndarray:
    """Each image's voxels by their rank, equal ones at their mean rank, spread over [-1, 1]: all histograms alike."""
    flat = x_NC.reshape(len(x_NC), -1)
    out = np.empty(flat.shape, dtype=np.float32)
    for row, values in zip(out, flat, strict=True):
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        rank = np.cumsum(count) - (count + 1) / 2  # mean rank, from 0
        row[:] = 2 * rank[place] / max(1, len(values) - 1) - 1
    return out.reshape(x_NC.shape)


ABLATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "fine texture": without_texture,
    "coarse structure": without_structure,
    "grey values": without_grey_values,
}


def halves(images: Images, random: np.random.Generator) -> np.ndarray:
    """[N] 0 or 1: which half each image's patient is in."""
    order = random.permutation(images.n_patients)
    return (np.argsort(order) % 2)[images.owner_N]


def told_apart(
    real: Images, other: Images, classifier: Classifier, seen_N: np.ndarray, replicates: int,
    random: np.random.Generator,
) -> dict[str, float]:  # fmt: skip
    """AUC of telling ``other`` from ``real``, with its interval over the patients of both.

    ``seen_N``: what the classifier sees of the images of ``real`` and then of ``other``.
    """
    sides = np.repeat([0, 1], [len(real), len(other)])
    half_N = np.concatenate([halves(real, random), halves(other, random)])
    scores_N = np.zeros(len(sides))
    for half in (0, 1):
        fit, ask = half_N != half, half_N == half
        seeds = range(classifier.seeds)
        found = [classifier.scores(seen_N[fit], sides[fit], seen_N[ask], 2, seed)[:, 1] for seed in seeds]
        scores_N[ask] = np.mean(found, axis=0)
    weights = [
        np.vstack([np.ones(side.n_patients), bootstrap_weights(side.n_patients, replicates, random)])[:, side.owner_N]
        for side in (real, other)
    ]
    weights_RN = np.hstack(weights)
    # Within a half: scores of two classifiers are on two scales.
    parts = [half_N == half for half in (0, 1)]
    return value_and_interval(
        np.mean([weighted_auc(scores_N[p], sides[p] == 1, weights_RN[:, p]) for p in parts], axis=0)
    )


def detectability(c: Comparison, classifiers: Sequence[Classifier]) -> dict[str, Any]:
    """{"n_real", "n_synthetic", "results": [{"classifier", "auc", "floor", "without": {what: auc}}], "sentence",
    "note"}.

    Of at most MOST_PATIENTS on each side, drawn at random: the note says so. Raises NotDone with fewer than
    MIN_PATIENTS.
    """
    require(c.smallest >= MIN_PATIENTS, f"{c.smallest} patients on the smallest side; it takes {MIN_PATIENTS}")
    n = min(c.smallest, MOST_PATIENTS)
    test, train = (side.draw_patients(n, c.random()) for side in (c.test, c.train))
    made = c.synthetic.select(slice(n))
    found: dict[tuple[str, str], dict[str, float]] = {}
    for what in console.each(["auc", "floor", *ABLATIONS], "telling synthetic from real"):
        other = train if what == "floor" else made
        left = [_without(what, side.x_NC) for side in (test, other)]
        for one in classifiers:
            seen_N = np.concatenate([one.seen(x_NC) for x_NC in left])
            found[one.name, what] = told_apart(test, other, one, seen_N, c.bootstrap, c.random())
    results = [
        {
            "classifier": one.name,
            "encoder": one.encoder,
            "auc": found[one.name, "auc"],
            "floor": found[one.name, "floor"],
            "without": {what: found[one.name, what] for what in ABLATIONS},
        }
        for one in classifiers
    ]
    note = f"of {n} patients on each side" + (f", drawn from {c.smallest}" if n < c.smallest else "")
    return {"n_real": test.n_patients, "n_synthetic": n, "results": results, "sentence": _sentence(results),
            "note": note}  # fmt: skip


def _without(what: str, x_NC: np.ndarray) -> np.ndarray:
    return in_blocks(ABLATIONS[what], x_NC) if what in ABLATIONS else x_NC


def _sentence(results: Sequence[dict[str, Any]]) -> str:
    best = max(results, key=lambda row: row["auc"]["value"])
    if best["auc"]["low"] <= max(0.5, best["floor"]["high"]):
        return "No classifier told synthetic images from real ones with certainty; larger samples may."
    least = min(best["without"], key=lambda what: best["without"][what]["value"])
    now, then = best["auc"]["value"], best["without"][least]["value"]
    if now - then > 0.05:
        return f"{best['classifier']} tells them apart (AUC {now:.2f}), most by {least}: without, {then:.2f}."
    return f"{best['classifier']} tells them apart (AUC {now:.2f}), whichever of {', '.join(ABLATIONS)} is taken away."
