"""Write the first table of docs/results.md from finished runs, and a picture of each.

    imgsynth run experiment=demo output=runs/demo        # and the other commands that the table names
    python benchmarks/results.py runs/demo runs/hippocampus … > table.md

Every figure is read from the run's own files; nothing is typed in. ``seconds`` are of the training stage, and of the
whole run, on the machine that made them.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgsynth.measure.source import real_images
from imgsynth.release.generate import generate
from imgsynth.sweep.results import outcome
from imgsynth.sweep.tables import band
from imgsynth.training.run import load_run
from imgsynth.training.sheets import save_png, sheet

COLUMNS = (
    "run", "model", "ε", "δ", "unit", "n train", "σ", "steps", "seconds: train / all", "Fréchet (floor)", "KD (floor)",
    "MS-SSIM (real)", "AUC synthetic → real (real → real)", "MIA AUC", "ε audited ≥", "verdict",
)  # fmt: skip


def metric(numbers: dict[str, Any], name: str) -> str:
    if name not in numbers:
        return "not done"
    floor = numbers.get(f"{name}/floor")
    return band(numbers[name]) + (f" ({band(floor)})" if floor else "")


def utility(numbers: dict[str, Any], classifier: str = "small_cnn") -> str:
    auc = {on: numbers.get(f"auc/{classifier}/{on}") for on in ("synthetic", "real")}
    return f"{band(auc['synthetic'])} ({band(auc['real'])})" if auc["synthetic"] else "not done: one class"


def row(root: Path) -> list[str]:
    run = load_run(root)
    found = outcome(root)
    numbers, seconds = found["numbers"], found["seconds"]
    plan = run.plan
    private = math.isfinite(plan.epsilon)
    lower = numbers.get("epsilon_lower_bound")
    return [
        root.name, type(run.model).__name__, f"{plan.epsilon:.3g}" if private else "∞", f"{plan.delta:g}",
        "case" if plan.ids == "case" else plan.unit,
        str(plan.n), f"{plan.noise_multiplier:.3g}" if private else "0", str(plan.steps),
        f"{seconds['train']:.0f} / {sum(seconds.values()):.0f}", metric(numbers, "frechet_distance"),
        metric(numbers, "kernel_distance"), metric(numbers, "ms_ssim"), utility(numbers), metric(numbers, "mia_auc"),
        "–" if lower is None else f"{lower['value']:.2f}", found["verdict"],
    ]  # fmt: skip


def picture(root: Path, folder: Path) -> Path:
    """Six samples over all classes, from the generator alone, seeded so that they can be made again.

    Phantoms are nobody's data: theirs stand above the synthetic ones. Real patients are never drawn here.
    """
    run = load_run(root)
    names = run.manifest.classes
    labels = np.arange(len(names)).repeat(max(1, 6 // len(names)))
    images, titles = generate(run, labels, torch.Generator().manual_seed(0)), [names[i] for i in labels]
    if run.manifest.kind == "phantom":
        test = real_images(run, "test", 200, 0)
        chosen = np.concatenate([np.flatnonzero(test.y_N == k)[: np.sum(labels == k)] for k in range(len(names))])
        images = np.concatenate([test.x_NC[chosen], images])
        titles = [f"phantom, {title}" for title in titles] + [f"synthetic, {title}" for title in titles]
    return save_png(sheet(images, titles, run.grid, columns=len(labels)), folder / f"{root.name}.png")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("runs", nargs="+", type=Path)
    arguments.add_argument("--pictures", type=Path, default=Path("docs/images"))
    chosen = arguments.parse_args()
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for root in chosen.runs:
        print("| " + " | ".join(row(root)) + " |")
        picture(root, chosen.pictures)


if __name__ == "__main__":
    main()
