"""Does the verdict find models that were made to remember, and not their recipes at ε = 8? (docs/audit/attacks.md)

    python benchmarks/audit_overfit.py pneumoniamnist=pneumoniamnist_28.npz nih=nih_cxr_256.npz \\
        hippocampus=msd_hippocampus --folder overfit
    python benchmarks/audit_overfit.py --folder overfit --table

For each seed, 50 patients drawn anew train a GAN and a VAE without privacy, and the same recipes (networks, optimizers,
steps, sampling rate) at ε = 8; with ``--clipped`` also clipped without noise (σ = 0). All other patients of the cohort
are the non-members, but for some that are the attacker's reference; the three are drawn class by class, since otherwise
an attack that sees nothing but the class could pass for one that sees members. The attacks are those of
``audit=default``. A model is detected where the rule of the verdict (``audit.verdict.leak``) sees a leak: by the
primary attack at α, by that of ``audit=full`` at α, or by any of the K, each at α/K: three statements, each of its own.

A detected model at ε = 8 is also judged by the models of the other seeds, which never saw its members ("unseen").

Models and results are kept in the folder, so that a run that was killed goes on. The folder is LOCAL ONLY: its pictures
show members beside samples.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from imgsynth import config as door
from imgsynth.audit.attacks.attack import Released, Tools
from imgsynth.audit.references import Recipe, content_key, load, store, train_reference
from imgsynth.audit.roc import auc_interval
from imgsynth.audit.run import run_attacks
from imgsynth.audit.verdict import attack_name, leak
from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.grid import grid_of
from imgsynth.cohort.manifest import Manifest
from imgsynth.files import write_text
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.measure.resampling import bootstrap_weights, percentile_interval
from imgsynth.models.base import GenerativeModel
from imgsynth.privacy.plan import make_plan
from imgsynth.release.generate import images_of
from imgsynth.schema import Config, PrivacyConfig
from imgsynth.training.sheets import save_png, sheet

MEMBERS, SAMPLES, DELTA, EPSILON = 50, 2000, 1e-3, 8.0
REFERENCE = {"pneumoniamnist": 1000, "nih": 100, "hippocampus": 40}  # patients; all others are non-members
STEPS = {"pneumoniamnist": 2000, "nih": 2000, "hippocampus": 1000}
# Fixed before the runs, on seed 0: how a model learns by heart in so many steps.
LEARNING = {
    "vae": ["trainer.learning_rate=2.0e-3"],
    "gan": ["trainer.learning_rate=2.0e-3", "trainer.generator_learning_rate=2.0e-3", "trainer.beta1=0.5",
            "trainer.ema=0.98", "model.every=1"],
}  # fmt: skip
GRID = {
    "pneumoniamnist": [],
    "nih": ["preprocess.shape=[32,32]"],
    "hippocampus": ["preprocess.shape=[12,16,12]", "preprocess.spacing=[3,3,3]"],
}
ORDER = (None, math.inf, EPSILON)  # ε: without privacy, clipped without noise, private
FULL = "calibrated_nearest_neighbour/raw"  # the primary attack of audit=full, where an overfit model has to be caught
KEY = ("data", "model", "epsilon")


@dataclass(frozen=True, eq=False)
class Cohort:
    name: str
    cfg: Config
    manifest: Manifest


def cohort(name: str, model: str, data: Path) -> Cohort:
    table = [f"data.table={data.with_suffix('.csv')}"] if name == "nih" else []
    more = [*table, *GRID[name], *LEARNING[model], f"trainer.steps={STEPS[name]}"]
    cfg = door.from_overrides(
        "train", [f"experiment={name}", f"data.root={data}", f"model={model}", "audit=default", "output=unused", *more]
    )
    return Cohort(name, cfg, build_manifest(cfg.data)[0])


def recipe(of: Cohort, epsilon: float | None) -> Recipe:
    """Half of MEMBERS patients in a batch; without privacy (None), or at ``epsilon`` (infinite: σ = 0)."""
    privacy = PrivacyConfig(mode="none", epsilon=None) if epsilon is None else PrivacyConfig(epsilon=epsilon)
    if epsilon == math.inf:
        privacy = PrivacyConfig(epsilon=None, noise_multiplier=0.0)
    privacy = replace(privacy, batch_patients=MEMBERS // 2, delta=DELTA)
    images = of.cfg.data.images_per_patient
    plan = make_plan(
        privacy, n=MEMBERS, steps=of.cfg.trainer.steps, images_per_patient=images, unit=of.manifest.unit
    )  # fmt: skip
    grid = grid_of(of.cfg.preprocess, of.manifest.modality)
    return Recipe(of.cfg.model, plan, of.cfg.trainer, of.cfg.preprocess, grid.shape, len(of.manifest.classes))


def everybody(of: Cohort, names: list[str]) -> Images:
    found = list(recipe(of, None).images(of.manifest, names).all_images())
    ids, x, y = zip(*found, strict=True)
    return Images(np.stack([np.asarray(image) for image in x]), np.array(y), np.array(ids))


def parts(of: Cohort, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Members, reference and non-members: all patients, dealt out anew for every seed, class by class."""
    random, classes = np.random.default_rng(seed), of.manifest.patient_classes()
    found: tuple[list[str], list[str], list[str]] = ([], [], [])
    for index in sorted(set(classes.values())):
        names = random.permutation(np.array([p for p in classes if classes[p] == index], dtype=object)).tolist()
        share = len(names) / len(classes)
        n = round(MEMBERS * share)
        ends = [0, n, n + round(REFERENCE[of.name] * share), len(names)]
        for part, start, end in zip(found, ends, ends[1:], strict=False):
            part.extend(names[start:end])
    return sorted(found[0]), found[1], found[2]


