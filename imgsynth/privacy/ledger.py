"""What was ever spent on a cohort: one file per cohort that only grows, written before the data is touched.

An entry counts from the moment it is opened, whether its run finished, was killed, or failed: a spend is never lost.
The file is only ever replaced, whole and flushed to disk, by itself with one line more, so that no kill and no full
disk can tear a line. A line that was changed or lost, at the end too, stops everything on that cohort (``chain.py``).
Not noticed: a forger who rewrites the file *and* its head, or a folder from which both were removed.

A budget can be lowered by any run that declares one, and raised only by ``Ledger.set_budget``, which stays on record.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from dp_accounting import dp_event as dp

from imgsynth.privacy import accounting
from imgsynth.privacy.chain import append, read_lines, recover
from imgsynth.privacy.events import compose, event_from_json, event_to_json
from imgsynth.types import Fault, InputError, Unit


@dataclass(frozen=True)
class Entry:
    """One mechanism run on a cohort. Spent as soon as it is there, whatever its state."""

    run: str
    event: dp.DpEvent
    epsilon: float  # of this entry alone, as planned; ∞ for a non-private or a seeded run
    delta: float
    budget_epsilon: float | None  # the cohort's budget as this run declared it
    opened: str  # ISO 8601, UTC
    unit: Unit = "patient"  # what the event's ε is about; units do not compose with each other
    state: Literal["open", "closed"] = "open"


class Ledger:
    """The ledger in ``folder`` (default: $IMGSYNTH_LEDGER, else ~/.imgsynth/ledger). POSIX file locks; local disks.

    Formal guarantee: for entries of one cohort, ``composed_epsilon`` bounds ε of everything that was opened, adaptively
    chosen or not; it is ∞ where entries differ in unit, as no ε is then about either. It
    knows nothing of runs that used another ledger folder, or of other cohorts with the same patients.
    """

    def __init__(self, folder: Path | str | None = None):
        chosen = folder or os.environ.get("IMGSYNTH_LEDGER") or Path.home() / ".imgsynth" / "ledger"
        self.folder = Path(chosen).expanduser()

    def open_entry(
        self,
        cohort: str,
        event: dp.DpEvent,
        *,
        run: str,
        epsilon: float,
        delta: float,
        budget_epsilon: float | None = None,
        unit: Unit = "patient",
    ) -> Entry:
        """Record a spend *before* the data is touched; returns only once it is on disk.

        Idempotent by ``run``: the same run again gets its entry back and spends nothing more. Raises InputError when
        the run is there with another mechanism or unit, when the cohort's budget (the smallest declared since it was
        last set, this run's included) would be passed, or when the ledger cannot be read or written.
        """
        with self._locked(cohort) as path:
            lines = recover(path)
            known = _entries(lines)
            if run in known:
                return _same(known[run], event, unit)
            new = Entry(run, event, epsilon, delta, budget_epsilon, _now(), unit)
            _check_budget(cohort, list(known.values()), new, _smaller(_budget(lines), budget_epsilon))
            append(path, lines, {"what": "open", "cohort": cohort, **_entry_to_json(new)})
            return new

    def close_entry(self, cohort: str, run: str) -> None:
        """Note that the run finished. Changes nothing about what is spent; InputError for a run never opened."""
        with self._locked(cohort) as path:
            lines = recover(path)
            known = _entries(lines)
            if run not in known:
                raise InputError(Fault(f"ledger {path}", f"no entry of run {run}", "an opened entry", "open it first"))
            if known[run].state == "open":
                append(path, lines, {"what": "close", "run": run, "closed": _now()})

    def set_budget(self, cohort: str, epsilon: float) -> None:
        """The custodian's explicit act: from now on the cohort's budget is ``epsilon``, whatever was declared before.

        It stays on record with its date; runs may still declare less. InputError unless finite and above 0.
        """
        if not 0 < epsilon < math.inf:
            where = f"ledger, budget of cohort {cohort}"
            raise InputError(Fault(where, f"{epsilon:g}", "a finite ε above 0", "the ε that the custodian grants"))
        with self._locked(cohort) as path:
            append(path, recover(path), {"what": "budget", "cohort": cohort, "epsilon": epsilon, "set": _now()})

    def budget(self, cohort: str) -> float | None:
        """The budget that binds the cohort: the smallest declared since it was last set; None where none ever was."""
        return _budget(read_lines(self._path(cohort)))

    def entries(self, cohort: str) -> list[Entry]:
        """Everything ever opened on ``cohort``, oldest first."""
        return list(_entries(read_lines(self._path(cohort))).values())

    def composed_epsilon(self, cohort: str, delta: float) -> float:
        """ε at ``delta`` of all entries together: 0 for none, ∞ with a non-private one."""
        return _composed(self.entries(cohort), delta)

    def table(self, cohort: str) -> list[dict[str, Any]]:
        """For people: each entry with ε of all up to and including it, at that entry's δ. Null is ∞."""
        entries = self.entries(cohort)
        return [
            {
                "run": entry.run,
                "opened": entry.opened,
                "state": entry.state,
                "unit": entry.unit,
                "epsilon": _finite(entry.epsilon),
                "delta": entry.delta,
                "composed_epsilon": _finite(_composed(entries[: i + 1], entry.delta)),
                "budget_epsilon": entry.budget_epsilon,
                "mechanism": event_to_json(entry.event),
            }
            for i, entry in enumerate(entries)
        ]

    def _path(self, cohort: str) -> Path:
        return self.folder / f"{hashlib.sha256(cohort.encode()).hexdigest()[:24]}.jsonl"

    @contextmanager
    def _locked(self, cohort: str) -> Iterator[Path]:
        """The cohort's file, to ourselves. The lock is freed by the system when the process dies."""
        path = self._path(cohort)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.with_suffix(".lock").open("a") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield path
        except OSError as error:
            remedy = "set privacy.ledger or $IMGSYNTH_LEDGER to a writable folder; without a ledger nothing runs"
            raise InputError(Fault(f"ledger {self.folder}", str(error), "a writable folder", remedy)) from error


