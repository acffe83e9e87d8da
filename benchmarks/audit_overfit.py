"""Do the attacks find models that were made to remember, and not the same recipes at ε = 8? (docs/audit/attacks.md)

    python benchmarks/audit_overfit.py pneumoniamnist vae --data pneumoniamnist_28.npz --folder overfit
    python benchmarks/audit_overfit.py pneumoniamnist gan --data pneumoniamnist_28.npz --folder overfit
    python benchmarks/audit_overfit.py hippocampus vae --data msd_hippocampus --folder overfit
    python benchmarks/audit_overfit.py --table overfit

For each seed, 25 patients train a model without privacy, and the same recipe (networks, optimizers, steps, sampling
rate) clipped but without noise (σ = 0), and at ε = 8; other patients are the non-members and the attacker's reference.
All three have the same share of every class: otherwise an attack that sees nothing but the class could pass for one
that sees members. Nothing is fitted to members but the model.

The same attacks are then made on the same patients with the models of the other seeds, which never saw them ("unseen").
What is found there as well is about the patients who were drawn, and not about who trained the model. The inversion,
which takes minutes, is not repeated so.

Models and results are kept in the folder, so that a run that was killed goes on. The folder is LOCAL ONLY: its pictures
show members beside samples.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgsynth import config as door
from imgsynth.audit.attacks.attack import Attack, NotApplicable, Released, Tools
from imgsynth.audit.references import Recipe, content_key, load, store, train_reference
from imgsynth.audit.registry import build
from imgsynth.audit.roc import auc, auc_interval
from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.grid import grid_of
from imgsynth.cohort.manifest import Manifest
from imgsynth.files import write_text
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.models.base import GenerativeModel
from imgsynth.privacy.plan import make_plan
from imgsynth.release.generate import images_of
from imgsynth.schema import AuditConfig, Config, PrivacyConfig
from imgsynth.training.sheets import save_png, sheet

MEMBERS, NONMEMBERS, REFERENCE, SAMPLES, DELTA = 25, 150, 1000, 1000, 1e-3
BLACK = ("nearest_neighbour/raw", "calibrated_nearest_neighbour/raw")
WHITE = {
    "vae": ("posterior/reconstruction", "posterior/elbo", "latent_inversion"),
    "gan": ("logan", "latent_inversion"),
}
SLOW = ("latent_inversion",)
# Fixed before the runs: the attacks whose result decides "found", and how long a model is trained.
DECIDES = {"vae": "posterior/reconstruction", "gan": "logan", "black box": "calibrated_nearest_neighbour/raw"}
LEARNING = {
    "vae": ["trainer.steps=2000", "trainer.learning_rate=2.0e-3"],
    "gan": ["trainer.steps=2000", "trainer.learning_rate=5.0e-4", "trainer.generator_learning_rate=2.0e-3",
            "model.every=1"],
}  # fmt: skip
ORDER = (None, math.inf, 8.0)  # ε: without privacy, clipped without noise, private
KEY = ("data", "model", "epsilon", "attack", "access")
HIPPOCAMPUS = ["preprocess.shape=[16,24,16]", "preprocess.spacing=[2,2,2]", "trainer.steps=1000"]


@dataclass(frozen=True, eq=False)
class Cohort:
    cfg: Config
    manifest: Manifest


def cohort(name: str, model: str, data: Path) -> Cohort:
    more = HIPPOCAMPUS if name == "hippocampus" else []
    root = [f"data.root={data}", f"model={model}", "output=unused"]
    cfg = door.from_overrides("train", [f"experiment={name}", *root, *LEARNING[model], *more])
    return Cohort(cfg, build_manifest(cfg.data)[0])


def recipe(of: Cohort, epsilon: float | None) -> Recipe:
    """Half of MEMBERS patients in a batch; without privacy (None), or at ``epsilon`` with C = 1 (infinite: σ = 0)."""
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
    """Members, non-members and reference: disjoint patients at random, of each class in the same proportion.

    There are as many non-members and reference patients as the constants say, or half of a small cohort's others, down
    to a multiple of the members of each class.
    """
    random, classes = np.random.default_rng(seed), of.manifest.patient_classes()
    found: tuple[list[str], list[str], list[str]] = ([], [], [])
    fold = min(NONMEMBERS, (len(classes) - MEMBERS) // 2) // MEMBERS
    for index in sorted(set(classes.values())):
        names = random.permutation(np.array([p for p in classes if classes[p] == index], dtype=object)).tolist()
        n = round(MEMBERS * len(names) / len(classes))
        ends = [n, n + fold * n, n + fold * n + (REFERENCE // MEMBERS) * n]
        for part, start, end in zip(found, [0, *ends], ends, strict=False):
            part.extend(names[start:end])
    return sorted(found[0]), found[1], found[2]


def trained(of: Cohort, made: Recipe, seed: int, folder: Path) -> GenerativeModel:
    """The model of the members of that seed, opened if it is there."""
    members = parts(of, seed)[0]
    path = folder / f"{content_key(made, of.manifest, members, seed)}.pt"
    if not path.is_file():
        store(path, train_reference(made, made.images(of.manifest, members), members, seed))
    return load(path, made)


def rows(
    name: str, model: str, of: Cohort, epsilon: float | None, seed: int, whose: int, folder: Path
) -> Iterator[dict[str, Any]]:
    """Attack the model of seed ``whose`` with the patients of ``seed``; a row for each attack.

    Where the two differ, patients who trained that model are left out, be they members or tested.
    """
    known = set(parts(of, whose)[0]) if whose != seed else set()
    members, tested, reference = ([p for p in part if p not in known] for part in parts(of, seed))
    images, made, began = everybody(of, members + tested + reference), recipe(of, epsilon), time.monotonic()
    generator, seconds = trained(of, made, whose, folder), time.monotonic() - began
    inside, outside = images.of_patients(np.array(members)), images.of_patients(np.array(tested))
    labels = np.resize(inside.y_N, SAMPLES)
    samples = synthetic_images(images_of(generator, labels, torch.Generator().manual_seed(whose)), labels)
    if whose == seed:
        picture(folder / f"{name}-{model}-{epsilon}-{seed}.png", inside, samples, of)
    released = Released(samples, images.of_patients(np.array(reference)), generator)
    tools = Tools(get_encoder("random_conv", len(made.shape), 0), AuditConfig())
    for which in (*BLACK, *(one for one in WHITE[model] if whose == seed or one not in SLOW)):
        attack = build(which, tools)
        yield {
            "data": name, "model": model, "epsilon": epsilon, "seed": seed, "whose": whose, "attack": which,
            "access": attack.access, "train_seconds": round(seconds, 1), "sigma": made.plan.noise_multiplier,
            "steps": made.plan.steps, **measured(attack, released, inside, outside),
        }  # fmt: skip


def measured(attack: Attack, released: Released, inside: Images, outside: Images) -> dict[str, Any]:
    try:
        attack.prepare(released)
    except NotApplicable as reason:
        return {"not_done": str(reason)}
    in_P, out_Q = attack.scores(inside), attack.scores(outside)
    area = auc(in_P, out_Q)
    low, high = auc_interval(area, len(in_P), len(out_Q))
    return {"auc": area, "low": low, "high": high, "members": len(in_P), "nonmembers": len(out_Q)}


def picture(path: Path, inside: Images, samples: Images, of: Cohort) -> None:
    shown = np.concatenate([inside.x_NC[:8], samples.x_NC[:16]])
    titles = ["member"] * 8 + ["sample"] * 16
    save_png(sheet(shown, titles[: len(shown)], grid_of(of.cfg.preprocess, of.manifest.modality), columns=8), path)


def table(folder: Path) -> str:
    found = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    lines = ["| data | model | ε | attack | access | AUC by seed [95 %] | found | unseen |", "|" + "---|" * 8]
    keys = dict.fromkeys(tuple(r[name] for name in KEY) for r in found)
    for key in sorted(keys, key=lambda k: (k[0], k[1], ORDER.index(k[2]), k[4], k[3])):
        data, model, epsilon, attack, access = key
        mine = [r for r in found if tuple(r[name] for name in KEY) == key and "auc" in r]
        own = [r for r in mine if r["whose"] == r["seed"]]
        cells = "; ".join(f"{r['auc']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in own)
        others = [[r["auc"] for r in mine if r["seed"] == one["seed"] and r["whose"] != one["seed"]] for one in own]
        unseen = "; ".join(f"{np.mean(areas):.2f}" for areas in others if areas) or "–"
        caught = sum(r["low"] > 0.5 for r in own)
        name = f"**{attack}**" if attack in (DECIDES[model], DECIDES["black box"]) else attack
        privacy = {None: "∞", math.inf: "∞, clipped"}.get(epsilon, f"{epsilon or 0:g}")
        lines.append(f"| {data} | {model} | {privacy} | {name} | {access} | {cells} | {caught}/{len(own)} | {unseen} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", nargs="?", choices=("pneumoniamnist", "hippocampus"))
    parser.add_argument("model", nargs="?", choices=("vae", "gan"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("overfit"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", type=Path)
    chosen = parser.parse_args()
    if chosen.table is not None:
        print(table(chosen.table))
        return
    torch.set_num_threads(1)
    of = cohort(chosen.cohort, chosen.model, chosen.data.resolve())
    seeds = range(1, 1 + chosen.seeds)  # 0 was used to choose LEARNING
    own = [(seed, seed) for seed in seeds]
    for seed, whose in [*own, *((s, w) for s in seeds for w in seeds if s != w)]:
        for epsilon in ORDER:
            done = chosen.folder / f"{chosen.cohort}-{chosen.model}-{epsilon}-{seed}-{whose}.jsonl"
            if not done.is_file():
                found = list(rows(chosen.cohort, chosen.model, of, epsilon, seed, whose, chosen.folder))
                write_text(done, "".join(json.dumps(row) + "\n" for row in found))
            print(done.read_text(), flush=True)


if __name__ == "__main__":
    main()
