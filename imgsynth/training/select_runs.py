"""``imgsynth select``: which of several finished runs on one cohort is released, by a vote of its patients, charged."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from imgsynth import console
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.files import read_json
from imgsynth.privacy.choose import choose
from imgsynth.privacy.entries import composed, finite
from imgsynth.privacy.events import pure_event
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.selection import CHARGED, Selection
from imgsynth.schema import Config, SelectionConfig
from imgsynth.training.folder import RunFolder, claimed, claimed_spend
from imgsynth.training.members import members
from imgsynth.training.once import draw_once
from imgsynth.training.run import Run, load_run
from imgsynth.training.voting import Candidates
from imgsynth.types import Fault, InputError

FORMAT = "imgsynth-selection-of-runs-1"


def select_runs(
    run_dirs: Sequence[Path], selection: SelectionConfig, output: Path, extra: Callable[[Config], Sequence[Any]]
) -> Path:
    """Choose one of the runs by one vote of each training patient, and write ``output/selection.json``; returns it.

    Formal guarantee: the choice is (``selection.epsilon``, 0)-differentially private for one unit. It is an entry of
    its own in the ledger, on the cohort of the runs, before an image is opened; each of the runs is another entry
    already, so that the cohort's ε is that of all of them and of the choice. Called again, it does nothing: killed
    at any moment it draws once (``once.py``). ``extra(config)`` are the transforms of ``preprocess.extra``.

    Raises InputError with everything for which the runs cannot be chosen among, before anything is spent.
    """
    runs = [load_run(path) for path in run_dirs]
    faults = [*_faults_of_settings(selection), *_faults(runs)]
    if RunFolder(output).begun:
        faults.append(Fault("output", f"{output}, the folder of a run", "a folder of its own", "output=DIR"))
    if faults:
        raise InputError(*faults)
    first, delta = runs[0], min(run.plan.delta for run in runs)
    cohort, ledger = first.config.data.cohort, Ledger(first.config.privacy.ledger)
    assert cohort is not None and selection.epsilon is not None
    rule = Selection(selection.rule, tuple(range(1, len(runs) + 1)), selection.epsilon)  # type: ignore[arg-type]
    with ExitStack() as claims:
        folder = claims.enter_context(claimed(output))
        claims.enter_context(claimed_spend(folder, first.config.privacy.ledger))
        own = folder.run_id()
        ledger.open_entry(
            cohort, pure_event(rule.epsilon), run=own, epsilon=rule.epsilon, delta=delta,
            budget_epsilon=first.config.privacy.budget_epsilon, unit=first.plan.unit,
            patients=members(first.manifest, first.config.data),
        )  # fmt: skip

        def draw() -> dict[str, Any]:
            place = choose(rule, _votes(runs, selection, extra(first.config)), "dp")
            total = composed(ledger.entries(cohort), delta)
            return {
                "format": FORMAT, "scope": "local", "cohort": cohort, "unit": first.plan.unit, "rule": rule.rule,
                "epsilon": rule.epsilon, "candidates": [str(run.root) for run in runs],
                "selected": str(runs[place].root),
                "cohort_total": {"epsilon": finite(total), "delta": delta, "entries": len(ledger.entries(cohort))},
            }  # fmt: skip

        draw_once(folder.selection, ledger, f"{own}, selection", len(runs), "selection", draw)
        ledger.close_entry(cohort, own)
    _say(read_json(folder.selection), [str(run.root) for run in runs])
    return folder.selection


def _say(chosen: dict[str, Any], asked: list[str]) -> None:
    if chosen["candidates"] != asked:
        expected = f"{', '.join(chosen['candidates'])}, among which this folder has chosen"
        remedy = "the same runs, or another output=DIR (a new entry in the ledger)"
        raise InputError(Fault("imgsynth select, runs", ", ".join(asked), expected, remedy))
    total = chosen["cohort_total"]
    epsilon = "∞" if total["epsilon"] is None else f"{total['epsilon']:.4g}"
    console.say(f"Chosen by {chosen['rule']} at ε = {chosen['epsilon']:g}: {chosen['selected']}.")
    console.say(
        f"What its release must state is the ε of all runs on {chosen['cohort']} and of this choice: {epsilon} at δ = "
        f"{total['delta']:g}, {total['entries']} entries. Cards that are written from now on have it as the cohort's."
    )


def _votes(runs: Sequence[Run], selection: SelectionConfig, extra: Sequence[Any]) -> list[int]:
    first = runs[0]
    random = torch.Generator().manual_seed(secrets.randbits(63))
    samplers = (run.model.sample for run in runs)
    classes, dims = len(first.manifest.classes), len(first.grid.shape)
    candidates = Candidates(samplers, classes, selection.samples, selection.encoder, dims, random)
    patients = PatientDataset(first.manifest, "train", first.config.preprocess, cache="none", extra=extra)
    return candidates.votes(patients.all_images())


def _faults_of_settings(selection: SelectionConfig) -> Iterator[Fault]:
    if selection.rule not in CHARGED:
        yield Fault("selection.rule", selection.rule, f"one of {', '.join(CHARGED)}; among public facts everybody may "
                    "choose without this", "selection.rule=noisy_max")  # fmt: skip
    if selection.epsilon is None:
        yield Fault("selection.epsilon", "null", "the ε of the choice", "selection.epsilon=0.5")
    for name in ("step", "every"):
        if getattr(selection, name) is not None:
            yield Fault(f"selection.{name}", str(getattr(selection, name)), "null: it is about the steps of one run",
                        f"leave selection.{name} out")  # fmt: skip


def _faults(runs: Sequence[Run]) -> Iterator[Fault]:
    """What stands against choosing among these: they must be comparable, and one account must have them all."""
    first = runs[0]
    if len({run.root.resolve() for run in runs}) < 2:
        yield Fault("imgsynth select, runs", str(first.root), "two runs or more", "imgsynth select RUN RUN …")
    for run in runs:
        where = f"run {run.root}"
        if not run.finished:
            yield Fault(where, f"at step {run.step}", "a finished run", f"imgsynth train output={run.root}")
        if run.config.data.cohort is None:
            yield Fault(f"{where}, data.cohort", "null", "the cohort's name: without one no card shows what was "
                        "spent on all runs together", "train with data.cohort=NAME")  # fmt: skip
        elif run.config.data.cohort != first.config.data.cohort:
            yield Fault(f"{where}, data.cohort", run.config.data.cohort, f"{first.config.data.cohort}, as {first.root}",
                        "runs on one cohort")  # fmt: skip
        if Ledger(run.config.privacy.ledger).folder != Ledger(first.config.privacy.ledger).folder:
            yield Fault(
                f"{where}, privacy.ledger", "another ledger", "one ledger for all of them", "privacy.ledger=DIR"
            )
        elif run.config.data.cohort is not None and not _recorded(run):
            yield Fault(where, "a run that the ledger does not have", "runs on record", "restore the ledger")
        if set(run.manifest.patients("train")) != set(first.manifest.patients("train")):
            yield Fault(where, "other training patients", f"those of {first.root}", "the same splits")
        if (run.manifest.classes, run.config.preprocess) != (first.manifest.classes, first.config.preprocess):
            yield Fault(where, "other classes or another preprocess", f"those of {first.root}, to compare images",
                        "runs with the same data.classes and preprocess.*")  # fmt: skip


def _recorded(run: Run) -> bool:
    ledger, cohort = Ledger(run.config.privacy.ledger), run.config.data.cohort
    return any(entry.run == RunFolder(run.root).run_id() for entry in ledger.entries(str(cohort)))
