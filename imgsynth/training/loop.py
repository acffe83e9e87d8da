"""Training: the one place where models, which know no privacy, and the plan, which knows no models, meet."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from imgsynth import console
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.grid import grid_of
from imgsynth.cohort.manifest import Manifest
from imgsynth.models.base import queries_of
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.refuse import check_networks
from imgsynth.schema import Config
from imgsynth.training.begin import close, ended_by, open_spend, settle
from imgsynth.training.device import make_repeatable
from imgsynth.training.fakes import check_fakes, in_units, refuse_earlier_fakes
from imgsynth.training.feed import Feed
from imgsynth.training.fit import refuse_misfit
from imgsynth.training.folder import RunFolder, claimed, claimed_spend, refuse_other_commands, refuse_other_run
from imgsynth.training.initial import begun
from imgsynth.training.progress import training_bar
from imgsynth.training.publish import Publisher, is_due
from imgsynth.training.queries import ask, refuse_other_queries
from imgsynth.training.run import ModelFactory
from imgsynth.training.selecting import asks_patients, keep_candidate, select, write_selection
from imgsynth.training.state import TrainingState
from imgsynth.training.steps import Numbers, post_processing_updates, private_update, vote_update, warm_up
from imgsynth.training.teachers import Teachers
from imgsynth.training.team import SOLO, Team
from imgsynth.types import CheckFailed, Fault, Grid, InputError


def train(
    cfg: Config,
    run_dir: Path,
    model_factory: ModelFactory,
    extra_transforms: Sequence[Callable[[Any], Any]] = (),
    team: Team = SOLO,
) -> Path:
    """Train, or go on with, the run in ``run_dir``; returns ``run_dir``. A finished run is left as it is.

    Killed at any moment, the same call goes on from the last checkpoint: steps after it never left memory, so that
    taking them again is no second release, and the ledger has the run once. A run with ``privacy.seed`` (for tests, not
    releasable) ends in the same weights, bit for bit, whether it was killed or not.

    ``model_factory(shape, classes)`` builds the model; ``extra_transforms`` are those of ``cfg.preprocess.extra``.
    All ranks of a ``team`` call this with the same configuration; only the first touches folder and ledger.

    Raises InputError with every key in which the folder's run was begun otherwise; when another process trains in the
    folder or in a copy of it, or a copy went on; when a step ended the run before; when the cohort, plan, budget or
    disk do not allow it; when a step is refused, which ends the run. Raises CheckFailed when training diverges, which
    ends it too, and RankFailed when another rank is lost.
    """
    with ExitStack() as claims:
        # Settle what this run is, and that it may be: configuration, cohort, plan, network. No image is opened.
        refuse_other_commands(team, cfg)
        folder = team.tell(lambda: _claim(claims, cfg, run_dir))
        manifest, plan, initial = team.tell(lambda: settle(folder, cfg, model_factory))
        steps = cfg.trainer.all_steps
        grid = grid_of(cfg.preprocess, manifest.modality, manifest.structures)
        state = _initial_state(cfg, plan, lambda *of: begun(model_factory(*of), initial), grid, manifest, team)

        # Record the whole spend before the data are touched.
        job = team.tell(lambda: open_spend(folder, cfg, manifest, plan, initial))
        if job.finished:
            console.say(f"{run_dir} holds a finished run of {steps} steps; nothing to do.")
            return run_dir
        if state.private.fakes is not None:
            refuse_earlier_fakes(plan, str(run_dir))

        # Go on from the last checkpoint, if there is one.
        publisher = Publisher(folder, cfg, job, grid)
        epsilon = publisher.resume(state)
        candidates = () if plan.selection is None else plan.selection.candidates

        # Open the images of this rank's patients, unless nothing that sees them is left to do.
        dataset, feed, teachers = None, None, None
        if state.step < plan.steps or state.asked < len(plan.queries) or asks_patients(state, plan):
            dataset = PatientDataset(
                manifest, "train", cfg.preprocess, plan.images_per_patient, cfg.data.cache,
                cache_dir=folder.cache, extra=extra_transforms, generator=state.picks,
                copies=plan.augmentation_multiplicity, part=(team.rank, team.size),
            )  # fmt: skip
            if state.private.votes is None:
                feed = claims.enter_context(closing(Feed(dataset, state.sampler, state.random.device)))
            elif state.step < plan.steps:
                teachers = Teachers.of(state, plan, dataset, range(len(dataset)), cfg.privacy.seed)
                if state.step > 0:
                    teachers.restore(folder.local, state.step)

        ending = ended_by(CheckFailed, folder, job) if team.first else nullcontext()
        refused = partial(ended_by, InputError, folder, job) if team.first else nullcontext
        with training_bar(steps) as advance, closing(publisher), ending:
            # What the model asks of the whole cohort before its first step.
            if (
                state.step == 0
                and dataset is not None
                and ask(state, plan, dataset, range(len(dataset)), "before", refused)
            ):
                epsilon = publisher.publish(state)

            # And what begins with the answers, on no real data.
            for name, value in warm_up(state, plan, cfg.trainer.steps_before).items():
                console.say(f"{name} after {cfg.trainer.steps_before} steps before training: {value:.4g}")

            while state.step < steps:
                began = time.perf_counter()
                state.step += 1
                public: Numbers = {}
                local: Numbers = {}

                if feed is not None and state.step <= plan.steps:
                    # Take a Poisson batch of patients; where the state is not stored, have the next one made meanwhile.
                    batch = feed.take()
                    if not is_due(state.step, cfg.trainer, candidates):
                        feed.prepare()

                    # Step the private network. Refused for what it computed, it has ended the run.
                    with refused():
                        public, local = private_update(state, plan, batch)
                    public["noise_multiplier"], local["data_seconds"] = plan.noise_multiplier, feed.waited
                elif teachers is not None and state.step <= plan.steps:
                    # Teachers vote, with noise, on generated images; the student learns from that.
                    public, local = vote_update(state, plan, teachers)
                    public["noise_multiplier"] = plan.noise_multiplier

                # Step what sees no data, and average the generator.
                public |= post_processing_updates(state, plan.companion_size)
                state.ema.update(state.model)
                keep_candidate(state, plan)

                # Keep the numbers in memory until a checkpoint has their step.
                local["seconds"] = time.perf_counter() - began
                publisher.metrics.add({"step": state.step, **public}, {"step": state.step, **local})
                if is_due(state.step, cfg.trainer, candidates):
                    if teachers is not None:
                        teachers.save(folder.local, state.step)
                    epsilon = publisher.publish(state)
                    if teachers is not None:
                        teachers.forget(folder.local, but=state.step if state.step < plan.steps else None)
                advance(state.step, epsilon)

            # And what it asks when it is trained.
            if dataset is not None and ask(state, plan, dataset, range(len(dataset)), "after", refused):
                publisher.publish(state)

            # Which step's weights the run ends with, where that is not the last one's.
            if plan.selection is not None and state.selected is None:
                select(state, plan, cfg, manifest, dataset, extra_transforms)
                publisher.publish(state)

        team.tell(lambda: write_selection(folder, state, plan))
        team.tell(lambda: close(folder, cfg, job))
        return run_dir


def _claim(claims: ExitStack, cfg: Config, run_dir: Path) -> RunFolder:
    """Hold the run's folder and its spend until ``claims`` end, and refuse what cannot go on in it."""
    folder = claims.enter_context(claimed(run_dir))
    claims.enter_context(claimed_spend(folder, cfg.privacy.ledger))
    folder.refuse_diverged()
    refuse_other_run(folder, cfg)
    folder.refuse_lost_checkpoint()
    return folder


