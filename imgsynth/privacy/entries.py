"""What the ledger's records say: entries, budgets and issuers of ids, by cohort."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from dp_accounting import dp_event as dp

from imgsynth.privacy import accounting
from imgsynth.privacy.events import compose_counted, event_from_json, event_to_json
from imgsynth.privacy.patients import Patients
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
    patients: str | None = None  # the set of patients that it read, by ``patients.digest``; None: not known
    n: int | None = None  # how many they are. LOCAL ONLY: a count of patients without noise
    issuer: str | None = None  # who gave out their ids; None: not known
    number: int = 0  # of the record that opened it: the order in which the ledger was spent


@dataclass(frozen=True)
class Asked:
    """A mechanism that is to be run on a cohort, as ``Ledger.open_entry`` takes it."""

    cohort: str
    event: dp.DpEvent
    run: str
    epsilon: float
    delta: float
    budget_epsilon: float | None
    unit: Unit
    patients: Patients | None


@dataclass
class Account:
    """All that the records say. Entries by cohort and run, oldest first."""

    entries: dict[str, dict[str, Entry]] = field(default_factory=dict)
    budgets: dict[str, float] = field(default_factory=dict)  # the smallest declared since it was last set

    def of(self, cohort: str) -> dict[str, Entry]:
        return self.entries.get(cohort, {})

    def delta(self, cohort: str) -> float | None:
        """The smallest δ of the cohort's runs, at which its budget holds: ε of the same mechanisms at a larger δ is
        smaller, and so a run that asks for one must not be measured by it. None without entries."""
        return min((entry.delta for entry in self.of(cohort).values()), default=None)

    def add(self, cohort: str, entry: Entry) -> None:
        """As ``open`` records do."""
        self.entries.setdefault(cohort, {})[entry.run] = entry
        smallest = smaller(self.budgets.get(cohort), entry.budget_epsilon)
        if smallest is not None:
            self.budgets[cohort] = smallest

    def with_entry(self, cohort: str, entry: Entry) -> Account:
        copy = Account({name: dict(runs) for name, runs in self.entries.items()}, dict(self.budgets))
        copy.add(cohort, entry)
        return copy


def read_account(records: Iterable[dict[str, Any]]) -> Account:
    """Raises InputError for a kind of record that this version does not know: it may say of a spend."""
    account = Account()
    for number, record in enumerate(records, start=1):
        what, cohort = record.get("what"), record.get("cohort", "")
        if what == "open":
            account.add(cohort, replace(entry_from_json(record), number=number))
        elif what == "close":
            account.entries[cohort][record["run"]] = replace(account.of(cohort)[record["run"]], state="closed")
        elif what == "budget":
            account.budgets[cohort] = record["epsilon"]
        elif what == "issuer":
            runs = account.entries[cohort]
            runs.update({run: replace(e, issuer=record["issuer"]) for run, e in runs.items() if e.issuer is None})
        elif what != "import":
            remedy = "the version of imgsynth that wrote it, or a later one"
            raise InputError(Fault(f"ledger, record {number}", f"{what!r}", "a kind of record that is known", remedy))
    return account


def composed(entries: Iterable[Entry], delta: float) -> float:
    """ε at ``delta`` of ``entries`` on one patient: 0 for none, ∞ with a non-private one, or where units differ."""
    events = []
    units = set()
    for entry in entries:
        events.append(entry.event)
        units.add(entry.unit)
    if not events:
        return 0.0
    return math.inf if len(units) > 1 else accounting.epsilon(compose_counted(events), delta)


def entry_to_json(entry: Entry) -> dict[str, Any]:
    return {
        "run": entry.run,
        "event": event_to_json(entry.event),
        "epsilon": finite(entry.epsilon),
        "delta": entry.delta,
        "budget_epsilon": entry.budget_epsilon,
        "opened": entry.opened,
        "unit": entry.unit,
        "patients": entry.patients,
        "n": entry.n,
        "issuer": entry.issuer,
    }


def entry_from_json(record: dict[str, Any]) -> Entry:
    """Entries of earlier versions do not say unit, patients, n and issuer."""
    return Entry(
        record["run"],
        event_from_json(record["event"]),
        math.inf if record["epsilon"] is None else record["epsilon"],
        record["delta"],
        record["budget_epsilon"],
        record["opened"],
        record.get("unit", "patient"),
        patients=record.get("patients"),
        n=record.get("n"),
        issuer=record.get("issuer"),
    )


def smaller(one: float | None, other: float | None) -> float | None:
    return min((value for value in (one, other) if value is not None), default=None)


def finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None
