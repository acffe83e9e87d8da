"""Repetitions put together: of models by cohort, model and ε; of rivals by cohort and ε; of ceilings by cohort.

The interval of a mean over R repetitions has two parts that add up as variances: the patients, on whom all repetitions
are tested alike, and the training, of which only R were made.

    half-width = √( h² + (t(R−1) s/√R)² )

h is the repetitions' mean half-width over patients (at least that of their mean), s their standard deviation, t the
97.5 % quantile of Student's distribution. With one repetition only the patients are in it, which ``repetitions`` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from imgsynth.evaluate.utility import ATLAS, DP_SGD, REAL, TRIVIAL
from imgsynth.sweep.results import Entry, names_of

RIVALS = {  # what is at an ε and of no model
    TRIVIAL: "trivial generator",
    ATLAS: "noised mean mask",
    DP_SGD: "DP-SGD network",
}
RATES = ("auc", "balanced_accuracy", "dice", "precision", "recall", "coverage", "mia_auc")


def combined(entries: Sequence[Entry]) -> dict[str, Any]:
    """{"value": mean, "low", "high", "repetitions": R, "values"}; one entry of each repetition."""
    values = [entry["value"] for entry in entries]
    mean, spread = float(np.mean(values)), 0.0
    if len(values) > 1:
        spread = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    below, above = (float(np.mean([abs(e[end] - e["value"]) for e in entries])) for end in ("low", "high"))
    return {"value": mean, "low": mean - math.hypot(below, spread), "high": mean + math.hypot(above, spread),
            "repetitions": len(values), "values": values}  # fmt: skip


def _rate(found: dict[str, Any]) -> dict[str, Any]:
    """A number that is in [0, 1] by its nature has no interval beyond."""
    return found | {"low": max(0.0, found["low"]), "high": min(1.0, found["high"])}


def largest(entries: Sequence[Entry]) -> dict[str, Any]:
    """Of lower bounds, the largest: each holds with 95 %, so that with R of them the chance that one is too high is at
    most R times 5 %."""
    values = [entry["value"] for entry in entries]
    return {"value": max(values), "low": min(values), "high": max(values), "repetitions": len(values), "values": values}


def group(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each cohort, model and ε: {"cohort", "model", "epsilon", "proven", "delta", "finished", "failed",
    "unfinished", "seconds", "verdicts", "numbers"}; models in the order of ``rows``, ε ascending, ∞ last."""
    cells: dict[tuple[str, str, float | None], list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["cohort"], row["model"], row["epsilon"]), []).append(row)
    order = list(dict.fromkeys((cohort, model) for cohort, model, _ in cells))
    found = [_grouped(key, mine) for key, mine in cells.items()]
    return sorted(found, key=lambda g: (order.index((g["cohort"], g["model"])), _number(g["epsilon"])))


def _grouped(key: tuple[str, str, float | None], rows: list[dict[str, Any]]) -> dict[str, Any]:
    finished = [row for row in rows if row["state"] == "finished"]
    found: dict[str, Any] = dict(zip(("cohort", "model", "epsilon"), key, strict=True))
    found |= {state: sum(row["state"] == state for row in rows) for state in ("finished", "failed", "unfinished")}
    plans = [row["plan"] for row in finished]
    found["proven"] = max((p["epsilon"] for p in plans if p["epsilon"] is not None), default=None)
    found["delta"] = plans[0]["delta"] if plans else None
    stages = {stage for row in finished for stage in row["seconds"]}
    found["seconds"] = {s: _mean(row["seconds"].get(s, 0.0) for row in finished) for s in sorted(stages)}
    found["verdicts"] = sorted({row["verdict"] for row in finished})
    own = [name for name in names_of(finished) if name.rpartition("/")[2] not in (REAL, *RIVALS, "floor")]
    found["numbers"] = {name: _of(finished, name) for name in own}
    return found


def rivals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """{"cohort", "rival", "epsilon", "numbers"}: what the same ε buys without this generator, over all cells at it."""
    found = []
    for cohort, epsilon in dict.fromkeys((row["cohort"], row["epsilon"]) for row in _finished(rows)):
        mine = [row for row in _finished(rows) if (row["cohort"], row["epsilon"]) == (cohort, epsilon)]
        for on, rival in RIVALS.items():
            if numbers := {name.rpartition("/")[0]: _of(_once(mine, name, "repetition"), name)
                           for name in names_of(mine) if _ends(name, on)}:  # fmt: skip
                found.append({"cohort": cohort, "rival": rival, "epsilon": epsilon, "numbers": numbers})
    return sorted(found, key=lambda r: (r["cohort"], r["rival"], _number(r["epsilon"])))


def ceilings(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each cohort the numbers of real data: classifiers trained on it, and each metric's real-versus-real floor."""
    found = {}
    for cohort in dict.fromkeys(row["cohort"] for row in _finished(rows)):
        mine = [row for row in _finished(rows) if row["cohort"] == cohort]
        found[cohort] = {name.rpartition("/")[0]: _of(_once(mine, name, "cohort"), name) for name in names_of(mine)
                         if _ends(name, REAL) or _ends(name, "floor")}  # fmt: skip
    return found


def _finished(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["state"] == "finished"]


def _ends(name: str, on: str) -> bool:
    return name.rpartition("/")[2] == on


def _once(rows: Iterable[dict[str, Any]], name: str, within: str) -> list[dict[str, Any]]:
    """Rows with other numbers of that name than the ones before that agree in ``within``: what cells share is computed
    once and kept, equal to the bit. (Two trainings that come to the same number, a recall of 0 say, are two.)"""
    having = [row for row in rows if name in row["numbers"]]
    return list({(row[within], *sorted(row["numbers"][name].items())): row for row in reversed(having)}.values())[::-1]


def _of(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    entries = [row["numbers"][name] for row in rows if name in row["numbers"]]
    if name == "epsilon_lower_bound":
        return largest(entries)
    found = combined(entries)
    return _rate(found) if name.partition("/")[0] in RATES else found


def _mean(values: Iterable[float]) -> float:
    return round(float(np.mean(list(values))), 1)


def _number(epsilon: float | None) -> float:
    return math.inf if epsilon is None else epsilon
