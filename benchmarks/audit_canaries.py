"""How much of ε do canaries find in real DP-SGD? python benchmarks/audit_canaries.py --data pneumoniamnist_28.npz

Trains twins of a VAE and of a GAN's discriminator on PneumoniaMNIST (28², privacy unit: the image) with m pseudo-
patients, by the code that `imgsynth audit canaries` runs, and appends one JSON line for each to --out. With --table it
prints the table of docs/audit/canaries.md from that file and trains nothing. Coins, noise and sampling of a
twin follow from its seed.

| case     | what                                                            | expected                              |
|----------|-----------------------------------------------------------------|---------------------------------------|
| full     | Dirac canaries, every patient in every step, ε = 8              | bound ≥ 2.5 on average, below 8       |
| poisson  | the same with rate 1/4 and more steps                           | about the same                        |
| broken   | the same as full at a claimed ε = 1, noise divided by 8         | bound above 1 for every seed          |
| bare     | no noise                                                        | bound at the ceiling                  |
| input    | images of random signs, ε = 8                                   | far below                             |
| bare-input | the same without noise                                        | bound at the ceiling                  |
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from scipy import stats

from imgsynth.audit.canaries.coins import half_and_half, toss
from imgsynth.audit.canaries.run import evaluated
from imgsynth.audit.canaries.twin import Twin
from imgsynth.audit.one_run import guess
from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.models import GAN, VAE, GenerativeModel
from imgsynth.privacy.calibrate import calibrated
from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.schema import DataConfig, PreprocessConfig, TrainerConfig

SHAPE = (28, 28)
DELTA, ALPHA, GUESSES = (
    1e-5,
    0.05,
    0.14,
)  # the share of guesses is what simulated Gaussian mechanisms are best found with
CASES = {  # kind of canary, claimed ε (None: no noise), rate, steps, noise divided by
    "full": ("weights", 8.0, 1.0, 10, 1),
    "poisson": ("weights", 8.0, 0.25, 100, 1),
    "broken": ("weights", 1.0, 1.0, 10, 8),
    "bare": ("weights", None, 1.0, 2, 1),
    "input": ("input", 8.0, 1.0, 10, 1),
    "bare-input": ("input", None, 1.0, 2, 1),
}


def make_model(name: str) -> GenerativeModel:
    if name == "vae":
        return VAE(SHAPE, 2, latent=8, channels=4, widest=8, encoder_channels=4)
    return GAN(SHAPE, 2, latent=8, channels=8, widest=16)


def make_plan(n: int, epsilon: float | None, rate: float, steps: int) -> PrivacyPlan:
    plan = PrivacyPlan(
        mode="dp", unit="image", n=n, sampling_rate=rate, steps=steps, clipping_norm=0.3, noise_multiplier=0.0,
        images_per_patient=1, delta=DELTA, physical_batch=128,
    )  # fmt: skip
    return plan if epsilon is None else calibrated(replace(plan, noise_multiplier=1.0), epsilon)


def images(path: Path, n: int) -> PatientDataset:
    """The first ``n`` images of the training split."""
    manifest, _ = build_manifest(
        DataConfig(kind="medmnist", root=str(path), unit="image", modality="DX", classes=["normal", "pneumonia"])
    )
    kept = set(manifest.patients("train")[:n])
    manifest = replace(manifest, items=tuple(item for item in manifest.items if item.patient in kept))
    pre = PreprocessConfig(shape=list(SHAPE), fit="resize", spacing=None, intensity="window", low=0, high=255)
    return PatientDataset(manifest, "train", pre)


def one(case: str, model: str, seed: int, patients: PatientDataset, m: int) -> dict[str, object]:
    kind, epsilon, rate, steps, divided_by = CASES[case]
    plan = make_plan(len(patients), epsilon, rate, steps)
    coins_M = toss(m, seed)
    torch.manual_seed(seed)
    trainer = TrainerConfig(steps=steps, learning_rate=6e-3, device="cpu")
    began, add = time.monotonic(), NoiseSource.add
    twin = Twin(
        make_model(model), kind, coins_M, replace(plan, seeded=True), trainer, patients, torch.device("cpu"), seed
    )
    with mock.patch.object(
        NoiseSource, "add", lambda self, value, std, *more: add(self, value, std / divided_by, *more)
    ):
        scores_M = twin.scores()
    guesses = guess(scores_M, coins_M, *half_and_half(m, GUESSES), np.random.default_rng(seed))
    return {
        "case": case, "model": model, "seed": seed, "n": len(patients), "m": m, "kind": kind, "rate": rate,
        "steps": steps, "claimed": epsilon, "noise_multiplier": plan.noise_multiplier, "noise_divided_by": divided_by,
        "parameters": sum(p.numel() for p in twin.canaries.network.parameters()),
        **evaluated(guesses, plan, ALPHA), "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    """Mean over seeds with a 95 % t-interval, and the least."""
    lines = [
        "| case | network | claimed ε | steps, rate | σ | seeds | ε lower bound, mean [95 %] | least | ceiling | "
        "Gaussian hypothesis | largest p of the claimed curve | s |",
        "|" + "---|" * 12,
    ]
    for case in CASES:
        for model in sorted({row["model"] for row in rows}):
            own = [row for row in rows if row["case"] == case and row["model"] == model]
            if not own:
                continue
            bound = np.array([row["epsilon_lower_bound"] for row in own])
            half = stats.t.ppf(0.975, len(own) - 1) * bound.std(ddof=1) / len(own) ** 0.5 if len(own) > 1 else 0.0
            first = own[0]
            claimed = "∞" if first["claimed"] is None else f"{first['claimed']:g}"
            sigma = f"{first['noise_multiplier']:.3g}" + (" / 8" if first["noise_divided_by"] == 8 else "")
            gaussian = np.mean([row["epsilon_under_gaussian_hypothesis"] for row in own])
            p = max(row["p_value_of_claimed_curve"] for row in own)
            interval = f" [{bound.mean() - half:.2f}, {bound.mean() + half:.2f}]" if len(own) > 1 else ""
            lines.append(
                f"| {case} | {model} | {claimed} | {first['steps']}, {first['rate']:g} | {sigma} | {len(own)} | "
                f"{bound.mean():.2f}{interval} | {bound.min():.2f} | {first['ceiling']:.2f} | {gaussian:.2f} | "
                f"{p:.2g} | {np.mean([row['seconds'] for row in own]):.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="pneumoniamnist_28.npz")
    parser.add_argument("--out", type=Path, default=Path("audit_canaries.jsonl"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--m", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--models", nargs="+", default=["vae", "gan"], choices=["vae", "gan"])
    asked = parser.parse_args()
    if asked.table:
        print(table([json.loads(line) for line in asked.out.read_text().splitlines()]))
        return
    patients = images(asked.data, asked.n)
    for case in asked.cases:
        for model in asked.models:
            for seed in range(asked.seeds):
                row = one(case, model, seed, patients, asked.m)
                with asked.out.open("a") as handle:
                    handle.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
