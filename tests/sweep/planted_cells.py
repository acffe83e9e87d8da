"""Cells whose files are written by hand: what a table must say of them is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgsynth.files import write_json
from imgsynth.sweep.cells import Cell, SweepFolder, write_index

FACTS = {"public": None, "unit": "patient", "n": 100, "delta": 1e-5, "epsilon_after_all": 9.5,
         "epsilon_of_private_runs": 9.5, "budget": 12.0}  # fmt: skip


def entry(value: float | None, half: float = 0.0) -> dict[str, Any]:
    return {
        "value": value,
        "low": None if value is None else value - half,
        "high": None if value is None else value + half,
    }


def plant(
    folder: SweepFolder, cell: Cell, auc: Mapping[str, float], bound: float | None = 0.5, frechet: float = 2.0
) -> None:
    """A finished cell: AUC of the small CNN by what it was trained on, each ± 0.03, a Fréchet distance ± 0.4."""
    root = folder.cell(cell)
    results = [
        {"classifier": "small_cnn", "trained_on": on, "auc": entry(value, 0.03),
         "balanced_accuracy": entry(value - 0.1, 0.02), "brier": entry(0.2), "calibration_error": entry(None),
         "over_trivial": entry(value - auc["trivial generator"], 0.04)
         if on == "synthetic" and "trivial generator" in auc else None}
        for on, value in auc.items()
    ]  # fmt: skip
    metric = {"name": "frechet_distance", **entry(frechet, 0.4), "floor": entry(0.2, 0.1)}
    write_json(root / "evaluation.json", {"utility": {"results": results}, "segmentation": {}, "metrics": [metric],
                                          "not_done": []})  # fmt: skip
    attack = {"role": "primary", "auc": 0.51, "auc_low": 0.45, "auc_high": 0.57}
    write_json(root / "audit.json", {"epsilon_lower_bound": bound, "attacks": [attack], "not_done": [],
                                     "verdict": "NO LEAK FOUND"})  # fmt: skip
    proven = None if cell.epsilon == float("inf") else cell.epsilon - 0.01
    write_json(root / "plan.json", {"epsilon": proven, "delta": 1e-5, "unit": "patient", "n": 100, "steps": 9,
                                    "noise_multiplier": 2.0})  # fmt: skip
    write_json(root / "seconds.json", {"train": 10.0, "sample": 1.0, "evaluate": 4.0, "audit": 5.0})


def indexed(root: Path, *cells: Cell) -> SweepFolder:
    folder = SweepFolder(root)
    write_index(folder, ["experiment=planted"], cells, {cell.cohort: FACTS for cell in cells})
    return folder