def _initial_state(
    cfg: Config, plan: PrivacyPlan, model_factory: ModelFactory, grid: Grid, manifest: Manifest, team: Team
) -> TrainingState:
    """Step 0, on the chosen device. Raises InputError for networks that break the guarantee, and for more ranks than
    patients."""
    seed, patients = cfg.privacy.seed, len(manifest.patients("train"))
    if team.size > patients:
        raise InputError(
            Fault("torchrun", f"{team.size} processes for {patients} training patients", "a patient for each process",
                  f"torchrun --nproc_per_node {max(1, patients // 8)}")
        )  # fmt: skip
    device = team.device(cfg.trainer)
    if seed is not None:
        make_repeatable(seed)
    model = model_factory(grid.shape, len(manifest.classes))
    if model.structures != len(grid.structures):
        raise InputError(
            Fault("model.structures", f"{model.structures}", f"{len(grid.structures)}, as data.masks has",
                  "make the configuration by imgsynth.config, which sets it")
        )  # fmt: skip
    refuse_misfit(model.objectives(), cfg.privacy, cfg.trainer, cfg.selection)
    if team.size > 1 and plan.teachers is not None:
        raise InputError(
            Fault("torchrun", f"{team.size} processes for a model whose teachers vote", "one process",
                  "train without torchrun")
        )  # fmt: skip
    refuse_other_queries(model, plan)
    share = len(range(team.rank, patients, team.size))
    state = TrainingState(model, plan, cfg.trainer, patients=share, seed=seed, device=device, team=team)
    if plan.mode == "dp":
        for query in queries_of(model.objectives()):
            check_networks(query.module)
        joint = state.private.fakes is not None and in_units(plan)
        check_networks(state.private.module, beside=state.model if joint else None)
        if state.private.fakes is not None and joint:
            check_fakes(state.private.fakes, device)
    return state
