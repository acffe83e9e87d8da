"""What came of a cell, from its own files: a flat dictionary of numbers with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imgsynth.evaluate.scores import SCORES
from imgsynth.files import read_json
from imgsynth.sweep.cells import Cell, SweepFolder, finite
from imgsynth.sweep.work import why

Entry = dict[str, float]  # value, low, high


def row_of(folder: SweepFolder, cell: Cell) -> dict[str, Any]:
    """{"cohort", "model", "epsilon" (None: ∞), "repetition", "state": finished | failed | unfinished, "why", "plan",
    "seconds", "verdict", "numbers": {name: {value, low, high}}, "not_done"}. JSON-able. LOCAL.

    Names of numbers: SCORE/CLASSIFIER/TRAINED ON, over_trivial/CLASSIFIER (AUC less that of noised class means, on the
    same resamples of patients), dice/STRUCTURE/TRAINED ON (and their mean), dice_over_trivial/STRUCTURE, METRIC,
    METRIC/floor,
    epsilon_lower_bound, mia_auc.
    """
    root = folder.cell(cell)
    known = {"cohort": cell.cohort, "model": cell.model, "epsilon": finite(cell.epsilon), "repetition": cell.repetition}
    state = "finished" if folder.finished(cell) else "failed" if folder.failure(cell).is_file() else "unfinished"
    if state != "finished":
        return known | {"state": state, "why": why(folder, cell) if state == "failed" else None}
    return known | {"state": state, "why": None} | outcome(root)


def outcome(root: Path) -> dict[str, Any]:
    """What the files of the run in ``root`` say, which is trained, evaluated and audited."""
    plan, evaluation, audit = (read_json(root / f"{name}.json") for name in ("plan", "evaluation", "audit"))
    seconds = read_json(root / "seconds.json")
    numbers = {**utility_numbers(evaluation), **dice_numbers(evaluation), **metric_numbers(evaluation)}
    bound = audit["epsilon_lower_bound"]
    if bound is not None:
        numbers["epsilon_lower_bound"] = _entry(bound)
    if (primary := primary_of(audit)) is not None:
        numbers["mia_auc"] = _entry(primary["auc"], primary["auc_low"], primary["auc_high"])
    return {
        "plan": {name: plan[name] for name in ("epsilon", "delta", "unit", "n", "noise_multiplier", "steps")},
        "seconds": seconds,
        "verdict": audit["verdict"],
        "numbers": numbers,
        "not_done": [*evaluation["not_done"], *audit["not_done"]],
    }


def primary_of(audit: dict[str, Any]) -> dict[str, Any] | None:
    return next((attack for attack in audit["attacks"] if attack["role"] == "primary"), None)


def utility_numbers(evaluation: dict[str, Any]) -> dict[str, Entry]:
    results = evaluation["utility"].get("results", ())
    over = {f"over_trivial/{one['classifier']}": entry for one in results
            if one["over_trivial"] is not None and (entry := _known(one["over_trivial"]))}  # fmt: skip
    return over | {f"{score}/{one['classifier']}/{one['trained_on']}": entry
            for one in results for score in SCORES if (entry := _known(one[score]))}  # fmt: skip


def dice_numbers(evaluation: dict[str, Any]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for one in evaluation["segmentation"].get("results", ()):
        entries = {s["name"]: entry for s in one["structures"] if (entry := _known(s["dice"]))}
        found |= {f"dice/{name}/{one['trained_on']}": entry for name, entry in entries.items()}
        found |= {f"dice_over_trivial/{s['name']}": entry for s in one["structures"]
                  if (over := s.get("over_trivial")) is not None and (entry := _known(over))}  # fmt: skip
        if entries:  # the mean of bounds: at least as wide as the interval of the mean
            mean = {key: sum(e[key] for e in entries.values()) / len(entries) for key in ("value", "low", "high")}
            found[f"dice/mean/{one['trained_on']}"] = mean
    return found


def metric_numbers(evaluation: dict[str, Any]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for one in evaluation["metrics"]:
        found |= {name: entry for name, e in ((one["name"], one), (f"{one['name']}/floor", one["floor"]))
                  if e is not None and (entry := _known(e))}  # fmt: skip
    return found


def _known(entry: dict[str, Any]) -> Entry | None:
    """Without what could not be computed (a resample of one class, say)."""
    return _entry(entry["value"], entry["low"], entry["high"]) if _is(entry["value"]) else None


def _entry(value: float, low: float | None = None, high: float | None = None) -> Entry:
    return {"value": value, "low": low if _is(low) else value, "high": high if _is(high) else value}  # type: ignore[dict-item]


def _is(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def names_of(rows: Iterable[dict[str, Any]]) -> list[str]:
    """All names of numbers in ``rows``, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.get("numbers", ())))
