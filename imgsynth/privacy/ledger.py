"""What was ever spent, and on whom: recorded before the data is touched, and composed.

An entry counts from the moment it is opened, whether its run finished, was killed, or failed: a spend is never lost.
A record that was changed or lost, at the end too, stops everything (``chain.py``); the file is SQLite (``store.py``).
The same patients under another cohort's name are known again (``overlap.py``).

A budget can be lowered by any run that declares one, and raised only by ``Ledger.set_budget``, which stays on record.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dp_accounting import dp_event as dp

from imgsynth.keyed import key_check, normal
from imgsynth.privacy.budget import Foreseen, budget_faults
from imgsynth.privacy.entries import Account, Asked, Entry, composed, entry_to_json, finite
from imgsynth.privacy.events import event_to_json
from imgsynth.privacy.overlap import Overlaps, Protected, Shared, protected
from imgsynth.privacy.overview import overview
from imgsynth.privacy.patients import Patients, digest, hashes, load_key, pack
from imgsynth.privacy.published import Published, last_published, put_published
from imgsynth.privacy.store import Book, Store
from imgsynth.types import Fault, InputError, Unit


class Ledger:
    """The ledger in ``folder`` (default: $IMGSYNTH_LEDGER, else ~/.imgsynth/ledger).

    Formal guarantee: ``composed_epsilon`` bounds, for every patient of the cohort, ε of everything that was opened on
    this cohort and on every other one that is known to have the patient; it is ∞ where entries differ in unit, as no ε
    is then about either. Entries whose patients are not known count for their cohort alone. It knows nothing of runs
    that used another ledger folder.
    """

    def __init__(self, folder: Path | str | None = None):
        chosen = folder or os.environ.get("IMGSYNTH_LEDGER") or Path.home() / ".imgsynth" / "ledger"
        self.folder = Path(chosen).expanduser()
        self._store = Store(self.folder)

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
        patients: Patients | None = None,
    ) -> Entry:
        """Record a spend *before* the data is touched; returns only once it is on disk.

        ``patients`` are those whom the mechanism reads; None where that is not known.

        Idempotent by ``run``: the same run again gets its entry back and spends nothing more. Raises InputError when
        the run is there with another mechanism, unit or patients, when the budget of this cohort (the smallest declared
        since it was last set, this run's included; at the smallest δ of the cohort's runs) or of any that shares
        patients with it would be passed, or when the ledger cannot be read or written.
        """
        new = Entry(run, event, epsilon, delta, budget_epsilon, _now(), unit)
        members, check = None, None
        if patients is not None:
            key = self.key()
            members, check = hashes(key, unit, patients), key_check(key)
            new = replace(new, patients=digest(pack(members)), n=len(members), issuer=patients.issuer)
        with self._store.reading() as book:
            _admit(book, cohort, new, members)  # computed here, and remembered, so that no other run waits for it
        with self._store.writing() as book:
            known = _admit(book, cohort, new, members)
            if known is not None:
                return known
            if members is not None:
                book.keep_members(members)
            book.append({"what": "open", "cohort": cohort, **entry_to_json(new), "key": check})
            return book.account.of(cohort)[run]

    def foresee(self, asked: Sequence[Asked]) -> tuple[list[Foreseen], list[Fault]]:
        """What each cohort of ``asked`` will have spent when all of it is, and every budget that would be passed.

        Nothing is recorded. A run that has an entry is spent, and not counted again.
        """
        key = None if all(one.patients is None for one in asked) else self.key()
        with self._store.reading() as book:
            return _foresee(book, asked, key)

    def close_entry(self, cohort: str, run: str) -> None:
        """Note that the run finished. Changes nothing about what is spent; InputError for a run never opened."""
        with self._store.writing() as book:
            known = book.account.of(cohort)
            if run not in known:
                raise InputError(
                    Fault(f"ledger {self.folder}", f"no entry of run {run}", "an opened entry", "open it first")
                )
            if known[run].state == "open":
                book.append({"what": "close", "cohort": cohort, "run": run, "closed": _now()})

    def publish(self, run: str, new: Published, *, after: str | None) -> bool:
        """Note that ``run`` is about to publish ``new``, which follows the checkpoint of token ``after`` (None: it is
        the first); returns only once it is on disk. False, with nothing noted, when ``after`` is not the last one.
        """
        with self._store.beside() as connection:
            last = last_published(connection, run)
            if (None if last is None else last.token) != after:
                return False
            put_published(connection, run, new)
        return True

    def published(self, run: str) -> Published | None:
        """What ``publish`` noted last of ``run``; None where it never did."""
        with self._store.beside() as connection:
            return last_published(connection, run)

    def set_budget(self, cohort: str, epsilon: float) -> None:
        """The custodian's explicit act: from now on the cohort's budget is ``epsilon``, whatever was declared before.

        It stays on record with its date; runs may still declare less. InputError unless finite and above 0.
        """
        if not 0 < epsilon < math.inf:
            where = f"ledger, budget of cohort {cohort}"
            raise InputError(Fault(where, f"{epsilon:g}", "a finite ε above 0", "the ε that the custodian grants"))
        with self._store.writing() as book:
            book.append({"what": "budget", "cohort": cohort, "epsilon": epsilon, "set": _now()})

    def set_issuer(self, cohort: str, issuer: str) -> None:
        """The custodian's explicit act: who gave out the cohort's ids, for all its entries that do not say so yet.

        Patients of different issuers are different patients. InputError for no name, or a cohort without entries.
        """
        with self._store.writing() as book:
            if not normal(issuer) or not book.account.of(cohort):
                where, got = (
                    f"ledger, issuer of cohort {cohort}",
                    repr(issuer) if book.account.of(cohort) else "no entry",
                )
                raise InputError(Fault(where, got, "a name, and a cohort of this ledger", "imgsynth ledger lists them"))
            book.append({"what": "issuer", "cohort": cohort, "issuer": issuer, "set": _now()})

    def budget(self, cohort: str) -> float | None:
        """The budget that binds the cohort: the smallest declared since it was last set; None where none ever was."""
        with self._store.reading() as book:
            return book.account.budgets.get(cohort)

    def entries(self, cohort: str) -> list[Entry]:
        """Everything ever opened on ``cohort``, oldest first."""
        with self._store.reading() as book:
            return list(book.account.of(cohort).values())

    def cohorts(self) -> list[str]:
        """Every cohort with an entry or a budget."""
        with self._store.reading() as book:
            return sorted(book.account.entries.keys() | book.account.budgets.keys())

    def composed_epsilon(self, cohort: str, delta: float) -> float:
        """ε at ``delta`` for the cohort's patient on whom most was spent: 0 for no entry, ∞ with a non-private one."""
        with self._store.reading() as book:
            return _overlaps(book).worst(cohort, delta)[0]

    def composed_entries(self, cohort: str, delta: float) -> list[Entry]:
        """What ``composed_epsilon`` composes: all on this cohort, and on those that share the patient with it."""
        with self._store.reading() as book:
            return _overlaps(book).worst(cohort, delta)[1]

    def shared(self, cohort: str) -> list[Shared]:
        """The other cohorts that have patients of ``cohort``, as far as entries say whom they read."""
        with self._store.reading() as book:
            return _overlaps(book).shared(cohort)

    def protected(self, unit: Unit, patients: Patients) -> list[Protected]:
        """The cohorts of which a run with noise read some of ``patients``, as far as entries say whom they read.

        Broken for ids that are hashed with the key of another ledger.
        """
        sought = hashes(self.key(), unit, patients)
        with self._store.reading() as book:
            return protected(book.account, sought, unit, patients.issuer, book.members)

    def table(self, cohort: str) -> list[dict[str, Any]]:
        """For people: each entry with ε of all up to and including it, at that entry's δ. Null is ∞."""
        with self._store.reading() as book:
            overlaps = _overlaps(book)
            return [
                {
                    "run": entry.run,
                    "opened": entry.opened,
                    "state": entry.state,
                    "unit": entry.unit,
                    "patients": entry.n,
                    "issuer": entry.issuer,
                    "epsilon": finite(entry.epsilon),
                    "delta": entry.delta,
                    "composed_epsilon": finite(overlaps.worst(cohort, entry.delta, until=entry.number)[0]),
                    "budget_epsilon": entry.budget_epsilon,
                    "mechanism": event_to_json(entry.event),
                }
                for entry in book.account.of(cohort).values()
            ]

    def overview(self) -> list[dict[str, Any]]:
        """For people: one row for each cohort (``overview.py``)."""
        with self._store.reading() as book:
            return overview(book)

    def verify(self) -> int:
        """The number of records, all proven to be as they were written, and so its patients and key; Broken if not."""
        with self._store.reading() as book:
            book.verify()
            if book.key_check is not None:
                load_key(self._store.key, book.key_check)
            return len(book.records)

    def key(self) -> bytes:
        """The secret key of patients' ids, made now where there is none yet. LOCAL ONLY. Broken where it is lost."""
        with self._store.reading() as book, self._store.telling():
            self.folder.mkdir(parents=True, exist_ok=True)
            return load_key(self._store.key, book.key_check)


