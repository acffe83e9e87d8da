"""Opening a run on public images as what a private run begins with, and refusing what cannot be public."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from dp_accounting import dp_event as dp

from imgsynth.cohort.manifest import Manifest
from imgsynth.console import warn
from imgsynth.keyed import key_check, normal
from imgsynth.models.base import GenerativeModel
from imgsynth.privacy.ledger import Entry, Ledger
from imgsynth.privacy.patients import Patients
from imgsynth.privacy.public import DECLARATION, PublicStart
from imgsynth.schema import Config, DataConfig
from imgsynth.training.initial import Initial
from imgsynth.training.members import members
from imgsynth.training.run import Run, load_run, model_factory, trained_model
from imgsynth.types import Fault, InputError, Unit


@dataclass(frozen=True)
class Others:
    """A cohort that somebody says to be public."""

    where: str  # the setting that names it
    manifest: Manifest
    data: DataConfig
    remedy: str  # for images or patients that are in the private cohort too


def public_start(cfg: Config, manifest: Manifest) -> tuple[PublicStart, Initial]:
    """The weights of the last step of the run in ``cfg.init.run``, not averaged, so that parts that were trained with
    each other stay together; and what the plan says of them.

    Raises InputError with all that stands against beginning a run on ``manifest`` with them.
    """
    assert cfg.init.run is not None
    run = load_run(Path(cfg.init.run))
    apart = "take these images or patients out of one of the two cohorts, and train the public run anew"
    others = Others(f"init.run {run.root}", run.manifest, run.config.data, apart)
    faults = [*_not_public(run, others, cfg), *_differences(run, cfg, manifest), *same_people(others, cfg, manifest)]
    if faults:
        raise InputError(*faults)
    initial = Initial(trained_model(run).state_dict(), cfg.init.train, cfg.init.rank)
    images = cfg.init.public or f"digital phantoms of imgsynth (seed {run.config.data.phantom.seed}), which are nobody"
    return PublicStart(initial.digest, images), initial


def _not_public(run: Run, others: Others, cfg: Config) -> Iterator[Fault]:
    """What makes a run unfit to be called public, whoever declares it so."""
    where = others.where
    instead = "train another run, with privacy=none, on images that are public"
    if run.plan.mode != "none":
        yield Fault(where, f"a run of privacy.mode={run.plan.mode}, on patients to be protected",
                    "a run on public images: to go on from private weights on other patients is a second spend on the "
                    "first ones, for which there is no account here", instead)  # fmt: skip
    elif run.manifest.kind != "phantom" and (known := read_privately(others, cfg)):
        yield Fault(where, f"a run on {known}", "images that are nobody's secret", instead)
    if run.plan.public is not None:
        yield Fault(where, f"a run that itself began with weights from elsewhere ({run.plan.public.images})",
                    "a run that began with random numbers, whose manifest has all images that made its weights",
                    "train it without init.run, on all public images together")  # fmt: skip
    if not run.finished:
        yield Fault(where, f"a run at step {run.step} of {run.config.trainer.all_steps}", "a finished run",
                    f"imgsynth train output={run.root}")  # fmt: skip
    if cfg.init.public is None and run.manifest.kind != "phantom":
        yield Fault("init.public", "nothing", f"{DECLARATION}; it goes on the privacy card",
                    'init.public="radiographs of Example 2019, published under CC BY"')  # fmt: skip


def read_privately(others: Others, cfg: Config) -> str | None:
    """What the private run's ledger knows of runs with noise on the cohort, or on some of its images or patients under
    whatever name; None: of no such run. Equal ids that may be other persons' are warned of."""
    known = "a cohort that the ledger knows from private runs (privacy.mode=dp)"
    if any(not isinstance(entry.event, dp.NonPrivateDpEvent) for entry in _entries(others, cfg)):
        return known
    ledger, manifest = Ledger(cfg.privacy.ledger), others.manifest
    asked: dict[Unit, Patients] = {"image": Patients(frozenset(item.digest for item in manifest.items))}
    if manifest.unit != "image" and manifest.key == key_check(ledger.key()):  # other keys: ``same_people``
        issuer = members(manifest, others.data).issuer
        asked[manifest.unit] = Patients(frozenset(manifest.patients()), issuer, manifest.key)
    for unit, patients in asked.items():
        for found in ledger.protected(unit, patients):
            what = f"{found.patients} {unit}s of cohort {found.cohort}, which the ledger knows from private runs"
            if found.certain:
                return what
            warn(f"{others.where} has the ids of {what}, and who gave out the ids is not known of both (data.issuer). "
                 "If they are the same persons, they are not public.")  # fmt: skip
    return None


def _entries(others: Others, cfg: Config) -> list[Entry]:
    """What the private run's ledger knows of the public cohort."""
    return Ledger(cfg.privacy.ledger).entries(others.data.cohort or others.manifest.fingerprint)


