"""Is the privacy card what the stated settings give and the ledger recorded? Does the release hold what they say?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

from imgsynth.cohort.grid import grid_of
from imgsynth.privacy.calibrate import gaussian_noise
from imgsynth.privacy.events import event_to_json
from imgsynth.privacy.plan import PrivacyPlan, make_plan
from imgsynth.privacy.selection import declared
from imgsynth.release.card import judged_burned_in
from imgsynth.release.facts import Facts
from imgsynth.release.provenance import FORMAT, PROVENANCE, PUBLIC, entry_digest
from imgsynth.release.verify_card import same
from imgsynth.schema import PreprocessConfig, PrivacyConfig, SelectionConfig, TrainerConfig
from imgsynth.types import Fault, InputError

ENOUGH = 0.97  # of the ε that was asked for: noise is calibrated to cost it nearly
REMEDY = "do not rely on this release; ask whoever published it how it was made"


def provenance_faults(facts: Facts) -> Iterator[Fault]:
    """Faults between ``provenance.json`` and the card, the ledger's digest, and the cohort."""
    made = facts.made
    if made["format"] != FORMAT:
        yield _fault("format", made["format"], FORMAT)
        return
    for section, keys in made["config"].items():
        if more := set(keys) - set(PUBLIC.get(section, ())):
            yield _fault(f"config.{section}", ", ".join(sorted(more)), "settings that are public, and no others")
    yield from _plan_faults(facts)
    yield from _ledger_faults(facts)
    yield from _content_faults(facts)


def _plan_faults(facts: Facts) -> Iterator[Fault]:
    """The mechanism is made again from the settings: sampling rate, steps, all that ε follows from. Where ε was asked
    for, σ is the card's, and ε must be what was asked for."""
    settings, stated = facts.made["config"], facts.plan.to_json()
    try:
        expected = _plan_of(json.dumps(settings, sort_keys=True), json.dumps(stated, sort_keys=True)).to_json()
    except InputError as error:
        yield from (_fault(f"config, {fault.where}", fault.got, fault.expected) for fault in error.faults)
        return
    asked = settings["privacy"]["epsilon"]
    if asked is not None and facts.plan.mode == "dp" and not ENOUGH * asked <= facts.plan.epsilon <= asked * 1.005:
        yield _fault("config (epsilon)", asked, f"about {facts.plan.epsilon:g}, as the card's mechanism has it")
    for key in sorted(expected):
        if not same(stated[key], expected[key]):
            yield _fault(f"config ({key})", f"settings that give {expected[key]}", f"{stated[key]}, as the card says")


@lru_cache(maxsize=64)
def _plan_of(settings_json: str, stated_json: str) -> PrivacyPlan:
    """The plan that these settings give for the cohort and the model of the stated one: what no setting says, as how
    many patients there are, whether ids are patients' and what the model asks, is taken from that."""
    settings, plan = json.loads(settings_json), PrivacyPlan.from_json(json.loads(stated_json))
    privacy = PrivacyConfig(**settings["privacy"], seed=0 if plan.seeded else None, physical_batch=plan.physical_batch)
    trainer = TrainerConfig(**settings["trainer"])
    chosen = None if plan.selection is None else plan.selection.public
    # Releases of earlier versions do not say: the last step's weights.
    selection = declared(SelectionConfig(**settings.get("selection", {})), privacy, trainer.all_steps, chosen)
    if privacy.epsilon is not None and plan.mode == "dp":
        noise = privacy.query_noise_multiplier
        if plan.queries and noise is None:
            noise = gaussian_noise(privacy.query_share * privacy.epsilon, privacy.delta)
        privacy = replace(privacy, epsilon=None, noise_multiplier=plan.noise_multiplier, query_noise_multiplier=noise)
    made = make_plan(
        privacy,
        n=plan.n,
        steps=trainer.steps,
        images_per_patient=settings["data"]["images_per_patient"],
        unit=plan.unit,
        augmentation_multiplicity=settings["data"]["augmentation_multiplicity"],
        epsilon_for_histogram=settings["sample"]["histogram_epsilon"] if plan.histogram_epsilon else 0.0,
        ids=plan.ids,
        queries=[(query.name, query.clipping_norm) for query in plan.queries],
        teachers=plan.teachers,
        public=plan.public,
        selection=selection,
    )
    return replace(made, fakes=plan.fakes) if plan.fakes == "separate" else made


def _ledger_faults(facts: Facts) -> Iterator[Fault]:
    """What the card says of the mechanism must be what was on record before the data were touched."""
    entry, plan = facts.made["ledger_entry"], facts.plan
    if entry is None:
        if facts.card["cohort_ledger"]["this_run_recorded"]:
            yield _fault("ledger_entry", "none", "the digest of the entry that the card speaks of")
        return
    expected = entry_digest(entry["run"], event_to_json(plan.ledger_event()), plan.delta, plan.unit)
    if entry["sha256"] != expected:
        yield _fault("ledger_entry", entry["sha256"], f"{expected}, the digest of the card's mechanism")


def _content_faults(facts: Facts) -> Iterator[Fault]:
    """What was asked for, and what is here."""
    settings, card = facts.made["config"], facts.card
    sample = settings["sample"]
    grid = grid_of(PreprocessConfig(**settings["preprocess"]), facts.grid.modality)
    files = {name for patient in facts.cohort["patients"] for name in ("dicom", "nifti") if patient[name]}
    files |= {"zarr"} if facts.cohort.get("zarr") else set()
    began, public = facts.made["began_with"], facts.plan.public
    told = (began["digest"], began["images"]) if isinstance(began, dict) else None
    pairs: tuple[tuple[str, Any, Any], ...] = (
        ("config.sample.n", sample["n"], len(facts.patients)),
        ("config.sample.formats", set(sample["formats"]), files),
        ("config.sample.metadata", sample["metadata"], (card["released_metadata"] or {"facts": []})["facts"]),
        ("config.sample.labels", sample["labels"], card["synthetic_labels"]),
        ("config.sample.burned_in", judged_burned_in(facts.plan, sample["burned_in"]), card["burned_in_annotation"]),
        ("config.data.unit", settings["data"]["unit"], facts.plan.unit),
        ("config.preprocess", grid, replace(facts.grid, structures=())),
        ("began_with", told, None if public is None else (public.digest, public.images)),
        ("config.sample.masks_origin", sample.get("masks_origin"), (card.get("supplied_masks") or {}).get("origin")),
        ("config.sample.edits", _edited(facts), [patient.edited_from for patient in facts.patients]),
        ("imgsynth", facts.made["imgsynth"], card["imgsynth"]),
        ("config.release.watermark", facts.answers.watermark, facts.watermark),
    )
    for where, got, expected in pairs:
        if got != expected:
            yield _fault(where, str(got), f"{expected}, as card and cohort say")


def _edited(facts: Facts) -> list[str | None]:
    """Of each synthetic patient: the one that it is edited from, where the settings have edits."""
    ids = [patient.id for patient in facts.patients]
    return [ids[index - 1] if facts.edits and index % 2 else None for index in range(len(ids))]


def _fault(where: str, got: Any, expected: str) -> Fault:
    return Fault(f"{PROVENANCE}: {where}", str(got), expected, REMEDY)
