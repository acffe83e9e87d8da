"""Measure methods on phantoms, and put what came of it into the table that `imgsynth plan` ranks by.

    python benchmarks/method_table.py --dims 2 --patients 200 1000 --epsilons 1 8 --methods vae merf mepf gan
    python benchmarks/method_table.py --leaderboard runs/leaderboard      the phantoms of the leaderboard, 3D

Each method × n × ε × grid is a cell of an ordinary sweep (docs/sweeps.md) over phantoms; what is finished in --work is
not run again, and rows that are in the table already under the same method, n, ε and grid are replaced. Nothing else
in the table is touched, so that it grows by as many calls as one has hours for. --only-table makes rows of what is
finished in --work and runs nothing, as --leaderboard does of a finished `imgsynth sweep experiment=leaderboard`.

Settings are those that `imgsynth plan` proposes for the method at this n and ε, but for fewer steps where STEPS says so
(they are in the row's command). Training noise has no seed, so that a row made again differs within its interval.
"""

from __future__ import annotations

import argparse
import datetime
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from method_phantoms import LABELS, write_phantoms

from imgsynth import config as door
from imgsynth import pipeline
from imgsynth.evaluate.diversity import ms_ssim_diversity
from imgsynth.evaluate.frechet import frechet_distance
from imgsynth.evaluate.manifold import manifold_metric
from imgsynth.evaluate.metric import Comparison
from imgsynth.evaluate.rivals import rivals_of
from imgsynth.files import read_json, write_json
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.source import fresh_samples, real_images
from imgsynth.sweep.cells import Cell, SweepFolder, read_index
from imgsynth.sweep.write import curve_of
from imgsynth.training.method_table import COLUMNS, NEEDS_PUBLIC, TABLE, Row, read_table, write_table
from imgsynth.training.run import load_run
from imgsynth.training.suit import overrides_of, settings_for

TEST, HOLDOUT = 200, 50  # phantoms beside those that are trained on
PUBLIC = "digital phantoms, which are nobody"
CLASSIFIER = "small_cnn"
STEPS = {  # fewer than configs/needs says, for time; more cost no ε
    "merf": ["trainer.steps_after=600"],
    "mepf": ["trainer.steps_after=300", "model.images=64"],
    "pategan": ["trainer.steps=200"],
}
QUICK = [
    "encoder=random_conv", "evaluate.n=200", "evaluate.bootstrap=100", "evaluate.classifier_seeds=1",
    "evaluate.shares=[]", "sample.n=4", "sample.formats=[nifti]", "trainer.sheet_every=100000", "audit=quick",
    "audit.n=64", "audit.samples=64", "audit.controls=false", "audit.extraction_samples=0", "audit.ocr_pictures=0",
    "audit.bootstrap=100",
]  # fmt: skip
Command = Callable[[str, float, int], str]  # of method, ε and repetitions: how a row is made again
METRICS = {"frechet": frechet_distance, "ms_ssim": ms_ssim_diversity, "coverage": manifold_metric("coverage")}


def cohort_of(work: Path, dims: int, size: int, n: int, seed: int = 0) -> list[str]:
    """Overrides for a cohort of which ``n`` phantoms are trained on, and TEST are tested on."""
    total = n + TEST + HOLDOUT
    path = write_phantoms(work / f"phantoms-{dims}d-{size}-{total}-{seed}.npz", total, dims, size, seed)
    grid = f"[{','.join([str(size)] * dims)}]"
    kind = ["preprocess=radiograph", "data.modality=DX"] if dims == 2 else ["preprocess=ct", "data.modality=CT"]
    return ["data=npz", f"data.root={path}", "data.patient=patient_ids", "data.label=labels",
            f"data.classes=[{','.join(LABELS)}]", f"data.splits.holdout={HOLDOUT / total}",
            f"data.splits.test={TEST / total}", *kind, f"preprocess.shape={grid}", "preprocess.spacing=null",
            "preprocess.fit=resize"]  # fmt: skip


