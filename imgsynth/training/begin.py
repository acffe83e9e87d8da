"""From a configuration to a run that is allowed to start: cohort, plan and ledger entry, in that order, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.manifest import Manifest
from imgsynth.console import warn
from imgsynth.features.maps import feature_maps
from imgsynth.files import read_json, write_json
from imgsynth.models.base import queries_of, the_private
from imgsynth.privacy.budget import describe
from imgsynth.privacy.entries import Asked
from imgsynth.privacy.ledger import Entry, Ledger
from imgsynth.privacy.plan import PrivacyPlan, make_plan
from imgsynth.privacy.public import PublicStart
from imgsynth.privacy.selection import PublicImages, declared
from imgsynth.schema import Config
from imgsynth.training.checkpoint import load_checkpoint
from imgsynth.training.disk import writing
from imgsynth.training.folder import RunFolder
from imgsynth.training.histogram import release_histogram
from imgsynth.training.initial import Initial, store_initial, stored_initial
from imgsynth.training.members import members
from imgsynth.training.public import public_start
from imgsynth.training.public_voters import public_images
from imgsynth.training.run import ModelFactory, finished
from imgsynth.training.teachers import how_many
from imgsynth.types import Fault, ImgsynthError, InputError, Unit


@dataclass(frozen=True)
class Job:
    """A run whose spend is on record."""

    manifest: Manifest
    plan: PrivacyPlan
    ledger: Ledger
    cohort: str  # the cohort's name in the ledger
    entry: Entry

    @property
    def finished(self) -> bool:
        """Every step is taken and the label histogram, if any, is drawn: nothing may be released any more."""
        return self.entry.state == "closed"


def settle(folder: RunFolder, cfg: Config, model_factory: ModelFactory) -> tuple[Manifest, PrivacyPlan, Initial | None]:
    """The run's cohort, plan and public weights: those stored when it was begun, else made now (and stored by
    ``open_spend``)."""
    if folder.begun:
        plan = PrivacyPlan.from_json(read_json(folder.plan))
        return Manifest.load(folder.manifest), plan, stored_initial(folder, plan, cfg.init)
    manifest = build_manifest(cfg.data)[0].hashed(Ledger(cfg.privacy.ledger).key())
    public, initial = (None, None) if cfg.init.run is None else public_start(cfg, manifest)
    return manifest, plan_of(cfg, manifest, model_factory, public), initial


def plan_of(
    cfg: Config, manifest: Manifest, model_factory: ModelFactory, public: PublicStart | None = None
) -> PrivacyPlan:
    """The plan of a run that is not begun yet, on a cohort that is read (``manifest``, hashed)."""
    chosen = None if cfg.selection.rule != "public" else public_images(cfg, manifest)[1]
    n, classes = len(manifest.patients("train")), len(manifest.classes)
    return plan_for(cfg, n, classes, manifest.unit, manifest.ids, model_factory, public, chosen)


def plan_for(
    cfg: Config, n: int, classes: int, unit: Unit, ids: Literal["patient", "case"], model_factory: ModelFactory,
    public: PublicStart | None = None, chosen: PublicImages | None = None,
) -> PrivacyPlan:  # fmt: skip
    """The same on ``n`` units of ``classes`` classes, ``chosen`` the public images that choose among steps."""
    objectives = model_factory(tuple(cfg.preprocess.shape), classes).objectives()
    selection = declared(cfg.selection, cfg.privacy, cfg.trainer.all_steps, chosen)
    if selection is not None and selection.rule != "fixed":
        feature_maps(cfg.selection.encoder, len(cfg.preprocess.shape), seed=0, where="selection.encoder")  # is it there
    asked, votes = queries_of(objectives), the_private(objectives).votes
    return make_plan(
        cfg.privacy,
        n=n,
        steps=cfg.trainer.steps,
        images_per_patient=cfg.data.images_per_patient,
        augmentation_multiplicity=cfg.data.augmentation_multiplicity,
        unit=unit,
        ids=ids,
        queries=[(query.name, query.norm) for query in asked],
        teachers=None if votes is None else how_many(votes, n if cfg.privacy.n is None else cfg.privacy.n),
        public=public,
        selection=selection,
        epsilon_for_histogram=cfg.sample.epsilon_for_histogram,
    )


def open_spend(
    folder: RunFolder, cfg: Config, manifest: Manifest, plan: PrivacyPlan, initial: Initial | None = None
) -> Job:
    """Record the run's whole ε in the ledger, then store what it was begun with. No image was opened before.

    The configuration is stored last: with it the folder holds a begun run, and before it nothing that binds. Killed
    anywhere in between, the same command finds the same entry. Raises InputError when the budget does not allow it.
    """
    ledger = Ledger(cfg.privacy.ledger)
    cohort = cohort_of(cfg, manifest)
    with writing(folder.root):
        run = folder.run_id()
    entry = ledger.open_entry(**vars(asked_by(cfg, manifest, plan, run)))
    if not folder.begun:
        _tell_overlaps(ledger, cohort, plan)
        with writing(folder.root):
            manifest.save(folder.manifest)
            write_json(folder.plan, plan.to_json())
            if initial is not None:
                store_initial(folder, initial)
            write_json(folder.config, dataclasses.asdict(cfg))
    job = Job(manifest, plan, ledger, cohort, entry)
    if job.finished:
        _check_finished(folder, plan, cfg.trainer.all_steps)
    return job


def cohort_of(cfg: Config, manifest: Manifest) -> str:
    """The cohort's name in the ledger."""
    return cfg.data.cohort or manifest.fingerprint


