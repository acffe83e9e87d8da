"""Copy check: is a synthetic image nearer to a training patient than to a patient it has never seen?

Descriptive, not an attack: noise on copies evades it. Every count is calibrated by the same count against holdout
patients, of the same number, because the rate of "near" neighbours grows with the number of candidates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from imgsynth.audit.spaces import flat
from imgsynth.measure.distances import distances
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import clopper_pearson, recentred_interval

# Quantile of holdout-to-train distances: nearer than this is unusual for two different patients. Set by real patients
# alone, so that no generator moves it.
TOO_NEAR = 0.05
NEAREST = 0.01  # share of samples, the nearest ones, that the ratio of distances looks at
MIN_PATIENTS = 4


def distance_to_patients(synthetic: Images, patients: Images) -> np.ndarray:
    """[N, P] distance of each synthetic image to the nearest image of each patient."""
    order = np.argsort(patients.owner_N, kind="stable")
    starts_P = np.searchsorted(patients.owner_N[order], np.arange(patients.n_patients))
    to_images_NM = distances(flat(synthetic.x_NC), flat(patients.x_NC[order]))
    return np.minimum.reduceat(to_images_NM, starts_P, axis=1)


def copy_counts(
    to_dealt_NP: np.ndarray, threshold: float, replicates: int, random: np.random.Generator
) -> dict[str, Any]:
    """How many synthetic images are nearer to train than to holdout; one half is expected without copying.

    ``to_dealt_NP`` [N, 2M] are distances to M train patients and then to M holdout patients, found without regard to
    which is which: with distances that were looked for on each side by itself, ``chance`` would not be exact.

    ``low, high``: binomial, for these very patients (equal numbers of each). ``chance``: shares that come of dealing
    out the same patients to train and holdout at random, 95 % of them, and in ``p`` how many are as large as the one
    found. It is exact where nothing was copied: samples that are all alike have one and the same nearest patient, who
    was trained on in half of the deals, and then all of them are nearer to train.
    ``too_near``: how many are nearer than ``threshold``, to train and to holdout. ``holdout_relative_distance``: the
    NEAREST quantile of distances to train over that of distances to holdout; 1 without copying, 0 with exact copies,
    and its interval over random halves of the patients, which vary as a bootstrap would without repeating anybody
    (delete-half jackknife).
    """
    n, m = len(to_dealt_NP), to_dealt_NP.shape[1] // 2
    some_NM, others_NM = to_dealt_NP[:, :m], to_dealt_NP[:, m:]
    one, other = some_NM.min(1), others_NM.min(1)
    closer = int((one < other).sum())
    low, high = clopper_pearson(closer, n)
    ratios = []
    for _ in range(replicates):
        half = some_NM[:, random.permutation(m)[: m // 2]].min(1)
        other_half = others_NM[:, random.permutation(m)[: m // 2]].min(1)
        ratios.append(_relative(half, other_half))
    ratio = _relative(one, other)
    ratio_low, ratio_high = recentred_interval(ratio, np.array(ratios))
    return {
        "n_synthetic": n,
        "n_patients_each": m,
        "closer_to_train": closer,
        "share": closer / n,
        "low": low,
        "high": high,
        "chance": _by_chance(to_dealt_NP, replicates, random),
        "too_near": {
            "distance": threshold,
            "train": int((one < threshold).sum()),
            "holdout": int((other < threshold).sum()),
        },
        "holdout_relative_distance": {"value": ratio, "low": max(ratio_low, 0.0), "high": ratio_high},
        "note": "one half is expected without copying; descriptive only: noisy copies evade it",
    }


def _by_chance(to_all_NP: np.ndarray, deals: int, random: np.random.Generator) -> dict[str, float]:
    """The share nearest to the first M patients, where which M of all 2M are the first is a matter of chance.

    A sample that is as near to several patients, be they equal images, counts for each of them in part.
    """
    m = to_all_NP.shape[1] // 2
    nearest_NP = to_all_NP == to_all_NP.min(1, keepdims=True)
    share_P = (nearest_NP / nearest_NP.sum(1, keepdims=True)).mean(0)
    dealt_D = np.array([share_P[random.permutation(2 * m)[:m]].sum() for _ in range(deals)])
    low, high = np.quantile(dealt_D, [0.025, 0.975])
    as_large = int((dealt_D >= share_P[:m].sum() - 1e-12).sum())
    return {"low": float(low), "high": float(high), "p": (1 + as_large) / (1 + deals)}


def _relative(to_train_N: np.ndarray, to_holdout_N: np.ndarray) -> float:
    return float(np.quantile(to_train_N, NEAREST) / max(np.quantile(to_holdout_N, NEAREST), 1e-12))
