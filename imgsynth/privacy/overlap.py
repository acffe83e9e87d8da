"""Which cohorts share patients, and what all that was run on them costs the patient who is in most of it.

A patient is protected by the composition of the mechanisms that read *his* data; what was run on cohorts that he is not
in does not depend on him. A cohort's ε is therefore the largest over its patients, who are grouped by the cohorts that
they are in. Within one cohort all entries count for every patient, whether they read him or not.

Two ids are one patient when they are equal and so are their issuers, or when one issuer is not known (it may be any).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dp_accounting import dp_event as dp

from imgsynth.keyed import normal
from imgsynth.privacy.entries import Account, Entry, composed
from imgsynth.types import Unit

Sighting = tuple[str, str | None]  # a cohort, and the issuer of the id in it


@dataclass(frozen=True)
class Shared:
    """Patients of a cohort who are in another one too."""

    cohort: str  # the other one
    patients: int
    runs: tuple[str, ...]  # of the other one


@dataclass(frozen=True)
class Protected:
    """Patients whom a run with noise read in some cohort."""

    cohort: str
    patients: int
    certain: bool  # False: their ids are equal, and who gave them out is not known of both


class Overlaps:
    """Who is where, from all entries that say whom they read. ``members`` gives a set of patients by its digest."""

    def __init__(self, account: Account, members: Callable[[str], frozenset[bytes]]):
        self._account = account
        seen: dict[bytes, int] = {}  # id -> a bit for each sighting
        bits: dict[Sighting, int] = {}
        for digest, sighting in sorted(_sightings(account), key=repr):
            bit = bits.setdefault(sighting, 1 << len(bits))
            for one in members(digest):
                seen[one] = seen.get(one, 0) | bit
        self._ids: dict[frozenset[Sighting], int] = {  # the sightings of an id -> how many ids have just these
            frozenset(sighting for sighting, bit in bits.items() if mask & bit): count
            for mask, count in Counter(seen.values()).items()
        }

    def groups(self, cohort: str) -> list[frozenset[str]]:
        """The largest sets of cohorts, ``cohort`` among them, that some patient is in all of."""
        found = {frozenset({cohort})}
        for sightings in self._ids:
            found |= {group for group in _persons(sightings) if cohort in group}
        return sorted((g for g in found if not any(g < other for other in found)), key=sorted)

    def touched(self, cohort: str) -> list[str]:
        """``cohort`` and all that share a patient with it."""
        return sorted(frozenset().union(*self.groups(cohort)))

    def shared(self, cohort: str) -> list[Shared]:
        """Every other cohort that shares patients with ``cohort``."""
        counts: Counter[str] = Counter()
        for sightings, count in self._ids.items():
            for other in frozenset().union(*(g for g in _persons(sightings) if cohort in g)) - {cohort}:
                counts[other] += count
        return [Shared(other, n, tuple(self._account.of(other))) for other, n in sorted(counts.items())]

    def worst(self, cohort: str, delta: float, until: int | None = None) -> tuple[float, list[Entry]]:
        """(ε, the entries that compose to it) for the patient of ``cohort`` who has the largest, at ``delta``.

        ``until``: as it was when the record of this number was written.
        """
        best: tuple[float, list[Entry]] = (0.0, [])
        for group in self.groups(cohort):
            entries = [entry for name in sorted(group) for entry in self._account.of(name).values()]
            entries = sorted((e for e in entries if until is None or e.number <= until), key=lambda e: e.number)
            best = max(best, (composed(entries, delta), entries), key=lambda pair: pair[0])
        return best


def protected(
    account: Account,
    sought: frozenset[bytes],
    unit: Unit,
    issuer: str | None,
    members: Callable[[str], frozenset[bytes]],
) -> list[Protected]:
    """Every cohort of which runs with noise read some of the hashes ``sought``; ``issuer``: of the ids, if known."""
    by = None if issuer is None else normal(issuer)
    found: dict[tuple[str, bool], set[bytes]] = {}
    for cohort, entry in ((cohort, e) for cohort, runs in account.entries.items() for e in runs.values()):
        if entry.patients is None or entry.unit != unit or isinstance(entry.event, dp.NonPrivateDpEvent):
            continue
        theirs = None if entry.issuer is None else normal(entry.issuer)
        if None in (by, theirs) or by == theirs:
            certain = unit == "image" or None not in (by, theirs)  # an image's hash is of its content
            found.setdefault((cohort, certain), set()).update(members(entry.patients) & sought)
    return [Protected(cohort, len(ids), certain) for (cohort, certain), ids in sorted(found.items()) if ids]


def _sightings(account: Account) -> Iterator[tuple[str, Sighting]]:
    for cohort, runs in account.entries.items():
        for entry in runs.values():
            if entry.patients is not None:
                yield entry.patients, (cohort, None if entry.issuer is None else normal(entry.issuer))


def _persons(sightings: frozenset[Sighting]) -> Iterator[frozenset[str]]:
    """The cohorts of each person whom this one id may stand for: one for every issuer that is known."""
    issuers = {issuer for _, issuer in sightings}
    for issuer in issuers - {None} or issuers:
        yield frozenset(cohort for cohort, by in sightings if by in (None, issuer))
