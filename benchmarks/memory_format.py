"""Where ``trainer.memory_format=channels_last`` helps: each model's steps in it beside the same in the default format.

    python benchmarks/memory_format.py                           the table of docs/engines.md
    python benchmarks/memory_format.py model=gan trainer.device=cuda     one model, by any settings

Both formats take turns, after ten steps that are not counted, on random images; a figure is the median over rounds of
the ratio, by processor time of the process on CPU and by the wall clock on CUDA. Quartiles are in brackets.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that wait take no processor time
import torch

from imgsynth.config import from_overrides
from imgsynth.privacy.plan import PrivacyPlan, make_plan
from imgsynth.schema import Config
from imgsynth.training.device import choose_device
from imgsynth.training.run import model_factory
from imgsynth.training.state import TrainingState
from imgsynth.training.steps import post_processing_updates, private_update
from imgsynth.types import PatientBatch

N, CLASSES, THREADS, ROUNDS, UNCOUNTED = 1000, 2, 2, 9, 10
FLAT = ["preprocess=radiograph", "preprocess.shape=[64,64]", "data.modality=DX", "privacy.batch_patients=64"]
DEEP = ["preprocess.shape=[32,32,32]", "privacy.batch_patients=32"]
CASES = [[f"model={model}", *form] for form in (FLAT, DEEP) for model in ("vae", "gan", "diffusion")]


def state_of(cfg: Config, plan: PrivacyPlan, memory_format: str) -> TrainingState:
    model = model_factory(cfg.model)(tuple(cfg.preprocess.shape), CLASSES)
    trainer = replace(cfg.trainer, memory_format=memory_format)
    return TrainingState(model, plan, trainer, patients=N, seed=0, device=choose_device(trainer))


def seconds(state: TrainingState, step: Callable[[TrainingState], object]) -> float:
    cuda = state.random.device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    began = clock()
    step(state)
    if cuda:
        torch.cuda.synchronize()
    return clock() - began


def ratio(states: list[TrainingState], step: Callable[[TrainingState], object]) -> str:
    for state in states:
        for _ in range(UNCOUNTED):  # the ghost engine examines the network on calls 1, 2, 4, 8, …
            step(state)
    found = []
    for _ in range(ROUNDS):
        plain, last = (seconds(state, step) for state in states)
        found.append(last / plain)
    low, middle, high = statistics.quantiles(found, n=4)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def row(overrides: list[str]) -> str:
    cfg = from_overrides("train", [*overrides, "data=phantom", "data.augmentation_multiplicity=1", "output=unused"])
    cfg.privacy = replace(cfg.privacy, seed=0, epsilon=None, noise_multiplier=1.0, query_noise_multiplier=1.0)
    plan = make_plan(cfg.privacy, n=N, steps=cfg.trainer.steps, images_per_patient=1, unit="patient")
    states = [state_of(cfg, plan, memory_format) for memory_format in ("contiguous", "channels_last")]
    patients, k = plan.companion_size, plan.images_per_step
    x_PKC = torch.rand(patients, k, 1, *cfg.preprocess.shape) * 2 - 1
    weights = torch.full((patients, k), 1 / k)
    batch = PatientBatch(x_PKC, torch.randint(CLASSES, (patients, k)), weights).to(states[0].random.device)
    cells = [ratio(states, lambda state: private_update(state, plan, batch))]
    cells.append(ratio(states, lambda s: post_processing_updates(s, patients)) if states[0].post else "–")
    name = overrides[0].removeprefix("model=")
    return f"| `{name}` | {'×'.join(map(str, cfg.preprocess.shape))} | {patients} | {' | '.join(cells)} |"


def main() -> None:
    torch.set_num_threads(THREADS)
    print("| model | shape | images in a step | private step | generator's step on no data |\n" + "|---" * 5 + "|")
    for overrides in [sys.argv[1:]] if len(sys.argv) > 1 else CASES:
        print(row(overrides), flush=True)


if __name__ == "__main__":
    main()
