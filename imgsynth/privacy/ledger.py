"""What was ever spent on a cohort: one append-only file per cohort, written before the data is touched.

An entry counts from the moment it is opened, whether its run finished, was killed, or failed: a spend is never lost.
The file is only ever replaced, whole and flushed to disk, by itself with one line more, so that no kill and no full
disk can tear a line. Each line carries the hash of the line before it: a line that was changed or taken out is noticed
(a careless editor is; a determined forger is not).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from dp_accounting import dp_event as dp

from imgsynth.files import write_text
from imgsynth.privacy import accounting
from imgsynth.privacy.events import compose, event_from_json, event_to_json
from imgsynth.types import Fault, InputError

_START = "0" * 64


@dataclass(frozen=True)
class Entry:
    """One mechanism run on a cohort. Spent as soon as it is there, whatever its state."""

    run: str
    event: dp.DpEvent
    epsilon: float  # of this entry alone, as planned; ∞ for a non-private run
    delta: float
    budget_epsilon: float | None  # the cohort's budget as this run declared it
    opened: str  # ISO 8601, UTC
    state: Literal["open", "closed"] = "open"


class Ledger:
    """The ledger in ``folder`` (default: $IMGSYNTH_LEDGER, else ~/.imgsynth/ledger). POSIX file locks; local disks.

    Formal guarantee: for entries of one cohort, ``composed_epsilon`` bounds ε of everything that was opened, adaptively
    chosen or not. It knows nothing of runs that used another ledger folder, or of other cohorts with the same patients.
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
    ) -> Entry:
        """Record a spend *before* the data is touched; returns only once it is on disk.

        Idempotent by ``run``: the same run again gets its entry back and spends nothing more. Raises InputError when
        the run is there with another mechanism, when the cohort's budget (this run's, else the one last recorded)
        would be passed, or when the ledger cannot be read or written.
        """
        with self._locked(cohort) as path:
            lines = _read_lines(path)
            known = _entries(lines)
            if run in known:
                return _same(known[run], event)
            new = Entry(run, event, epsilon, delta, budget_epsilon, datetime.now(timezone.utc).isoformat())
            _check_budget(cohort, list(known.values()), new)
            _append(path, lines, {"what": "open", "cohort": cohort, **_entry_to_json(new)})
            return new

    def close_entry(self, cohort: str, run: str) -> None:
        """Note that the run finished. Changes nothing about what is spent; InputError for a run never opened."""
        with self._locked(cohort) as path:
            lines = _read_lines(path)
            known = _entries(lines)
            if run not in known:
                raise InputError(Fault(f"ledger {path}", f"no entry of run {run}", "an opened entry", "open it first"))
            if known[run].state == "open":
                _append(path, lines, {"what": "close", "run": run, "closed": datetime.now(timezone.utc).isoformat()})

    def entries(self, cohort: str) -> list[Entry]:
        """Everything ever opened on ``cohort``, oldest first."""
        return list(_entries(_read_lines(self._path(cohort))).values())

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


def _read_lines(path: Path) -> list[str]:
    """The file's lines, each proven to follow the one before; InputError at the first that does not."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = text.split("\n")[:-1]
    if text and not text.endswith("\n"):
        raise _unreadable(path, len(lines) + 1, "a line that was cut off")
    previous = _START
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise _unreadable(path, number, str(error)) from error
        if not isinstance(record, dict) or record.get("previous") != previous:
            raise _unreadable(path, number, "a line that does not follow the one before")
        previous = _hash(line)
    return lines


def _entries(lines: list[str]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for record in map(json.loads, lines):
        if record["what"] == "open":
            found[record["run"]] = _entry_from_json(record)
        else:
            found[record["run"]] = replace(found[record["run"]], state="closed")
    return found


def _append(path: Path, lines: list[str], record: dict[str, Any]) -> None:
    last = _hash(lines[-1]) if lines else _START
    line = json.dumps({**record, "previous": last}, ensure_ascii=False, allow_nan=False)
    write_text(path, "".join(f"{each}\n" for each in [*lines, line]))


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    return {
        "run": entry.run,
        "event": event_to_json(entry.event),
        "epsilon": _finite(entry.epsilon),
        "delta": entry.delta,
        "budget_epsilon": entry.budget_epsilon,
        "opened": entry.opened,
    }


def _entry_from_json(record: dict[str, Any]) -> Entry:
    epsilon = float("inf") if record["epsilon"] is None else record["epsilon"]
    event = event_from_json(record["event"])
    return Entry(record["run"], event, epsilon, record["delta"], record["budget_epsilon"], record["opened"])


def _same(entry: Entry, event: dp.DpEvent) -> Entry:
    if event_to_json(entry.event) != event_to_json(event):
        raise InputError(
            Fault(
                where=f"ledger, run {entry.run}",
                got="another mechanism than the one recorded for this run",
                expected="the same sampling rate, noise, steps and histogram",
                remedy="start a new run in a new output folder; what the old one spent stays spent",
            )
        )
    return entry


def _check_budget(cohort: str, known: list[Entry], new: Entry) -> None:
    declared = [entry.budget_epsilon for entry in [*known, new] if entry.budget_epsilon is not None]
    if not declared:
        return
    budget, spent, total = declared[-1], _composed(known, new.delta), _composed([*known, new], new.delta)
    if total > budget:
        raise InputError(
            Fault(
                where=f"privacy.budget_epsilon, cohort {cohort}",
                got=f"ε = {spent:.4g} spent by {len(known)} runs, {new.epsilon:.4g} asked, {total:.4g} together",
                expected=f"at most the cohort's budget of ε = {budget:g} (at δ = {new.delta:g})",
                remedy="a smaller privacy.epsilon, or a larger budget if the data's custodian grants it",
            )
        )


def _composed(entries: list[Entry], delta: float) -> float:
    if not entries:
        return 0.0
    return accounting.epsilon(compose([entry.event for entry in entries]), delta)


def _finite(epsilon: float) -> float | None:
    return epsilon if epsilon < float("inf") else None


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


def _unreadable(path: Path, number: int, got: str) -> InputError:
    return InputError(
        Fault(
            where=f"ledger {path}, line {number}",
            got=got,
            expected="an unbroken record of all that was spent",
            remedy="restore the file from a back-up that has every run; nothing may run on this cohort until then, as "
            "what was spent is not known",
        )
    )