def _overlaps(book: Book, more: dict[str, frozenset[bytes]] | None = None, account: Account | None = None) -> Overlaps:
    extra = more or {}
    return Overlaps(account or book.account, lambda name: extra[name] if name in extra else book.members(name))


def _admit(book: Book, cohort: str, new: Entry, members: frozenset[bytes] | None) -> Entry | None:
    """The run's entry where it has one; None where the new one fits every budget that it touches; InputError."""
    known = book.account.of(cohort).get(new.run)
    if known is not None:
        return _same(known, new)
    new = replace(new, number=len(book.records) + 1)
    account = book.account.with_entry(cohort, new)
    if account.budgets:
        after = _overlaps(book, {} if members is None else {str(new.patients): members}, account)
        if faults := budget_faults(cohort, [new], _overlaps(book), after, account):
            raise InputError(*faults)
    return None


def _foresee(book: Book, asked: Sequence[Asked], key: bytes | None) -> tuple[list[Foreseen], list[Fault]]:
    account, members = book.account, {}
    new: dict[str, list[Entry]] = {one.cohort: [] for one in asked}
    for number, one in enumerate(asked, len(book.records) + 1):
        if one.run in book.account.of(one.cohort):
            continue
        entry = Entry(one.run, one.event, one.epsilon, one.delta, one.budget_epsilon, _now(), one.unit, number=number)
        if one.patients is not None and key is not None:
            found = hashes(key, one.unit, one.patients)
            entry = replace(entry, patients=digest(pack(found)), n=len(found), issuer=one.patients.issuer)
            members[str(entry.patients)] = found
        new[one.cohort].append(entry)
        account = account.with_entry(one.cohort, entry)
    before, after = _overlaps(book), _overlaps(book, members, account)
    rows, faults = [], dict[str, Fault]()
    for cohort, entries in new.items():
        delta = account.delta(cohort)
        assert delta is not None  # what was asked is there, if nothing else
        (spent, known), (together, all_of_them) = before.worst(cohort, delta), after.worst(cohort, delta)
        private = composed([entry for entry in all_of_them if math.isfinite(entry.epsilon)], delta)
        rows.append(Foreseen(cohort, delta, spent, len(known), len(entries), together, private,
                             account.budgets.get(cohort), tuple(after.shared(cohort))))  # fmt: skip
        if entries:
            faults |= {fault.where: fault for fault in budget_faults(cohort, entries, before, after, account)}
    return rows, list(faults.values())


def _same(entry: Entry, new: Entry) -> Entry:
    """``entry``, which must be what ``new`` asks for. Entries of earlier versions do not say whom they read."""
    if event_to_json(entry.event) != event_to_json(new.event) or entry.unit != new.unit:
        got, expected = "another mechanism", "the same unit, sampling rate, noise, steps and histogram"
    elif entry.patients is not None and entry.patients != new.patients:
        got, expected = "other patients", "the same patients, by their ids"
    else:
        return entry
    remedy = "start a new run in a new output folder; what the old one spent stays spent"
    raise InputError(Fault(f"ledger, run {entry.run}", f"{got} than recorded for this run", expected, remedy))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
