"""Write the leaderboard of docs/results.md from finished sweeps, and a sheet of every model's images at two ε.

    imgsynth sweep experiment=leaderboard curve.root=DATA output=runs/leaderboard
    python benchmarks/leaderboard.py runs/leaderboard --pictures docs/images > tables.md

Every figure is read from the sweep's own files; nothing is typed in. Real patients are never drawn.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from imgsynth.evaluate.utility import SYNTHETIC
from imgsynth.files import read_json
from imgsynth.release.generate import generate
from imgsynth.sweep.cells import Cell, SweepFolder, said
from imgsynth.sweep.tables import band
from imgsynth.training.run import load_run
from imgsynth.training.sheets import PLANES, arrange, cell, save_png

COLUMNS = {
    "auc/small_cnn": "AUC, small CNN", "over_trivial/small_cnn": "above trivial",
    "balanced_accuracy/small_cnn": "balanced accuracy",
    "auc/logistic_regression": "AUC, logistic regression", "dice/anterior": "Dice, anterior",
    "dice_over_trivial/anterior": "above trivial", "dice/posterior": "Dice, posterior",
    "dice_over_trivial/posterior": "above trivial", "frechet_distance": "Fréchet", "ms_ssim": "MS-SSIM",
    "coverage": "coverage", "mia_auc": "MIA AUC", "epsilon_lower_bound": "audited ε ≥",
}  # fmt: skip
SHOWN = (8.0, math.inf)  # ε of the pictures
EACH = 4  # samples of a model in a sheet, over both ε


def table(cohort: str, curve: dict[str, Any]) -> str:
    """Models by ε, then what the same ε buys without a generator, then real data."""
    groups = [g for g in curve["groups"] if g["cohort"] == cohort and g["finished"]]
    lines = [(g["model"], g["epsilon"], g["numbers"], f"{g['seconds']['train']:.0f}", g["finished"]) for g in groups]
    lines += [(r["rival"], r["epsilon"], r["numbers"], "", "") for r in curve["rivals"] if r["cohort"] == cohort]
    lines += [("real data", "", curve["ceilings"].get(cohort, {}), "", "")]
    found = [[entry(numbers, name) for name in COLUMNS] for _, _, numbers, _, _ in lines]
    kept = [k for k in range(len(COLUMNS)) if any(row[k] != "–" for row in found)]
    head = ["model", "ε", "runs", *(list(COLUMNS.values())[k] for k in kept), "seconds of training"]
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (model, epsilon, _, seconds, runs), row in zip(lines, found, strict=True):
        start = [f"`{model}`" if runs else model, "" if epsilon == "" else said(epsilon), str(runs)]
        out.append("| " + " | ".join([*start, *(row[k] for k in kept), seconds]) + " |")
    return "\n".join(out)


def entry(numbers: dict[str, Any], name: str) -> str:
    found = numbers.get(f"{name}/{SYNTHETIC}", numbers.get(name))
    if name == "epsilon_lower_bound" and found:
        return f"{found['value']:.2f}"
    return band(found)


def samples(folder: SweepFolder, cohort: str, model: str, epsilon: float, n: int) -> tuple[list[Any], list[str]]:
    """Panels of ``n`` images of the first repetition, of the classes in turn, and their titles; seeded."""
    root = folder.cell(Cell(cohort, model, epsilon, 1))
    if not (root / "evaluation.json").is_file():
        return [], []
    run = load_run(root)
    labels = np.arange(n) % len(run.manifest.classes)
    images = generate(run, labels, torch.Generator().manual_seed(0))
    title = f"{model} {epsilon:g}"  # the font of pictures has neither ε nor ∞
    return [cell(image_C, run.grid) for image_C in images], [title] * n


def picture(folder: SweepFolder, cohort: str, models: list[str]) -> Image.Image:
    panels: list[Any] = []
    titles: list[str] = []
    for model in models:
        for epsilon in SHOWN:
            more = samples(folder, cohort, model, epsilon, EACH // len(SHOWN))
            panels, titles = panels + more[0], titles + more[1]
    return arrange(panels, titles, PLANES if len(panels[0]) == len(PLANES) else ("",), 8)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("sweeps", nargs="+", type=Path)
    asked.add_argument("--pictures", type=Path, default=Path("docs/images"))
    chosen = asked.parse_args()
    for root in chosen.sweeps:
        curve = read_json(root / "curve.json")
        for cohort, facts in curve["cohorts"].items():
            print(f"## {cohort}\n\n{facts['n']:,} training {facts['unit']}s, δ = {facts['delta']:g}.\n")
            print(table(cohort, curve), "\n")
            models = list(dict.fromkeys(g["model"] for g in curve["groups"] if g["cohort"] == cohort and g["finished"]))
            save_png(picture(SweepFolder(root), cohort, models), chosen.pictures / f"leaderboard-{cohort}.png")
            print(f"![{cohort}](images/leaderboard-{cohort}.png)\n")


if __name__ == "__main__":
    main()