def _differences(run: Run, cfg: Config, manifest: Manifest) -> Iterator[Fault]:
    """Everything in which the public run's model is another one than the private run's, as far as weights show it."""
    model = model_factory(cfg.model)(tuple(cfg.preprocess.shape), len(manifest.classes))
    same = "as the public run has; else train that one anew"
    for where, got, theirs in (
        ("preprocess.shape", list(model.shape), list(run.grid.shape)),
        ("data.classes", list(manifest.classes), list(run.manifest.classes)),
        ("data.masks", [s.name for s in manifest.structures], [s.name for s in run.manifest.structures]),
    ):
        if got != theirs:
            yield Fault(where, f"{got}", f"{theirs}, {same}", f"{where}=[{','.join(map(str, theirs))}]")
    part, theirs = model.public_part, run.config.model
    if type(part) is not type(run.model):
        name = type(run.model).__name__
        yield Fault("model", type(part).__name__, f"{name}, {same}", f"model={name.lower()}")
    elif part is model:
        yield from _other_hyper_parameters(model, cfg.model, theirs, same)
    elif _shapes(part, theirs) != _shapes_of(part):
        yield Fault("model", f"{type(model).__name__} with another {type(part).__name__}", f"{theirs}, {same}",
                    "the model of the public run's config.json")  # fmt: skip


def _other_hyper_parameters(
    model: GenerativeModel, ours: dict[str, Any], theirs: dict[str, Any], same: str
) -> Iterator[Fault]:
    """Those that alone change the number or the shapes of the weights, or else all; ``beta``, say, may differ."""
    shapes = _shapes(model, ours)
    if shapes == _shapes(model, theirs):
        return
    defaults = {name: p.default for name, p in inspect.signature(type(model)).parameters.items()}
    pairs = {
        name: (ours.get(name, default), theirs.get(name, default))
        for name, default in sorted(defaults.items())
        if name not in ("shape", "classes") and ours.get(name, default) != theirs.get(name, default)
    }
    alone = {name for name, (_, other) in pairs.items() if _shapes(model, {**ours, name: other}) != shapes}
    for name in alone or pairs:
        got, expected = (_as_typed(value) for value in pairs[name])
        yield Fault(f"model.{name}", got, f"{expected}, {same}", f"model.{name}={expected}")


def _as_typed(value: Any) -> str:
    """A setting's value as a command line takes it."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, (list, tuple)) else str(value)


def _shapes(model: GenerativeModel, config: dict[str, Any]) -> dict[str, torch.Size] | None:
    """Of all weights with these hyper-parameters on ``model``'s grid; None where they do not fit it."""
    try:
        return _shapes_of(model_factory(config)(model.shape, model.classes))
    except InputError:
        return None


def _shapes_of(model: GenerativeModel) -> dict[str, torch.Size]:
    """But for the answer that generators are held to: it stays behind, and may be there or not
    (``models/beginning.py``)."""
    return {name: t.shape for name, t in model.state_dict().items() if not name.startswith("moments.")}


def same_people(others: Others, cfg: Config, manifest: Manifest) -> Iterator[Fault]:
    """Images or patients that are in both cohorts, in whatever split: as far as content and ids can tell."""
    where, remedy = others.where, others.remedy
    apart = "public images of other people: a patient who is in both is protected by nothing"
    ours = {item.digest for item in manifest.items}
    found = [item.where for item in others.manifest.items if item.digest in ours]
    if cfg.data.cohort is not None and cfg.data.cohort == others.data.cohort:
        yield Fault("data.cohort", f"{cfg.data.cohort}, which is the public one's name too", apart, remedy)
    if found:
        yield Fault(where, f"{len(found)} images that are in the private cohort too ({found[0]})", apart, remedy)
    shared, known = _shared_ids(others, cfg, manifest)
    if shared is None and known:
        yield Fault(where, "patient ids of the same issuer, hashed with the key of another ledger", apart,
                    "train the public run with this one's ledger (privacy.ledger): ids cannot be compared")  # fmt: skip
    elif shared is None:
        warn(f"the patient ids of {where} are hashed with the key of another ledger: nothing compared them")
    elif shared and known:
        yield Fault(where, f"{shared} patient ids of the same issuer as in the private cohort", apart, remedy)
    elif shared:
        warn(
            f"{where} has {shared} patient ids that are in the private cohort too, and who gave out the "
            "ids is not known of both (data.issuer; for runs of before, imgsynth ledger --issuer COHORT=NAME). If they "
            "are the same persons, this run does not protect them."
        )


def _shared_ids(others: Others, cfg: Config, manifest: Manifest) -> tuple[int | None, bool]:
    """How many ids are in both cohorts, and whether one issuer is known to have given them out; 0 with two issuers.

    None where the ids are hashed with two keys, so that nobody can tell.
    """
    if "image" in (manifest.unit, others.manifest.unit):
        return 0, False
    said_later = [entry.issuer for entry in _entries(others, cfg) if entry.issuer is not None]
    issuers = [members(others.manifest, others.data).issuer, members(manifest, cfg.data).issuer]
    issuers[0] = issuers[0] or next(iter(said_later), None)
    names = {None if issuer is None else normal(issuer) for issuer in issuers}
    if None not in names and len(names) == 2:
        return 0, False
    if others.manifest.key != manifest.key:
        return None if others.manifest.kind != "phantom" else 0, None not in names
    return len(set(others.manifest.patients()) & set(manifest.patients())), None not in names
