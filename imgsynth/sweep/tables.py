"""The tables of a sweep: one for people (Markdown and HTML are made of it), one long one for programs (CSV)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imgsynth.evaluate.utility import SYNTHETIC
from imgsynth.sweep.cells import said

CSV_COLUMNS = ("cohort", "what", "epsilon", "repetition", "number", "value", "low", "high")
METRICS = {"frechet_distance": "Fréchet", "kernel_distance": "KD", "ms_ssim": "MS-SSIM", "recall": "recall",
           "coverage": "coverage"}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """One cohort. ``rows`` are of text, each as long as ``columns``."""

    cohort: str
    columns: list[str]
    rows: list[list[str]]


def table_of(cohort: str, curve: Mapping[str, Any]) -> Table:
    """Models by ε; below them what the same ε buys without a generator, and real data: ceilings, and the metrics'
    real-versus-real floors. A column that nothing has a number for is left out."""
    groups = [g for g in curve["groups"] if g["cohort"] == cohort]
    rivals = [r for r in curve["rivals"] if r["cohort"] == cohort]
    real = curve["ceilings"].get(cohort, {})
    scores = {f"{score}/{c}": f"{text}, {c}" for score, text in (("auc", "AUC"), ("balanced_accuracy", "balanced acc."))
              for c in classifiers_of(groups, rivals, real)}  # fmt: skip
    scores |= {f"over_trivial/{c}": f"AUC above trivial, {c}" for c in classifiers_of(groups, rivals, real)}
    dice = {f"dice/{name}": f"Dice, {name}" for name in structures_of(groups)}
    dice |= {f"dice_over_trivial/{name}": f"Dice above trivial, {name}" for name in structures_of(groups)}
    columns = {**scores, **dice, **METRICS, "epsilon_lower_bound": "audited ε ≥", "mia_auc": "MIA AUC"}
    lines = [([g["model"], said(g["epsilon"]), _runs(g)], _by_column(g["numbers"], columns), g) for g in groups]
    lines += [([r["rival"], said(r["epsilon"]), ""], r["numbers"], {}) for r in rivals]
    lines += [(["real data", "–", ""], real, {})] if real else []
    kept = [name for name in columns if any(name in numbers for _, numbers, _ in lines)]
    rows = [[*head, *(band(numbers.get(name)) for name in kept), _seconds(g), "; ".join(g.get("verdicts", ()))]
            for head, numbers, g in lines]  # fmt: skip
    return Table(cohort, ["model", "ε", "runs", *(columns[name] for name in kept), "seconds: train / all", "verdicts"],
                 rows)  # fmt: skip


def _by_column(numbers: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    """What was trained on synthetic images under the name of its column."""
    return {name: entry for name in columns if (entry := numbers.get(f"{name}/{SYNTHETIC}", numbers.get(name)))}


def classifiers_of(groups: Sequence[Any], rivals: Sequence[Any], real: Mapping[str, Any]) -> list[str]:
    names = [name for one in (*groups, *rivals) for name in one["numbers"]] + list(real)
    return list(dict.fromkeys(name.split("/")[1] for name in names if name.startswith("auc/")))


def structures_of(groups: Sequence[Any]) -> list[str]:
    names = [name for one in groups for name in one["numbers"]]
    return list(dict.fromkeys(name.split("/")[1] for name in names if name.startswith("dice/")))


def band(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    low, high = entry["low"], entry["high"]
    return f"{entry['value']:.3g}" + (f" [{low:.3g}, {high:.3g}]" if (low, high) != (entry["value"],) * 2 else "")


def _runs(one: Mapping[str, Any]) -> str:
    rest = [f"{one[state]} {state}" for state in ("failed", "unfinished") if one[state]]
    return ", ".join([str(one["finished"]), *rest])


def _seconds(one: Mapping[str, Any]) -> str:
    seconds = one.get("seconds") or {}
    return f"{seconds['train']:.0f} / {sum(seconds.values()):.0f}" if seconds else ""


def markdown(curve: Mapping[str, Any]) -> str:
    """curve.md. LOCAL."""
    lines = ["# Privacy and utility", "", curve["scope"] + ".", "", curve["how_to_read"], "", curve["choice"]]
    for cohort, facts in curve["cohorts"].items():
        table = table_of(cohort, curve)
        lines += ["", f"## {cohort}", "", about(facts), "", f"![{cohort}](curve-{cohort}.png)", ""]
        lines += [_line(table.columns), _line(["---"] * len(table.columns)), *map(_line, table.rows)]
    if failed := [row for row in curve["cells"] if row["state"] == "failed"]:
        lines += ["", "## Failed", "", *(f"- {name_of(row)}: {row['why']}" for row in failed)]
    return "\n".join(lines) + "\n"


def about(facts: Mapping[str, Any]) -> str:
    """One sentence on a cohort, for people."""
    kind = f"public ({facts['public']})" if facts["public"] else "private"
    whole = said(facts["epsilon_after_all"])
    if facts["epsilon_after_all"] is None and facts["epsilon_of_private_runs"]:
        whole += f" (without the runs without privacy: {said(facts['epsilon_of_private_runs'])})"
    return (f"{facts['n']:,} training {facts['unit']}s, {kind}. All runs that the ledger has on it come to ε = {whole} "
            f"at δ = {facts['delta']:g}.")  # fmt: skip


def name_of(row: Mapping[str, Any]) -> str:
    return f"{row['cohort']}, {row['model']}, ε = {said(row['epsilon'])}, repetition {row['repetition']}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def csv_text(curve: Mapping[str, Any]) -> str:
    """curve.csv, a line for each number: of each run, of repetitions together, of rivals, of real data. LOCAL."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    blocks = [(r["cohort"], r["model"], said(r["epsilon"]), r["repetition"], r.get("numbers", {}))
              for r in curve["cells"]]  # fmt: skip
    blocks += [(g["cohort"], g["model"], said(g["epsilon"]), "all", g["numbers"]) for g in curve["groups"]]
    blocks += [(r["cohort"], r["rival"], said(r["epsilon"]), "all", r["numbers"]) for r in curve["rivals"]]
    blocks += [(cohort, "real data", "", "all", numbers) for cohort, numbers in curve["ceilings"].items()]
    for *head, numbers in blocks:
        for name, entry in numbers.items():
            writer.writerow([*head, name, *(f"{entry[key]:.6g}" for key in ("value", "low", "high"))])
    return out.getvalue()
