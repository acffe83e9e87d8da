"""The copy check whole: plain and invariant counts, memorisation, the sheet. A private-data output: it stays local."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imgsynth.audit.copies.counts import MIN_PATIENTS, TOO_NEAR, copy_counts, distance_to_patients
from imgsynth.audit.copies.invariant import OF_ROW, invariant_nearness
from imgsynth.audit.copies.memorised import memorisation
from imgsynth.audit.copies.sheet import write_copy_sheet
from imgsynth.measure.images import Images
from imgsynth.schema import AuditConfig
from imgsynth.types import Grid


def find_copies(
    synthetic: Images, train: Images, holdout: Images, settings: AuditConfig, sheet: tuple[Path, Grid] | None = None
) -> dict[str, Any]:
    """Counts by voxel distance, and under ``invariant`` by the least over flips and shifts. JSON-able.

    {"not_done": why} with too few patients. ``sheet``: where to write the contact sheet, and the images' grid.
    """
    smallest = min(train.n_patients, holdout.n_patients)
    if smallest < MIN_PATIENTS or not len(synthetic):
        return {"not_done": f"{smallest} patients on one side, {len(synthetic)} samples; it takes {MIN_PATIENTS} and 1"}
    random = np.random.default_rng(settings.seed)  # whom the counts are about is drawn before any distance is taken
    dealt = train.draw_patients(smallest, random), holdout.draw_patients(smallest, random)
    near, far = invariant_nearness(synthetic, train), invariant_nearness(synthetic, holdout)
    found = _measured(
        np.concatenate([distance_to_patients(synthetic, side) for side in dealt], axis=1),
        distance_to_patients(synthetic, train).min(0), distance_to_patients(synthetic, holdout).min(0),
        distance_to_patients(holdout, train).min(1), settings,
    )  # fmt: skip
    found["invariant"] = _measured(
        invariant_nearness(synthetic, _one_crowd(*dealt), 2 * OF_ROW).filled_NP, near.nearest_P, far.nearest_P,
        invariant_nearness(holdout, train).distance_NP.min(1), settings,
    )  # fmt: skip
    if sheet is not None:
        path, grid = sheet
        write_copy_sheet(path, synthetic, train, holdout, near, far, grid)
        found["sheet"] = f"{path.parent.name}/{path.name}"
    return found


def _one_crowd(train: Images, holdout: Images) -> Images:
    """M patients of each: 0 … M - 1 are of train, M … 2M - 1 of holdout.

    What a search leaves out, because other patients are nearer, must not depend on who was trained on.
    """
    return Images(
        np.concatenate([train.x_NC, holdout.x_NC]), np.concatenate([train.y_N, holdout.y_N]),
        np.concatenate([train.owner_N, holdout.owner_N + train.n_patients]),
    )  # fmt: skip


def _measured(
    to_dealt_NP: np.ndarray, to_train_P: np.ndarray, to_holdout_Q: np.ndarray, between_M: np.ndarray,
    settings: AuditConfig,
) -> dict[str, Any]:  # fmt: skip
    """``copy_counts`` of the samples' distances [N, 2M] to M patients of each side, and ``memorisation`` of every
    patient's distance to the nearest sample; ``between_M`` is that of holdout images to the nearest train patient.

    ``caught``: the share nearer to train is larger than by chance (p ≤ 2.5 %), or the interval of the memorised share
    lies above that of holdout (95 %, of which one side counts): 5 % of false alarms at most.
    """
    random = np.random.default_rng(settings.seed)
    threshold = float(np.quantile(between_M, TOO_NEAR))
    counts = copy_counts(to_dealt_NP, threshold, settings.bootstrap, random)
    memorised = memorisation(to_train_P, to_holdout_Q, threshold)
    caught = bool(counts["chance"]["p"] <= 0.025 or memorised["low"] > 0)
    return {**counts, "memorised": memorised, "caught": caught}
