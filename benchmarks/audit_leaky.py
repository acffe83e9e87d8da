"""Dose and response of every attack on samples, on synthesizers that copy a known share of real patients.

    python benchmarks/audit_leaky.py pneumoniamnist=FILE nih=FILE hippocampus=FOLDER --out leaky.json --figure leaky.png

The data are read and brought to their grid as the experiment of that name does. In every seed the patients are split
anew, at random: members, non-members, and the reference, of which one half is blended into the innocent samples (two
patients each, in a random proportion) and the other half is the attacker's. A share of the samples is then replaced by
copies of members. AUC: mean over seeds [lowest lower, highest upper end of the seeds' 95 % intervals over patients];
"hit" counts the seeds whose interval lies above one half. Prints Markdown. LOCAL: the sheets show real patients.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from imgsynth.audit.attacks.attack import Released, Tools
from imgsynth.audit.controls import Dose, Response, responses
from imgsynth.audit.registry import FAMILIES, NAMES, build
from imgsynth.audit.synthesizers import innocent, leaky
from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.grid import grid_of
from imgsynth.config import from_overrides
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images
from imgsynth.schema import AuditConfig
from imgsynth.training.sheets import save_png, sheet
from imgsynth.types import SPLITS, Grid

SAMPLE_FAMILIES = (
    "nearest_neighbour", "calibrated_nearest_neighbour", "monte_carlo_median", "monte_carlo_percentile", "domias",
)  # fmt: skip
ATTACKS = [name for name in NAMES if name.split("/")[0] in SAMPLE_FAMILIES]
DOSES = (Dose(0.0), Dose(0.01), Dose(0.05), Dose(0.2), Dose(0.2, 0.1), Dose(1.0, 0.3))
PARTS = {  # patients: members, non-members, reference
    "pneumoniamnist": (300, 1000, 2000),
    "nih": (120, 120, 238),
    "hippocampus": (45, 45, 90),
}


def cohort(experiment: str, root: Path, extra: list[str]) -> tuple[Images, Grid]:
    """Every image of every patient, on the experiment's grid."""
    cfg = from_overrides("train", [f"experiment={experiment}", f"data.root={root}", *extra])
    manifest, _ = build_manifest(cfg.data)
    found = []
    for split in SPLITS:
        dataset = PatientDataset(manifest, split, cfg.preprocess, images_per_patient=1, cache="memory")
        found += [(patient, image.numpy().copy(), label) for patient, image, label in dataset.all_images()]
    patients, x, y = zip(*found, strict=True)
    images = Images(np.stack(x).astype(np.float32), np.array(y), np.array(patients))
    return images, grid_of(cfg.preprocess, manifest.modality)


def one_seed(images: Images, sizes: tuple[int, int, int], samples: int, seed: int) -> list[Response]:
    random = np.random.default_rng(seed)
    names = random.permutation(images.names_P)
    members, nonmembers, reference, _ = (images.of_patients(part) for part in np.split(names, np.cumsum(sizes)))
    tools = Tools(get_encoder("random_conv", images.x_NC.ndim - 2, 0), AuditConfig())
    attacks = [build(name, tools) for name in ATTACKS]
    released = Released(innocent(reference, samples, random), reference)  # replaced by each dose's own
    return responses(attacks, members, nonmembers, released, random, DOSES)


def picture(images: Images, sizes: tuple[int, int, int], grid: Grid, path: Path) -> None:
    """Eight innocent samples, eight noisy copies (sd 0.1) and eight with sd 0.3."""
    random = np.random.default_rng(0)
    names = random.permutation(images.names_P)
    members, _, reference, _ = (images.of_patients(part) for part in np.split(names, np.cumsum(sizes)))
    base = innocent(reference, 8, random)
    rows = [base] + [leaky(base, members, 1.0, noise, np.random.default_rng(1))[0] for noise in (0.0, 0.1, 0.3)]
    titles = [f"{what}, {i}" for what in ("innocent", "copy", "sd 0.1", "sd 0.3") for i in range(8)]
    save_png(sheet(np.concatenate([row.x_NC for row in rows]), titles, grid, columns=8), path)