def trained(of: Cohort, made: Recipe, seed: int, folder: Path) -> GenerativeModel:
    """The model of the members of that seed, opened if it is there."""
    members = parts(of, seed)[0]
    path = folder / f"{content_key(made, of.manifest, members, seed)}.pt"
    if not path.is_file():
        store(path, train_reference(made, made.images(of.manifest, members), members, seed))
    return load(path, made)


def attacked(of: Cohort, model: str, epsilon: float | None, seed: int, whose: int, folder: Path) -> dict[str, Any]:
    """What every attack on the model of seed ``whose`` says of the patients of ``seed``.

    Where the two differ, patients who trained that model are left out, be they members or not.
    """
    known = set(parts(of, whose)[0]) if whose != seed else set()
    members, reference, others = ([p for p in part if p not in known] for part in parts(of, seed))
    made, began = recipe(of, epsilon), time.monotonic()
    generator, seconds = trained(of, made, whose, folder), time.monotonic() - began
    images = everybody(of, members + reference + others)
    inside, outside = images.of_patients(np.array(members)), images.of_patients(np.array(others))
    labels = np.resize(inside.y_N, SAMPLES)
    samples = synthetic_images(images_of(generator, labels, torch.Generator().manual_seed(whose)), labels)
    if whose == seed:
        picture(folder / f"{of.name}-{model}-{epsilon}-{seed}.png", inside, samples, of)
    released = Released(samples, images.of_patients(np.array(reference)), generator)
    tools = Tools(get_encoder("random_conv", len(made.shape), 0), replace(of.cfg.audit, seed=seed))
    found = run_attacks(inside, outside, released, tools, DELTA)
    primary = found.ran[of.cfg.audit.primary or ""]
    return {
        "data": of.name, "model": model, "epsilon": epsilon, "seed": seed, "whose": whose,
        "primary": of.cfg.audit.primary, "sigma": made.plan.noise_multiplier, "steps": made.plan.steps,
        "train_seconds": round(seconds, 1), "seconds": round(time.monotonic() - began, 1),
        "attacks": [{k: v for k, v in one.items() if k != "roc"} for one in found.results],
        "in": dict(zip(inside.names_P.tolist(), primary[1].tolist(), strict=True)),
        "out": dict(zip(outside.names_P.tolist(), primary[2].tolist(), strict=True)),
    }  # fmt: skip


def picture(path: Path, inside: Images, samples: Images, of: Cohort) -> None:
    """Eight members, and sixteen samples each below its nearest member."""
    shown = samples.x_NC[:16]
    gap_NM = np.square(shown[:, None] - inside.x_NC[None]).reshape(len(shown), len(inside), -1).sum(2)
    near = inside.x_NC[gap_NM.argmin(1)]
    rows = [near[:8], shown[:8], near[8:], shown[8:]]
    titles = [text for text in ("nearest member", "sample") * 2 for _ in range(8)]
    save_png(sheet(np.concatenate(rows), titles, grid_of(of.cfg.preprocess, of.manifest.modality), columns=8), path)


def primary_of(row: dict[str, Any], name: str = "") -> dict[str, Any]:
    return next(one for one in row["attacks"] if attack_name(one) == (name or row["primary"]))


def detected(row: dict[str, Any], alpha: float) -> tuple[bool, bool, list[str]]:
    """By the primary attack at α, by that of ``audit=full`` at α; and the attacks by which it is, each at α/K."""
    each = alpha / len(row["attacks"])
    seen = [attack_name(one) for one in row["attacks"] if leak(one, each)]
    one, other = leak(primary_of(row), alpha), leak(primary_of(row, FULL), alpha)
    return one is not None, other is not None, seen


def median_auc(rows: Sequence[dict[str, Any]]) -> tuple[float, float, float]:
    """Median over seeds of the primary attack's AUC, and its interval over resampled patients, each of whom is drawn
    with all that it is in every seed. Where every AUC is 1 a bootstrap has no width: then one seed's own interval."""
    areas = [primary_of(row)["auc"] for row in rows]
    value = float(np.median(areas))
    if min(areas) == 1:
        one = primary_of(rows[0])
        return (value, *auc_interval(1.0, one["n_members"], one["n_nonmembers"]))
    names = {name: i for i, name in enumerate(sorted({name for row in rows for name in (*row["in"], *row["out"])}))}
    weight_RP = bootstrap_weights(len(names), 1000, np.random.default_rng(0))
    area_SR = []
    for row in rows:
        in_P, out_Q = np.array(list(row["in"].values())), np.array(list(row["out"].values()))
        above_PQ = (in_P[:, None] > out_Q) + 0.5 * (in_P[:, None] == out_Q)
        w_RP, w_RQ = (weight_RP[:, [names[name] for name in row[side]]] for side in ("in", "out"))
        area_SR.append(((w_RP @ above_PQ) * w_RQ).sum(1) / (w_RP.sum(1) * w_RQ.sum(1)))
    return (value, *percentile_interval(np.median(area_SR, axis=0)))


