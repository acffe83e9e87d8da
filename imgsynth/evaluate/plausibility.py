"""Are the structures of synthetic masks of sizes and forms that patients' have?

Each quantity of ``shapes.py`` is held against the test patients': how many synthetic masks lie outside their range, and
how far the two distributions are apart (Wasserstein-1). The floor is the same of the train patients.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from imgsynth.evaluate.metric import Comparison, NotDone
from imgsynth.evaluate.segmentation import labels_of
from imgsynth.evaluate.shapes import contact, quantities, quantity_names
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import bootstrap_weights, percentile_interval, recentred_interval

MIN_PATIENTS = 10  # of the test split: a range of fewer says nothing
TAIL = 0.005  # of the test patients' distribution on either side, beyond which the range ends
TOLERANCE = 0.1  # of the range's width, by which it is widened: so few patients do not show their extremes


def plausibility(c: Comparison) -> dict[str, Any]:
    """{"n_test_patients", "n_synthetic", "range", "structures": [{"name", "present", "outside", "quantities"}],
    "contacts": [...]}; JSON-able.

    Of each quantity: its unit, the test patients' ``range``, means, ``outside`` (the share of synthetic masks beyond
    it, with an interval), ``distance`` (Wasserstein-1, in the unit) and the train patients' floor of both. ``outside``
    of a structure: the share with at least one quantity beyond. A mask without the structure has a volume of 0, and
    no other quantity. Intervals resample patients; the range is taken as it is.

    Raises:
        NotDone: without masks, or with fewer than MIN_PATIENTS test patients.
    """
    if not c.grid.structures or any(side.masks_NM is None for side in (c.train, c.test, c.synthetic)):
        raise NotDone("the run has no masks (data.masks)")
    if c.test.n_patients < MIN_PATIENTS:
        raise NotDone(f"{c.test.n_patients} test patients; it takes {MIN_PATIENTS}")
    n = min(c.train.n_patients, len(c.synthetic))
    sides = {
        "test": c.test,
        "train": c.train.draw_patients(n, c.random()),
        "synthetic": c.synthetic.select(np.arange(n)),
    }
    labels = {side: labels_of(images) for side, images in sides.items()}
    names = quantity_names(c.grid.spatial_dims)
    structures, contacts = [], []
    for k, structure in enumerate(c.grid.structures, 1):
        found = {side: np.stack([quantities(one == k, c.grid.spacing) for one in labels[side]]) for side in sides}
        rows = [_compared(name, unit, {side: found[side][:, q] for side in sides}, sides, c)
                for q, (name, unit) in enumerate(names.items())]  # fmt: skip
        structures.append({
            "name": structure.name,
            "present": {side: float((values[:, 0] > 0).mean()) for side, values in found.items()},
            "outside": _shares(found, sides, c),
            "quantities": rows,
        })  # fmt: skip
    for a, b in combinations(range(1, 1 + len(c.grid.structures)), 2):
        touching = {side: np.array([contact(one, a, b, c.grid.spacing) for one in labels[side]]) for side in sides}
        if touching["test"].any():
            between = [c.grid.structures[k - 1].name for k in (a, b)]
            unit = "mm²" if c.grid.spatial_dims == 3 else "mm"
            contacts.append({"between": between, **_compared("contact", unit, touching, sides, c)})
    return {
        "n_test_patients": c.test.n_patients,
        "n_train_patients": sides["train"].n_patients,
        "n_synthetic": n,
        "range": f"quantiles {TAIL:g} to {1 - TAIL:g} of the test patients, widened by {TOLERANCE:.0%} on either side",
        "structures": structures,
        "contacts": contacts,
    }  # fmt: skip


def usual_range(real_N: np.ndarray) -> tuple[float, float]:
    """The real values' range, or NaN where there is none. A quantity that never varies has a range of one value."""
    low, high = np.nanquantile(real_N, [TAIL, 1 - TAIL]) if np.isfinite(real_N).any() else (np.nan, np.nan)
    return float(low - TOLERANCE * (high - low)), float(high + TOLERANCE * (high - low))


