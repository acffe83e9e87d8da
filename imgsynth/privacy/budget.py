"""Whether a new spend fits the budgets of all cohorts whose patients it may read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from imgsynth.privacy.entries import Account, Entry
from imgsynth.privacy.overlap import Overlaps, Shared
from imgsynth.types import Fault


@dataclass(frozen=True)
class Foreseen:
    """What planned runs would come to for the patient of a cohort on whom most was spent, at ``delta``."""

    cohort: str
    delta: float
    spent: float  # ε of what is recorded
    entries: int  # that this is of
    planned: int  # runs that are not recorded yet
    together: float  # ε of both
    private: float  # the same without the runs that have no ε
    budget: float | None
    shared: tuple[Shared, ...]


def budget_faults(
    cohort: str, new: Sequence[Entry], before: Overlaps, after: Overlaps, account: Account
) -> list[Fault]:
    """``after`` and ``account`` are as they would be with all ``new`` on ``cohort``. Every budget that is passed: that
    of the cohort, and those of all that share patients with it, each at the smallest δ of its own runs."""
    faults = []
    for touched in after.touched(cohort):
        budget = account.budgets.get(touched)
        if budget is None:
            continue
        delta = account.delta(touched) or min(entry.delta for entry in new)  # with ``new`` where on this cohort
        total, entries = after.worst(touched, delta)
        if not total <= budget:
            known = len([entry for entry in entries if entry not in new])
            spent = f"ε = {before.worst(touched, delta)[0]:.4g} spent by {known} runs"
            asked = f"{new[0].epsilon:.4g} asked" if len(new) == 1 else f"{len(new)} runs asked"
            mixed = " (by patient and by image: no ε covers both)" if len({entry.unit for entry in entries}) > 1 else ""
            got = f"{spent}, {asked}, {total:.4g} together{mixed}"
            faults.append(_passed(touched, got, budget, delta, new, after.shared(touched)))
    return faults


def describe(shared: Shared) -> str:
    runs = ", ".join(shared.runs[:5]) + (f" and {len(shared.runs) - 5} more" if len(shared.runs) > 5 else "")
    return f"{shared.patients} with cohort {shared.cohort} ({f'runs {runs}' if runs else 'this run'})"


def _passed(cohort: str, got: str, budget: float, delta: float, new: Sequence[Entry], shared: list[Shared]) -> Fault:
    runs = {entry.run for entry in new}
    before = [replace(one, runs=tuple(run for run in one.runs if run not in runs)) for one in shared]
    others = "; ".join(map(describe, before))
    return Fault(
        where=f"privacy.budget_epsilon, cohort {cohort}",
        got=f"{got}; patients in common: {others}" if others else got,
        expected=f"at most the cohort's budget of ε = {budget:g} (at δ = {delta:g}, the smallest of its runs)",
        remedy="a smaller privacy.epsilon; if the data's custodian grants more, Ledger.set_budget(cohort, ε) or "
        f"imgsynth ledger --budget '{cohort}=ε' puts that on record (the smallest budget that any run declared holds "
        "until then)" + ("; if these are other persons with the same ids, name data.issuer" if others else ""),
    )