def public_run(work: Path, dims: int, size: int) -> Path:
    """A VAE of other phantoms, without privacy: what methods over a public generator begin with."""
    root = work / f"public-{dims}d-{size}"
    if not (root / "checkpoints" / "last.pt").is_file():
        lines = [*cohort_of(work, dims, size, 1000, seed=1), "model=vae", "privacy=none", "privacy.batch_patients=32",
                 "trainer.steps=600", "trainer.learning_rate=3e-3",
                 "trainer.sheet_every=100000", f"output={root}"]  # fmt: skip
        pipeline.train(door.from_overrides("train", lines))
    return root


def settings(method: str, args: argparse.Namespace, n: int, epsilon: float) -> list[str]:
    lines = overrides_of(settings_for(method, n, epsilon, args.delta, args.dims))
    if method in NEEDS_PUBLIC:
        lines += [f"init.run={public_run(args.work, args.dims, args.size)}", f"init.public='{PUBLIC}'"]
    return [*lines, *STEPS.get(method, [])]


def quoted(overrides: list[str]) -> str:
    """A list of overrides as the value of one override."""
    return "[" + ",".join(f'"{line}"' for line in overrides) + "]"


def measure(args: argparse.Namespace, n: int) -> SweepFolder:
    """The sweep over methods and ε at one n."""
    cohort = f"phantoms{args.dims}d-{args.size}-{n}"
    folder = SweepFolder(args.work / cohort)
    for method in args.methods:
        for epsilon in args.epsilons:
            lines = [f"curve.cohorts={{{cohort}:{quoted(cohort_of(args.work, args.dims, args.size, n))}}}", *QUICK,
                     f"curve.models=[{method}]", f"curve.epsilons=[{epsilon:g}]",
                     f"curve.repetitions={args.repetitions}", f"curve.public={{{cohort}: '{PUBLIC}'}}",
                     f"curve.overrides={{{cohort}/{method}/*:{quoted(settings(method, args, n, epsilon))}}}",
                     f"output={folder.root}"]  # fmt: skip
            if not args.only_table:
                pipeline.sweep(lines)
    return folder


def trivial(folder: SweepFolder, cell: Cell) -> dict[str, float]:
    """Metrics of the trivial generator at the n and ε of a finished cell, the same for all models and kept."""
    kept = folder.root / "local" / f"trivial-{cell.cohort}-eps{cell.epsilon:g}.json"
    if not kept.is_file():
        run = load_run(folder.cell(cell))
        s, e = run.config.evaluate, run.config.encoder
        real = [real_images(run, split, s.n, s.seed) for split in ("train", "test")]
        c = Comparison(*real, fresh_samples(run, s.n, s.seed), get_encoder(e.name, run.grid.spatial_dims, e.seed),
                       run.grid, s.bootstrap, s.seed)  # fmt: skip
        rivals = rivals_of(run, c, s, ())
        assert rivals is not None and rivals.trivial is not None
        flat = Comparison(c.train, c.test, rivals.trivial, c.encoder, c.grid, s.bootstrap, s.seed)
        write_json(kept, {name: metric(flat).value for name, metric in METRICS.items()})
    return read_json(kept)