def asked_by(cfg: Config, manifest: Manifest, plan: PrivacyPlan, run: str) -> Asked:
    """The spend of a run, as the ledger takes it."""
    return Asked(cohort_of(cfg, manifest), plan.ledger_event(), run, plan.ledger_epsilon, plan.delta,
                 cfg.privacy.budget_epsilon, plan.unit, members(manifest, cfg.data))  # fmt: skip


def _tell_overlaps(ledger: Ledger, cohort: str, plan: PrivacyPlan) -> None:
    """Warn that patients of this run are in other cohorts too: its ε is not all that was spent on them."""
    shared = ledger.shared(cohort)
    if shared:
        total = ledger.composed_epsilon(cohort, plan.delta)
        whom = "; ".join(describe(one) for one in shared)
        warn(
            f"the ledger knows {plan.unit}s of cohort {cohort} from others: {whom}. With this run, ε = {total:.4g} "
            f"(δ = {plan.delta:g}) for the {plan.unit} on whom most was spent. Other persons with the same ids? Then "
            "name who gave out the ids: data.issuer=NAME, and for earlier runs: imgsynth ledger --issuer COHORT=NAME"
        )


def close(folder: RunFolder, cfg: Config, job: Job) -> None:
    """Release the noisy label histogram where the plan has one, and note in the ledger that the run is done."""
    if job.plan.histogram_epsilon > 0:
        release_histogram(folder, job.ledger, job.entry.run, job.plan, job.manifest, cfg.sample, cfg.privacy.seed)
    job.ledger.close_entry(job.cohort, job.entry.run)


@contextmanager
def ended_by(kind: type[ImgsynthError], folder: RunFolder, job: Job) -> Iterator[None]:
    """End the run for good before an error of ``kind`` in a step is raised: that it was raised, and where, may depend
    on patients and is seen, and the same steps taken again would be a second release. Stored in the folder, and in
    the ledger, which knows the folder's copies too.
    """
    try:
        yield
    except kind as error:
        with writing(folder.root):
            write_json(folder.diverged, {"faults": [dataclasses.asdict(fault) for fault in error.faults]})
        job.ledger.close_entry(job.cohort, job.entry.run)
        raise


def _check_finished(folder: RunFolder, plan: PrivacyPlan, steps: int) -> None:
    """A run that the ledger has closed must be whole here: nothing more may be made on its spend."""
    needed = [folder.checkpoint] + ([folder.label_histogram] if plan.histogram_epsilon > 0 else [])
    faults = [
        Fault(str(path), "no such file in a finished run", "the file, which cannot be made twice on one spend",
              "restore it, or train into a new output=DIR (a new entry in the ledger)")
        for path in needed
        if not path.is_file()
    ]  # fmt: skip
    if not faults and not finished(state := load_checkpoint(folder.checkpoint)["state"], plan, steps):
        faults = [
            Fault(str(folder.root),
                  f"a copy at step {state['step']} of a run that was finished elsewhere, or ended there",
                  f"the finished run of {steps} steps, because other steps would be a second spend",
                  "use the finished folder, or train into a new output=DIR (a new entry in the ledger)")
        ]  # fmt: skip
    if faults:
        raise InputError(*faults)
