"""What a run will take on this machine: a few steps on random images, timed in a process of their own."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import torch

from imgsynth.models.base import queries_of
from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.plan import PrivacyPlan, make_plan
from imgsynth.schema import Config
from imgsynth.training.device import choose_device
from imgsynth.training.run import model_factory
from imgsynth.training.state import TrainingState
from imgsynth.training.steps import post_processing_updates, private_update, warm_up
from imgsynth.types import PatientBatch, Unit

WARM = 2  # calls before the one that counts: the ghost engine examines the network on calls 1, 2, 4, 8, …
MOST_VOXELS = 1 << 22  # in the batch that is measured; larger ones are extrapolated


@dataclass(frozen=True)
class Estimate:
    """``seconds`` of training, ``memory_bytes`` at its peak (on a GPU: of the GPU), and what they were made of."""

    seconds: float
    memory_bytes: float
    device: str
    seconds_per_private_step: float
    seconds_per_step_after: float
    queries: int  # of the whole cohort, which the model asks beside its training


def estimate(config: Config, n: int, classes: int, unit: Unit) -> Estimate:
    """Time and memory of training ``config`` on ``n`` units: measured on random images, with no data and no spend.

    A private step on B units takes a + b B; both are found from a small and a larger batch of one physical chunk. Votes
    of teachers (PATE-GAN) are not measured: their training is not in it.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:  # its peak memory is nobody else's
        return alone.submit(_measure, config, n, classes, unit).result()


def _measure(config: Config, n: int, classes: int, unit: Unit) -> Estimate:
    shape, k = tuple(config.preprocess.shape), config.data.images_per_patient
    voxels = math.prod(shape) * k * config.data.augmentation_multiplicity
    # A seed, so that nothing here could ever be taken for a run; σ is of no consequence for time and memory.
    privacy = replace(config.privacy, seed=0, epsilon=None, noise_multiplier=1.0, query_noise_multiplier=1.0)
    if privacy.mode == "none":
        privacy = replace(privacy, noise_multiplier=None)
    plan = make_plan(privacy, n=n, steps=config.trainer.steps, images_per_patient=k, unit=unit,
                     augmentation_multiplicity=config.data.augmentation_multiplicity)  # fmt: skip
    device = choose_device(config.trainer)
    state = TrainingState(model_factory(config.model)(shape, classes), plan, config.trainer, patients=n, seed=0,
                          device=device)  # fmt: skip
    batch = min(n, plan.companion_size)
    chunk = min(batch, plan.physical_batch)
    measured = max(2, min(chunk, MOST_VOXELS // voxels))

    if state.private.votes is None:
        small, small_memory = _private(state, plan, 1, shape, classes)
        large, memory = _private(state, plan, measured, shape, classes)
    else:
        small = large = memory = small_memory = 0.0
    each = max(0.0, (large - small) / (measured - 1))
    after = _timed(lambda: post_processing_updates(state, plan.companion_size)) if state.post else 0.0
    before = _timed(lambda: warm_up(state, plan, 1)) if any(o.before for o in state.post) else 0.0
    memory = max(memory, _peak())
    memory += max(0.0, (memory - small_memory) / (measured - 1)) * (chunk - measured)
    memory += 4 * batch * voxels + 4 * n * voxels * (config.data.cache == "memory")
    step = small + each * (batch - 1)
    # An average over as many steps as post-processing objectives rest between two of theirs.
    often = sum(1 / _every(o.every) for o in state.post) / max(1, len(state.post))
    seconds = config.trainer.steps * step + config.trainer.all_steps * after * often
    seconds += config.trainer.steps_before * before
    return Estimate(seconds, memory, device.type, step, after, len(queries_of(state.model.objectives())))


def _private(
    state: TrainingState, plan: PrivacyPlan, patients: int, shape: tuple[int, ...], classes: int
) -> tuple[float, float]:
    """(seconds, peak bytes so far) of a private step on ``patients`` random patients."""
    k = plan.images_per_patient * plan.augmentation_multiplicity
    x_PKC = torch.rand(patients, k, 1, *shape) * 2 - 1
    y_PK = torch.randint(classes, (patients, k))
    batch = PatientBatch(x_PKC, y_PK, torch.full((patients, k), 1 / k)).to(state.random.device)
    state.noise = NoiseSource(0)
    for _ in range(WARM):
        private_update(state, plan, batch)
    return _timed(lambda: private_update(state, plan, batch)), _peak()


def _timed(step: Callable[[], object]) -> float:
    step()
    began = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _every(every: object) -> float:
    return float(getattr(every, "every", every))  # type: ignore[arg-type]


def _peak() -> float:
    """Bytes: of the GPU where there is one in use, else of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return float(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