def _entries(lines: list[str]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for record in map(json.loads, lines):
        if record["what"] == "open":
            found[record["run"]] = _entry_from_json(record)
        elif record["what"] == "close":
            found[record["run"]] = replace(found[record["run"]], state="closed")
    return found


def _budget(lines: list[str]) -> float | None:
    budget: float | None = None
    for record in map(json.loads, lines):
        if record["what"] == "budget":
            budget = record["epsilon"]
        elif record["what"] == "open":
            budget = _smaller(budget, record["budget_epsilon"])
    return budget


def _smaller(one: float | None, other: float | None) -> float | None:
    return min((value for value in (one, other) if value is not None), default=None)


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    return {
        "run": entry.run,
        "event": event_to_json(entry.event),
        "epsilon": _finite(entry.epsilon),
        "delta": entry.delta,
        "budget_epsilon": entry.budget_epsilon,
        "opened": entry.opened,
        "unit": entry.unit,
    }


def _entry_from_json(record: dict[str, Any]) -> Entry:
    epsilon = float("inf") if record["epsilon"] is None else record["epsilon"]
    event = event_from_json(record["event"])
    budget, unit = record["budget_epsilon"], record.get("unit", "patient")
    return Entry(record["run"], event, epsilon, record["delta"], budget, record["opened"], unit)


def _same(entry: Entry, event: dp.DpEvent, unit: Unit) -> Entry:
    if event_to_json(entry.event) != event_to_json(event) or entry.unit != unit:
        raise InputError(
            Fault(
                where=f"ledger, run {entry.run}",
                got="another mechanism than the one recorded for this run",
                expected="the same unit, sampling rate, noise, steps and histogram",
                remedy="start a new run in a new output folder; what the old one spent stays spent",
            )
        )
    return entry


def _check_budget(cohort: str, known: list[Entry], new: Entry, budget: float | None) -> None:
    if budget is None:
        return
    spent, total = _composed(known, new.delta), _composed([*known, new], new.delta)
    if not total <= budget:
        mixed = " (by patient and by image: no ε covers both)" if _mixed([*known, new]) else ""
        raise InputError(
            Fault(
                where=f"privacy.budget_epsilon, cohort {cohort}",
                got=f"ε = {spent:.4g} spent by {len(known)} runs, {new.epsilon:.4g} asked, {total:.4g} together{mixed}",
                expected=f"at most the cohort's budget of ε = {budget:g} (at δ = {new.delta:g})",
                remedy="a smaller privacy.epsilon; if the data's custodian grants more, Ledger.set_budget(cohort, ε) "
                "puts that on record (the smallest budget that any run declared holds until then)",
            )
        )


def _composed(entries: list[Entry], delta: float) -> float:
    if not entries:
        return 0.0
    if _mixed(entries):
        return math.inf
    return accounting.epsilon(compose([entry.event for entry in entries]), delta)


def _mixed(entries: list[Entry]) -> bool:
    return len({entry.unit for entry in entries}) > 1


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()


def _finite(epsilon: float) -> float | None:
    return epsilon if epsilon < float("inf") else None