def beyond(values_N: np.ndarray, real_N: np.ndarray) -> np.ndarray:
    """[N] which lie outside the real values' range; what is not there lies nowhere."""
    low, high = usual_range(real_N)
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    return (values_N < low - slack) | (values_N > high + slack)


def _compared(
    name: str, unit: str, values: dict[str, np.ndarray], sides: dict[str, Images], c: Comparison
) -> dict[str, Any]:
    """One quantity: ``values`` has one for each image of each side."""
    out = {side: beyond(values[side], values["test"]) for side in ("synthetic", "train")}
    return {
        "name": name,
        "unit": unit,
        "range": [_number(end) for end in usual_range(values["test"])],
        "mean": {side: _number(_weighted_mean(values[side], sides[side])) for side in sides},
        "outside": _share(out["synthetic"], values["synthetic"], sides["synthetic"], c),
        "outside_floor": _share(out["train"], values["train"], sides["train"], c),
        "distance": _distance(values["synthetic"], values["test"], sides["synthetic"], c.test, c),
        "distance_floor": _distance(values["train"], values["test"], sides["train"], c.test, c),
    }


def _shares(found: dict[str, np.ndarray], sides: dict[str, Images], c: Comparison) -> dict[str, Any]:
    """Of masks with at least one quantity beyond its range."""
    shares = {}
    for side in ("synthetic", "train"):
        out_QN = [beyond(found[side][:, q], found["test"][:, q]) for q in range(found[side].shape[1])]
        shares[side] = _share(np.any(out_QN, axis=0), found[side][:, 0], sides[side], c)
    return shares


def weights_of(images: Images, there_N: np.ndarray) -> np.ndarray:
    """[N] of each image: patients count alike, whatever number of images has the quantity; 0 where it is not there."""
    owner_N = images.owner_N
    each_P = np.bincount(owner_N, there_N, images.n_patients)
    return np.where(there_N, 1 / np.maximum(each_P, 1)[owner_N], 0.0)


def _weighted_mean(values_N: np.ndarray, images: Images) -> float:
    weight_N = weights_of(images, np.isfinite(values_N))
    return float(np.nansum(values_N * weight_N) / weight_N.sum()) if weight_N.any() else np.nan


def _share(out_N: np.ndarray, values_N: np.ndarray, images: Images, c: Comparison) -> dict[str, float] | None:
    """The mean over patients with an interval; None where the quantity is nowhere."""
    weight_N = weights_of(images, np.isfinite(values_N))
    if not weight_N.any():
        return None
    owner_N, n = images.owner_N, images.n_patients
    hits_P, all_P = (np.bincount(owner_N, weight_N * of, n) for of in (out_N, np.ones(len(out_N))))
    draws_RP = bootstrap_weights(n, c.bootstrap, c.random())
    with np.errstate(invalid="ignore"):
        low, high = percentile_interval((draws_RP @ hits_P) / (draws_RP @ all_P))
    return {"value": float(hits_P.sum() / all_P.sum()), "low": low, "high": high}


def _distance(a_N: np.ndarray, b_M: np.ndarray, a: Images, b: Images, c: Comparison) -> dict[str, float] | None:
    """Wasserstein-1 between the two distributions over patients, with an interval of resampled patients."""
    there = [np.isfinite(side) for side in (a_N, b_M)]
    if not (there[0].any() and there[1].any()):
        return None
    random, values, weights, owners = c.random(), [], [], []
    for values_N, images, there_N in zip((a_N, b_M), (a, b), there, strict=True):
        values.append(values_N[there_N])
        weights.append(weights_of(images, there_N)[there_N])
        owners.append(images.owner_N[there_N])
    draws = [bootstrap_weights(images.n_patients, c.bootstrap, random) for images in (a, b)]
    found = wasserstein_distance(*values, *weights)
    replicates = np.full(c.bootstrap, np.nan)
    for r in range(c.bootstrap):
        drawn = [weight * draw[r][owner] for weight, draw, owner in zip(weights, draws, owners, strict=True)]
        if all(one.any() for one in drawn):
            replicates[r] = wasserstein_distance(*values, *drawn)
    low, high = recentred_interval(found, replicates)
    return {"value": float(found), "low": max(low, 0.0), "high": high}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
