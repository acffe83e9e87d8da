"""What a whole sweep spends on each cohort, by the ledger's own composition, before its first run."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imgsynth import console
from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.manifest import Manifest
from imgsynth.files import read_json
from imgsynth.privacy.budget import Foreseen, describe
from imgsynth.privacy.entries import Asked
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.schema import Config
from imgsynth.sweep.cells import Cell, SweepFolder, finite, said
from imgsynth.sweep.design import Design
from imgsynth.training.begin import asked_by, plan_of
from imgsynth.training.folder import FREE, RunFolder, flatten
from imgsynth.training.public import public_start
from imgsynth.training.run import model_factory
from imgsynth.types import Fault, InputError

CHOICE = (
    "What is chosen from this sweep (an ε, a model, a setting) is chosen by numbers that were measured on patients "
    "without noise: the choice itself is not covered by any ε here. On private patients fix it beforehand, choose on "
    "public or phantom data, or by a charged mechanism (docs/privacy.md)."
)


@dataclass(frozen=True)
class Spend:
    """One cohort of the sweep: how many of its runs, of which ε, are still to be made, and what all comes to."""

    cohort: str  # its name in the sweep
    public: str | None  # why it may be shown without privacy; None: private
    unit: str
    n: int
    epsilons: dict[float, int]  # ε of the runs that are not on record yet -> how many
    recorded: int  # runs of the sweep that are
    foreseen: Foreseen


def foresee(design: Design, folder: SweepFolder) -> list[Spend]:
    """Raises InputError, with all faults of all cells, where a run could not begin or a budget would be passed."""
    faults: list[Fault] = []
    asked: dict[Cell, Asked] = {}
    sizes: dict[str, tuple[str, int]] = {}
    manifests: dict[str, Manifest] = {}
    plans: dict[str, PrivacyPlan] = {}
    for cell, config in design.cells.items():
        run = RunFolder(folder.cell(cell))
        faults += _otherwise(cell, config, run)
        try:
            manifest, plan = _of_run(config, run, manifests, plans)
        except InputError as error:
            faults += [replace(fault, where=f"{cell.cohort}: {fault.where}") for fault in error.faults]
            continue
        path = run.root / "run_id.txt"
        run_id = path.read_text(encoding="utf-8").strip() if path.is_file() else f"planned: {cell.name}"
        asked[cell] = asked_by(config, manifest, plan, run_id)
        sizes[cell.cohort] = "case" if manifest.ids == "case" and manifest.unit == "patient" else manifest.unit, plan.n
    if faults:
        raise InputError(*dict.fromkeys(faults))
    rows: dict[str, Foreseen] = {}
    known: set[tuple[str, str]] = set()
    for place in {config.privacy.ledger for config in design.cells.values()}:
        ledger = Ledger(place)
        found, passed = ledger.foresee([a for c, a in asked.items() if design.cells[c].privacy.ledger == place])
        rows |= {one.cohort: one for one in found}
        known |= {(one.cohort, entry.run) for one in found for entry in ledger.entries(one.cohort)}
        faults += passed
    if faults:
        raise InputError(*dict.fromkeys(faults))
    return [_row(name, why, asked, sizes, rows, known) for name, why in design.public.items()]


def _of_run(
    config: Config, run: RunFolder, manifests: dict[str, Manifest], plans: dict[str, PrivacyPlan]
) -> tuple[Manifest, PrivacyPlan]:
    """The cohort and plan of a run, begun or not; the same source is read once, the same plan calibrated once."""
    if run.begun:
        return Manifest.load(run.manifest), PrivacyPlan.from_json(read_json(run.plan))
    source, whole = _key(config.data, config.privacy.ledger), _key(replace(config, output=None), None)
    if source not in manifests:
        manifests[source] = build_manifest(config.data)[0].hashed(Ledger(config.privacy.ledger).key())
    manifest = manifests[source]
    if whole not in plans:
        public = None if config.init.run is None else public_start(config, manifest)[0]
        plans[whole] = plan_of(config, manifest, model_factory(config.model), public)
    return manifest, plans[whole]


def _otherwise(cell: Cell, config: Config, run: RunFolder) -> list[Fault]:
    """A cell that was begun with other settings: those of one sweep are made and measured alike."""
    if not run.begun:
        return []
    old, new = flatten(read_json(run.config)), flatten(dataclasses.asdict(config))
    return [
        Fault(f"{cell.group}: {key}", f"{new.get(key, 'nothing')!r}", f"{old.get(key, 'nothing')!r}, as {run.root} has",
              "the same value, or another output=DIR")
        for key in sorted(old.keys() | new.keys())
        if old.get(key, "nothing") != new.get(key, "nothing")
        and key not in FREE and key not in ("output", "evaluate.shared")
        and not key.startswith(("curve", "plan.", "release."))
    ]  # fmt: skip


def _row(
    name: str, public: str | None, asked: Mapping[Cell, Asked], sizes: Mapping[str, tuple[str, int]],
    rows: Mapping[str, Foreseen], known: set[tuple[str, str]],
) -> Spend:  # fmt: skip
    mine = {cell: one for cell, one in asked.items() if cell.cohort == name}
    new = [cell.epsilon for cell, one in mine.items() if (one.cohort, one.run) not in known]
    unit, n = sizes[name]
    cohort = next(iter(mine.values())).cohort
    return Spend(name, public, unit, n, {e: new.count(e) for e in sorted(set(new))}, len(mine) - len(new), rows[cohort])


def print_plan(spends: list[Spend], design: Design, folder: SweepFolder) -> None:
    """The whole plan: every cohort's runs, and what they come to beside what is spent and the budget."""
    console.say("What this sweep spends, composed with all that the ledger has on the same patients:")
    for one in spends:
        console.say(f"- {one.cohort}: {sentence(one)}")
    if design.left_out:
        console.say(f"Left out by name: {', '.join(design.left_out)}.")
    done = sum(folder.finished(cell) for cell in design.cells)
    console.say(f"{len(design.cells)} runs, {done} of them finished.")
    console.say(CHOICE)


