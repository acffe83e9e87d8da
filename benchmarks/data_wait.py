"""How long the device waits for data: python benchmarks/data_wait.py [--size 32] [--batch 32] [--steps 10] [--rounds 5]

Trains on digital phantoms with every cache (memory, disk, none), each with the next batch made ahead and without. A
round gives every variant some steps in turn, so that a busy machine is busy for all of them; the table has medians over
rounds. "waits" is the share of wall time between asking for a batch and having it on the device. Run it on an idle
machine; the table says what it ran on.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.privacy.plan import PrivacyPlan, make_plan
from imgsynth.schema import DataConfig, PhantomConfig, PreprocessConfig, PrivacyConfig, TrainerConfig
from imgsynth.training.device import choose_device
from imgsynth.training.feed import Feed
from imgsynth.training.run import model_factory
from imgsynth.training.state import TrainingState
from imgsynth.training.steps import post_processing_updates, private_update

CACHES = ("memory", "disk", "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="of a variant in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="VAE", choices=["VAE", "GAN"])
    parser.add_argument("--engine", default="functional")
    asked = parser.parse_args()

    phantom = PhantomConfig(patients=asked.patients, size=asked.size, traps=False)
    manifest, _ = build_manifest(DataConfig(kind="phantom", phantom=phantom))
    preprocess = PreprocessConfig(shape=[asked.size] * 3, fit="resize", low=-1000, high=1000)
    privacy = PrivacyConfig(epsilon=None, noise_multiplier=1.0, batch_patients=asked.batch, delta=1e-4,
                            engine=asked.engine)  # fmt: skip
    n = len(manifest.patients("train"))
    plan = make_plan(privacy, n=n, steps=10**6, images_per_patient=1, unit="patient")
    device = choose_device(TrainerConfig())
    model = model_factory({"_target_": f"imgsynth.models.{asked.model}"})((asked.size,) * 3, len(manifest.classes))
    state = TrainingState(model, plan, TrainerConfig(), patients=n, seed=None, device=device)

    with tempfile.TemporaryDirectory() as folder:
        feeds = {
            cache: Feed(
                PatientDataset(manifest, "train", preprocess, 1, cache, cache_dir=Path(folder)), state.sampler, device
            )
            for cache in CACHES
        }
        variants = [(cache, ahead) for cache in CACHES for ahead in (True, False)]
        found: dict[tuple[str, bool], list[tuple[float, float]]] = {variant: [] for variant in variants}
        for round_ in range(asked.rounds + 1):
            for cache, ahead in variants:
                result = measure(state, plan, feeds[cache], ahead, asked.steps)
                if round_ > 0:  # the first round warms up
                    found[cache, ahead].append(result)
        for feed in feeds.values():
            feed.close()

    cores, threads = os.cpu_count(), torch.get_num_threads()
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()}, {cores} cores"
    print(
        f"{asked.model}, {asked.engine} engine, {asked.size}³, {asked.batch} of {n} patients a batch; {hardware}, "
        f"{threads} threads, load {os.getloadavg()[0]:.1f}; medians of {asked.rounds} rounds of {asked.steps} steps\n"
    )
    print("| cache | next batch made ahead | ms per step | of which waiting | waits |\n|---|---|---|---|---|")
    for (cache, ahead), results in found.items():
        step, waited = (statistics.median(values) for values in zip(*results, strict=True))
        share = statistics.median(w / s for s, w in results)
        print(f"| {cache} | {'yes' if ahead else 'no'} | {1e3 * step:.1f} | {1e3 * waited:.2f} | {100 * share:.1f} % |")


def measure(state: TrainingState, plan: PrivacyPlan, feed: Feed, ahead: bool, steps: int) -> tuple[float, float]:
    """(seconds per step, seconds of them that the device waited), the first step left out: nothing was ahead of it."""
    waited, began = 0.0, 0.0
    for step in range(steps + 1):
        if step == 1:
            began = time.perf_counter()
        state.step += 1
        batch = feed.take()
        waited += feed.waited if step else 0.0
        if ahead and step < steps:
            feed.prepare()
        private_update(state, plan, batch)
        post_processing_updates(state, plan.companion_size)
        state.ema.update(state.model)
    return (time.perf_counter() - began) / steps, waited / steps


if __name__ == "__main__":
    main()
