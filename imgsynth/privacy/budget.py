"""Whether a new spend fits the budgets of all cohorts whose patients it may read."""

from __future__ import annotations

from dataclasses import replace

from imgsynth.privacy.entries import Account, Entry
from imgsynth.privacy.overlap import Overlaps, Shared
from imgsynth.types import Fault, InputError


def check_budgets(cohort: str, new: Entry, before: Overlaps, after: Overlaps, account: Account) -> None:
    """``after`` and ``account`` are as they would be with ``new`` on ``cohort``. InputError with every budget passed:
    that of the cohort, and those of all that share patients with it, each at the smallest δ of its own runs."""
    faults = []
    for touched in after.touched(cohort):
        budget = account.budgets.get(touched)
        if budget is None:
            continue
        delta = account.delta(touched) or new.delta  # with ``new`` where it is on this cohort
        total, entries = after.worst(touched, delta)
        if not total <= budget:
            spent = f"ε = {before.worst(touched, delta)[0]:.4g} spent by {len(entries) - (new in entries)} runs"
            mixed = " (by patient and by image: no ε covers both)" if len({entry.unit for entry in entries}) > 1 else ""
            got = f"{spent}, {new.epsilon:.4g} asked, {total:.4g} together{mixed}"
            faults.append(_passed(touched, got, budget, delta, new, after.shared(touched)))
    if faults:
        raise InputError(*faults)


def describe(shared: Shared) -> str:
    runs = ", ".join(shared.runs[:5]) + (f" and {len(shared.runs) - 5} more" if len(shared.runs) > 5 else "")
    return f"{shared.patients} with cohort {shared.cohort} ({f'runs {runs}' if runs else 'this run'})"


def _passed(cohort: str, got: str, budget: float, delta: float, new: Entry, shared: list[Shared]) -> Fault:
    before = [replace(one, runs=tuple(run for run in one.runs if run != new.run)) for one in shared]
    others = "; ".join(map(describe, before))
    return Fault(
        where=f"privacy.budget_epsilon, cohort {cohort}",
        got=f"{got}; patients in common: {others}" if others else got,
        expected=f"at most the cohort's budget of ε = {budget:g} (at δ = {delta:g}, the smallest of its runs)",
        remedy="a smaller privacy.epsilon; if the data's custodian grants more, Ledger.set_budget(cohort, ε) or "
        f"imgsynth ledger --budget '{cohort}=ε' puts that on record (the smallest budget that any run declared holds "
        "until then)" + ("; if these are other persons with the same ids, name data.issuer" if others else ""),
    )
