"""The copy check whole: plain and invariant counts, memorisation, the sheet. A private-data output: it stays local."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imgsynth.audit.copies.counts import MIN_PATIENTS, TOO_NEAR, copy_counts, distance_to_patients
from imgsynth.audit.copies.invariant import invariant_nearness
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
    near, far = invariant_nearness(synthetic, train), invariant_nearness(synthetic, holdout)
    between = invariant_nearness(holdout, train).distance_NP
    plain = [distance_to_patients(*pair) for pair in ((synthetic, train), (synthetic, holdout), (holdout, train))]
    found: dict[str, Any] = {
        **_measured(plain[0], plain[1], plain[2], settings),
        "invariant": _measured(near.distance_NP, far.distance_NP, between, settings),
    }
    if sheet is not None:
        path, grid = sheet
        write_copy_sheet(path, synthetic, train, holdout, near, far, grid)
        found["sheet"] = f"{path.parent.name}/{path.name}"
    return found


def _measured(
    to_train_NP: np.ndarray, to_holdout_NQ: np.ndarray, between_MP: np.ndarray, settings: AuditConfig
) -> dict[str, Any]:
    """``copy_counts`` and ``memorisation`` by one distance; ``between_MP`` is that of holdout images to train patients.

    ``caught``: the share nearer to train is larger than by chance (p ≤ 2.5 %), or the interval of the memorised share
    lies above that of holdout (95 %, of which one side counts): 5 % of false alarms at most.
    """
    random = np.random.default_rng(settings.seed)
    threshold = float(np.quantile(between_MP.min(1), TOO_NEAR))
    counts = copy_counts(to_train_NP, to_holdout_NQ, threshold, settings.bootstrap, random)
    memorised = memorisation(to_train_NP, to_holdout_NQ, threshold)
    caught = bool(counts["chance"]["p"] <= 0.025 or memorised["low"] > 0)
    return {**counts, "memorised": memorised, "caught": caught}
