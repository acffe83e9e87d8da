"""Dice by subgroup, and beside few real pairs: whom synthetic pairs serve, and whether they add."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from imgsynth import console
from imgsynth.evaluate.subgroups import Attributes, groups_of, rows_of_groups
from imgsynth.evaluate.utility import difference
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import value_and_interval
from imgsynth.types import Structure

# Shape legend: R resamples after the test set itself, P test patients, M structures.


def dice_by_group(
    real_PM: np.ndarray, made_PM: np.ndarray, test: Images, attributes: Attributes, structures: Sequence[Structure],
    weights_RP: np.ndarray,
) -> list[dict[str, Any]]:  # fmt: skip
    """For each subgroup and structure the patients' Dice by the real- and the synthetic-trained network, and the gap on
    the same resamples.

    [{"attribute", "value", "n_patients" (None where suppressed), "results": [{"name", "real", "synthetic", "gap"}]}]
    """
    rows = rows_of_groups(test, groups_of(test, attributes))
    for row, mask_N in rows:
        row["results"] = []
        if mask_N is None:
            continue
        members = np.unique(test.owner_N[mask_N])
        real_RM, made_RM = (resampled(one_PM[members], weights_RP[:, members]) for one_PM in (real_PM, made_PM))
        for k, structure in enumerate(structures):
            found = {"real": real_RM[:, k], "synthetic": made_RM[:, k], "gap": (real_RM - made_RM)[:, k]}
            row["results"].append({"name": structure.name, **{of: value_and_interval(v) for of, v in found.items()}})
    return [row for row, _ in rows]


def beside_few(
    train: Images, shares: Sequence[float], least: int, seed: int, dice_of: Callable[[np.ndarray, bool], np.ndarray]
) -> list[dict[str, Any]]:
    """Mean Dice of a network on a share of the train patients, at least ``least``, alone and with all synthetic pairs.

    ``dice_of(keep_N, both)`` is [1 + R, M] of the network that learned from the real pairs ``keep_N`` [N], and from the
    synthetic ones too where ``both``. [{"share", "n_patients", "real", "real_and_synthetic", "gain"}]
    """
    rows = []
    for share in console.each(list(shares), "training a small_unet on a share of the patients"):
        n = min(train.n_patients, max(least, round(share * train.n_patients)))
        chosen = np.random.default_rng(seed).choice(train.names_P, n, replace=False)
        keep_N = np.isin(train.patients_N, chosen)
        alone_R, both_R = (dice_of(keep_N, both).mean(1) for both in (False, True))
        rows.append({"share": share, "n_patients": n, "real": value_and_interval(alone_R),
                     "real_and_synthetic": value_and_interval(both_R),
                     "gain": difference(both_R, alone_R)})  # fmt: skip
    return rows


def resampled(patient_PM: np.ndarray, weights_RP: np.ndarray) -> np.ndarray:
    """[1 + R, M] the mean over patients; entry 0 is the test set itself. NaN where a resample has none of them."""
    everyone_RP = np.vstack([np.ones(len(patient_PM)), weights_RP])
    total_R1 = everyone_RP.sum(1, keepdims=True)
    return np.divide(everyone_RP @ patient_PM, total_R1, out=np.full((len(everyone_RP), patient_PM.shape[1]), np.nan),
                     where=total_R1 > 0)  # fmt: skip