def sentence(one: Spend) -> str:
    """What is planned on one cohort and what it comes to, for people."""
    f = one.foreseen
    runs = ", ".join(f"{count} of ε = {said(e)}" for e, count in one.epsilons.items()) or "none"
    together = said(f.together)
    if math.isinf(f.together) and f.private > 0:
        together += f" (those with privacy alone: {said(f.private)})"
    budget = "no budget is set" if f.budget is None else f"the budget is {f.budget:g}"
    words = [
        f"{one.n:,} training {one.unit}s, {f'public: {one.public}' if one.public else _private(one)}.",
        f"Runs to come: {runs}" + (f" ({one.recorded} more are on record)." if one.recorded else "."),
        f"ε spent: {said(f.spent)} by {f.entries} runs; after all: {together}, at δ = {f.delta:g}; {budget}.",
    ]
    if f.shared:
        words.append(f"Patients in common: {'; '.join(map(describe, f.shared))}; ε is of the one with the most.")
    return " ".join(words)


def _private(one: Spend) -> str:
    text = "PRIVATE: all that this sweep writes must stay, and every run of it counts for good"
    if any(map(math.isinf, one.epsilons)):
        text += "; runs without privacy, by name (curve.unbounded): for these patients the ledger will say ε = ∞"
    return text


def facts_of(spends: list[Spend]) -> dict[str, dict[str, Any]]:
    """What the tables say of each cohort. JSON-able; None is ∞."""
    return {
        one.cohort: {"public": one.public, "unit": one.unit, "n": one.n, "delta": one.foreseen.delta,
                     "epsilon_after_all": finite(one.foreseen.together),
                     "epsilon_of_private_runs": finite(one.foreseen.private), "budget": one.foreseen.budget}
        for one in spends
    }  # fmt: skip


def _key(section: Any, place: str | Path | None) -> str:
    return json.dumps([dataclasses.asdict(section), str(place)], sort_keys=True, default=str)