def table(found: Sequence[dict[str, Any]], alpha: float = 0.05) -> str:
    lines = ["| cohort | model | ε | AUC by seed | median AUC [95 %] | TPR at 1 % FPR by seed | detected, primary | "
             "by that of audit=full | by any of K | which | unseen |", "|" + "---|" * 11]  # fmt: skip
    keys = dict.fromkeys(tuple(row[name] for name in KEY) for row in found)
    for key in sorted(keys, key=lambda k: (ORDER.index(k[2]), k[0], k[1])):
        mine = [row for row in found if tuple(row[name] for name in KEY) == key]
        own = sorted((row for row in mine if row["whose"] == row["seed"]), key=lambda row: row["seed"])
        seen = [detected(row, alpha) for row in own]
        value, low, high = median_auc(own)
        tpr = [primary_of(row)["tpr_at"]["0.01"] for row in own]
        rates = "; ".join(
            f"{one['tpr']:.2f} [{one['low']:.2f}, {one['high']:.2f}]" for one in tpr if one["tpr"] is not None
        )
        by = ", ".join(f"{name} {n}" for name, n in sorted(Counter(name for s in seen for name in s[2]).items()))
        shown = {None: "∞", math.inf: "∞, clipped"}.get(key[2], f"{key[2]:g}" if key[2] else "")
        areas = "; ".join(f"{primary_of(row)['auc']:.2f}" for row in own)
        others = [row for row in mine if row["whose"] != row["seed"]]
        unseen = "; ".join(f"{primary_of(row)['auc']:.2f} (seed {row['seed']})" for row in others)
        lines.append(
            f"| {key[0]} | {key[1]} | {shown} | {areas} | "
            f"{value:.2f} [{low:.2f}, {high:.2f}] | {rates or 'underpowered'} | {sum(s[0] for s in seen)}/{len(own)} | "
            f"{sum(s[1] for s in seen)}/{len(own)} | {sum(bool(s[2]) for s in seen)}/{len(own)} | {by or '–'} | "
            f"{unseen or '–'} |"
        )
    for epsilon in ORDER:
        own = [row for row in found if row["whose"] == row["seed"] and row["epsilon"] == epsilon]
        for what, index in (("the primary attack", 0), ("that of audit=full", 1), ("any of K", 2)):
            if not own:
                continue
            count = sum(bool(detected(row, alpha)[index]) for row in own)
            p = binomtest(count, len(own), alpha, alternative="greater").pvalue
            lines.append(f"ε = {epsilon}: {count} of {len(own)} detected by {what}; P[as many | α = {alpha}] = {p:.2g}")
    return "\n".join(lines)


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def measure(of: Cohort, model: str, epsilon: float | None, seed: int, whose: int, folder: Path) -> dict[str, Any]:
    done = folder / f"{of.name}-{model}-{epsilon}-{seed}-{whose}.json"
    if not done.is_file():
        write_text(done, json.dumps(attacked(of, model, epsilon, seed, whose, folder)))
    row: dict[str, Any] = json.loads(done.read_text())
    by_primary, _, seen = detected(row, 0.05)
    areas = " ".join(f"{attack_name(one)} {one['auc']:.2f}" for one in row["attacks"])
    print(f"{done.stem}: {'DETECTED' if by_primary else 'not detected'}; at α/K: {', '.join(seen) or 'none'}; {areas}; "
          f"{row['train_seconds']} s training, {row['seconds']} s", flush=True)  # fmt: skip
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohorts", nargs="*", help="pneumoniamnist=FILE nih=FILE hippocampus=FOLDER")
    parser.add_argument("--models", nargs="+", default=["vae", "gan"], choices=("vae", "gan"))
    parser.add_argument("--folder", type=Path, default=Path("overfit"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="0 was used to choose LEARNING")
    parser.add_argument("--clipped", action="store_true", help="also the recipe clipped, without noise")
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for seed in chosen.seeds:
        for name, data in (one.split("=", 1) for one in chosen.cohorts):
            for model in chosen.models:
                of = cohort(name, model, Path(data).resolve())
                for epsilon in ORDER if chosen.clipped else (None, EPSILON):
                    row = measure(of, model, epsilon, seed, seed, chosen.folder)
                    if epsilon == EPSILON and detected(row, 0.05)[0]:
                        for whose in chosen.seeds:
                            if whose != seed:
                                measure(of, model, epsilon, seed, whose, chosen.folder)
    if chosen.table:
        print(table(rows_in(chosen.folder)))


if __name__ == "__main__":
    main()