def rows_of(args: argparse.Namespace, folder: SweepFolder, cohort: str, command: Command) -> list[Row]:
    """A row for each method and finite ε that has a finished run on ``cohort`` in ``folder``."""
    curve = curve_of(folder)
    real = curve["ceilings"].get(cohort, {})
    rivals = {(r["rival"], r["epsilon"]): r["numbers"] for r in curve["rivals"] if r["cohort"] == cohort}
    found = []
    for group in curve["groups"]:
        if group["cohort"] != cohort or not group["finished"] or math.isinf(group["epsilon"]):
            continue
        method, epsilon, numbers = group["model"], group["epsilon"], group["numbers"]
        cell = next(c for c in read_index(folder).cells if (c.cohort, c.model, c.epsilon) == (cohort, method, epsilon))
        grid = load_run(folder.cell(cell)).grid
        flat = trivial(folder, cell)
        values: dict[str, Any] = {
            "method": method, "needs_public": method in NEEDS_PUBLIC, "dims": grid.spatial_dims, "grid": grid.shape[0],
            "n": curve["cohorts"][cohort]["n"], "epsilon": epsilon, "delta": group["delta"],
            "repetitions": group["finished"], "label": "sex of phantoms", "seconds": group["seconds"]["train"],
            "frechet_trivial": flat["frechet"], "coverage_trivial": flat["coverage"],
            "ms_ssim_trivial": flat["ms_ssim"],
            "date": datetime.date.today().isoformat(), "commit": args.commit,
            "command": command(method, epsilon, group["finished"]),
        }  # fmt: skip
        auc = f"auc/{CLASSIFIER}"
        for column, entry in {
            "auc": numbers.get(f"{auc}/synthetic"), "auc_real": real.get(auc),
            "auc_trivial": rivals.get(("trivial generator", epsilon), {}).get(auc),
            "auc_dp_sgd": rivals.get(("DP-SGD network", epsilon), {}).get(auc),
            "frechet": numbers.get("frechet_distance"), "frechet_floor": real.get("frechet_distance"),
            "ms_ssim": numbers.get("ms_ssim"), "ms_ssim_real": real.get("ms_ssim"), "recall": numbers.get("recall"),
            "coverage": numbers.get("coverage"),
        }.items():  # fmt: skip
            if entry is not None:
                values[column] = entry["value"]
                values |= {f"{column}_{end}": entry[end] for end in ("low", "high") if f"{column}_{end}" in COLUMNS}
        found.append(Row(**values))
    return found


def own_command(args: argparse.Namespace, n: int) -> Command:
    def command(method: str, epsilon: float, repetitions: int) -> str:
        own = " ".join(settings(method, args, n, epsilon)).replace(str(args.work), "WORK")
        return (f"python benchmarks/method_table.py --dims {args.dims} --size {args.size} --patients {n} "
                f"--epsilons {epsilon:g} --methods {method} --repetitions {repetitions}: {own}")  # fmt: skip

    return command


def of_leaderboard(args: argparse.Namespace) -> list[Row]:
    def command(method: str, epsilon: float, repetitions: int) -> str:
        return (f"imgsynth sweep experiment=leaderboard curve.models=[{method}] curve.epsilons=[{epsilon:g}] "
                f"curve.repetitions={repetitions}")  # fmt: skip

    folder = SweepFolder(args.leaderboard)
    cohorts = [name for name in curve_of(folder)["cohorts"] if name.startswith("phantoms")]
    return [row for cohort in cohorts for row in rows_of(args, folder, cohort, command)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, choices=(2, 3), default=2)
    parser.add_argument("--size", type=int, help="voxels along each axis (default: 32 in 2D, 16 in 3D)")
    parser.add_argument("--patients", type=int, nargs="+", default=[200, 1000], help="phantoms to train on")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 8.0])
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--methods", nargs="+", default=["vae", "merf", "mepf", "gan", "pategan"])
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/method-table"), help="folder of the sweeps")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--leaderboard", type=Path, metavar="SWEEP", help="rows of this finished sweep's phantoms")
    args = parser.parse_args()
    args.size = args.size or (32 if args.dims == 2 else 16)
    git = ["git", "rev-parse", "--short", "HEAD"]
    args.commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    if args.leaderboard:
        add(args.table, of_leaderboard(args))
        return
    for n in args.patients:
        folder = measure(args, n)
        if folder.index.is_file():
            (cohort,) = curve_of(folder)["cohorts"]
            add(args.table, rows_of(args, folder, cohort, own_command(args, n)))


def add(table: Path, rows: list[Row]) -> None:
    write_table(table, [*(read_table(table) if table.is_file() else []), *rows])


if __name__ == "__main__":
    main()