def cell(seeds: list[Response]) -> str:
    area = np.mean([one.auc for one in seeds])
    low, high = min(one.low for one in seeds), max(one.high for one in seeds)
    return f"{area:.2f} [{low:.2f}, {high:.2f}] {sum(one.caught for one in seeds)}/{len(seeds)}"


def tpr_cell(seeds: list[Response]) -> str:
    found = [one.tpr_at_1_percent for one in seeds]
    if any(one["tpr"] is None for one in found):
        return "–"
    low, high = min(one["low"] for one in found), max(one["high"] for one in found)
    return f"{np.mean([one['tpr'] for one in found]):.2f} [{low:.2f}, {high:.2f}]"


def label(dose: Dose) -> str:
    return f"{dose.rate:.0%}" + (f", noise {dose.noise:g}" if dose.noise else "")


def table(found: dict[tuple[str, Dose], list[Response]], show) -> str:  # type: ignore[no-untyped-def]
    lines = ["| attack | " + " | ".join(map(label, DOSES)) + " |", "|---|" + "---|" * len(DOSES)]
    lines += [f"| {name} | " + " | ".join(show(found[name, dose]) for dose in DOSES) + " |" for name in ATTACKS]
    return "\n".join(lines)


def draw(axis: plt.Axes, found: dict[tuple[str, Dose], list[Response]], title: str) -> None:
    exact = [dose for dose in DOSES if not dose.noise]
    marks = dict(zip((n for n in FAMILIES if n in SAMPLE_FAMILIES), "oS^vD".lower(), strict=True))
    colours = {"raw": "#1f5fa8", "pca": "#c8641e", "ssim": "#2f7d4f", "encoder": "#7a4fa3"}
    for name in ATTACKS:
        family, space = name.split("/")
        areas = [np.mean([one.auc for one in found[name, dose]]) for dose in exact]
        axis.plot(range(len(exact)), areas, marks[family], ls="-", lw=0.8, ms=4, color=colours[space], label=name)
    axis.axhline(0.5, color="grey", lw=0.6)
    axis.set(
        title=title,
        xticks=range(len(exact)),
        xticklabels=[label(d) for d in exact],
        xlabel="copy rate",
        ylim=(0.35, 1.02),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="experiment=PATH")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("leaky.json"))
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--sheets", type=Path, help="folder for sheets of the samples, which show real patients")
    args = parser.parse_args()
    results: dict[str, list[dict]] = {}  # type: ignore[type-arg]
    figure, axes = plt.subplots(1, len(args.data), figsize=(4.2 * len(args.data) + 2, 4), squeeze=False, sharey=True)
    for (experiment, _, root), axis in zip((item.partition("=") for item in args.data), axes[0], strict=True):
        began = time.monotonic()
        extra = [f"data.table={Path(root).with_suffix('.csv')}"] if experiment == "nih" else []
        images, grid = cohort(experiment, Path(root), extra)
        sizes = PARTS[experiment]
        if args.sheets:
            picture(images, sizes, grid, args.sheets / f"{experiment}.png")
        found: dict[tuple[str, Dose], list[Response]] = {(n, d): [] for n in ATTACKS for d in DOSES}
        for seed in range(args.seeds):
            for one in one_seed(images, sizes, args.samples, seed):
                found[one.attack, one.dose].append(one)
        copied = ", ".join(
            f"{label(d)}: {np.mean([o.copied for o in found[ATTACKS[0], d]]):.0%}" for d in DOSES if d.rate
        )
        print(f"\n### {experiment}\n\n{sizes[0]} members, {sizes[1]} non-members, {sizes[2]} reference patients, "
              f"{args.samples} samples, {args.seeds} seeds, {time.monotonic() - began:.0f} s. "
              f"Members copied at each rate: {copied}.\n\nAUC\n\n{table(found, cell)}", flush=True)  # fmt: skip
        if sizes[1] >= 1000:
            print(f"\nTPR at 1 % FPR\n\n{table(found, tpr_cell)}", flush=True)
        results[experiment] = [one.to_json() for seeds in found.values() for one in seeds]
        draw(axis, found, experiment)
    axes[0][0].set_ylabel("AUC, mean over seeds")
    axes[0][-1].legend(fontsize=6, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    args.out.write_text(json.dumps(results, indent=1))
    if args.figure:
        figure.savefig(args.figure, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
