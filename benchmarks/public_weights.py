"""How far samples are from real test patients: of runs that began with public weights, and of those weights alone.

    python benchmarks/public_weights.py runs/scratch runs/all runs/rank4 --picture docs/images/public-weights.png

Takes finished runs on one cohort, trained by the commands in docs/generators.md, and prints a row of the table there
for each; before the first that began with public weights, a row of what these make untouched. Reads real test patients:
what it prints of a private cohort must stay with it.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from PIL import Image

from imgsynth.audit.references import Recipe
from imgsynth.evaluate.frechet import frechet_distance
from imgsynth.evaluate.intensity import intensity_distance
from imgsynth.evaluate.metric import Comparison
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.source import fresh_samples, real_images
from imgsynth.models.base import the_private
from imgsynth.training.run import Run, load_run
from imgsynth.training.sheets import sheet

SHOWN = 8  # images of each run in the picture
UNTOUCHED = "public weights, untouched"


def untouched(run: Run) -> Run:
    """What the run began with, as if it were a run."""
    return dataclasses.replace(run, model=Recipe.of(run).networks().eval().requires_grad_(False))


def row(name: str, run: Run, encoder_name: str, n: int, bootstrap: int) -> str:
    encoder = get_encoder(encoder_name, len(run.grid.shape), 0)
    real = [real_images(run, split, n, 0) for split in ("train", "test")]
    comparison = Comparison(real[0], real[1], fresh_samples(run, n, 0), encoder, run.grid, bootstrap, 0)
    cells = []
    for found in (frechet_distance(comparison), intensity_distance(comparison)):
        assert found.floor is not None
        cells.append(f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}] ({found.floor.value:.2g})")
    return f"| {name} | {0 if name == UNTOUCHED else trained(run):,} | {' | '.join(cells)} |"


def trained(run: Run) -> int:
    """Parameters that the private steps moved."""
    networks = Recipe.of(run).networks()
    return sum(p.numel() for p in the_private(networks.objectives()).module.parameters() if p.requires_grad)


def shown(run: Run) -> Image.Image:
    y_B = torch.arange(SHOWN) % len(run.manifest.classes)
    images_BC = run.model.sample(y_B, torch.Generator().manual_seed(0))
    return sheet(images_BC, [run.manifest.classes[int(y)] for y in y_B], run.grid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs on one cohort")
    parser.add_argument("--encoder", default="efficientnet_lite", help="as encoder.name; default: %(default)s")
    parser.add_argument("--n", type=int, default=256, help="images of each side; default: %(default)s")
    parser.add_argument("--bootstrap", type=int, default=200, help="replicates; default: %(default)s")
    parser.add_argument("--picture", type=Path, help="a PNG of samples, a sheet for each row")
    arguments = parser.parse_args()
    named: dict[str, Run] = {}
    for folder in arguments.runs:
        run = load_run(folder)
        if run.plan.public is not None and UNTOUCHED not in named:
            named[UNTOUCHED] = untouched(run)
        named[folder.name] = run
    print("| run | trained parameters | Fréchet (floor) | intensities (floor) |")
    print("|---|---|---|---|")
    for name, run in named.items():
        print(row(name, run, arguments.encoder, arguments.n, arguments.bootstrap), flush=True)
    if arguments.picture is not None:
        sheets = [shown(run) for run in named.values()]
        whole = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)))
        for i, one in enumerate(sheets):
            whole.paste(one, (0, sum(s.height for s in sheets[:i])))
        whole.save(arguments.picture)


if __name__ == "__main__":
    main()
