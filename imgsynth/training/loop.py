"""Training: the one place where models, which know no privacy, and the plan, which knows no models, meet."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from imgsynth import console
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.grid import grid_of
from imgsynth.cohort.manifest import Manifest
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.refuse import check_private_network
from imgsynth.schema import Config
from imgsynth.training.begin import close, ended_by_divergence, open_spend, settle
from imgsynth.training.device import choose_device, make_repeatable
from imgsynth.training.folder import claimed, claimed_spend, refuse_other_run
from imgsynth.training.progress import training_bar
from imgsynth.training.publish import Publisher, is_due
from imgsynth.training.run import ModelFactory
from imgsynth.training.state import TrainingState
from imgsynth.training.steps import post_processing_updates, private_update
from imgsynth.types import Grid


def train(
    cfg: Config, run_dir: Path, model_factory: ModelFactory, extra_transforms: Sequence[Callable[[Any], Any]] = ()
) -> Path:
    """Train, or go on with, the run in ``run_dir``; returns ``run_dir``. A finished run is left as it is.

    Killed at any moment, the same call goes on from the last checkpoint: steps after it never left memory, so that
    taking them again is no second release, and the ledger has the run once. A run with ``privacy.seed`` (for tests, not
    releasable) ends in the same weights, bit for bit, whether it was killed or not.

    ``model_factory(shape, classes)`` builds the model; ``extra_transforms`` are those of ``cfg.preprocess.extra``.

    Raises InputError with every key in which the folder's run was begun otherwise; when another process trains in the
    folder or in a copy of it; when the run diverged before; when the cohort, plan, budget or disk do not allow it.
    Raises CheckFailed when training diverges, which ends the run.
    """
    with claimed(run_dir) as folder, claimed_spend(folder, cfg.privacy.ledger):
        # Settle what this run is, and that it may be: configuration, cohort, plan, network. No image is opened.
        folder.refuse_diverged()
        refuse_other_run(folder, cfg)
        folder.refuse_lost_checkpoint()
        manifest, plan = settle(folder, cfg)
        grid = grid_of(cfg.preprocess, manifest.modality)
        state = _initial_state(cfg, plan, model_factory, grid, manifest)

        # Record the whole spend before the data are touched.
        job = open_spend(folder, cfg, manifest, plan)
        if job.finished:
            console.say(f"{run_dir} holds a finished run of {plan.steps} steps; nothing to do.")
            return run_dir

        # Go on from the last checkpoint, if there is one.
        publisher = Publisher(folder, cfg, plan, grid, manifest.classes)
        epsilon = publisher.resume(state)

        # Open the images.
        dataset = PatientDataset(
            manifest, "train", cfg.preprocess, plan.images_per_patient, cfg.data.cache,
            cache_dir=folder.cache, extra=extra_transforms, generator=state.picks,
            copies=plan.augmentation_multiplicity,
        )  # fmt: skip

        with training_bar(plan.steps) as advance, closing(publisher.metrics), ended_by_divergence(folder, job):
            while state.step < plan.steps:
                began = time.perf_counter()

                # Step the private network on a Poisson batch of patients.
                state.step += 1
                batch = dataset.batch(state.sampler.draw()).to(state.random.device)
                public, local = private_update(state, plan, batch)

                # Step what sees no data, and average the generator.
                public |= post_processing_updates(state, plan.companion_size)
                state.ema.update(state.model)

                # Keep the numbers in memory until a checkpoint has their step.
                publisher.metrics.add(
                    {"step": state.step, "noise_multiplier": plan.noise_multiplier, **public},
                    {"step": state.step, **local, "seconds": time.perf_counter() - began},
                )
                if is_due(state.step, cfg.trainer):
                    epsilon = publisher.publish(state)
                advance(state.step, epsilon)

        close(folder, cfg, job)
        return run_dir


def _initial_state(
    cfg: Config, plan: PrivacyPlan, model_factory: ModelFactory, grid: Grid, manifest: Manifest
) -> TrainingState:
    """Step 0, on the chosen device. Raises InputError for networks that break the guarantee."""
    device, seed = choose_device(cfg.trainer), cfg.privacy.seed
    if seed is not None:
        make_repeatable(seed)
    model = model_factory(grid.shape, len(manifest.classes))
    patients = len(manifest.patients("train"))
    state = TrainingState(model, plan, cfg.trainer, patients=patients, seed=seed, device=device)
    if plan.mode == "dp":
        check_private_network(state.private.module)
    return state
