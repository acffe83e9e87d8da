"""What planned runs will come to, before any of them: the ledger's own composition, and nothing recorded."""

from __future__ import annotations

import math

import pytest
from dp_accounting import dp_event as dp
from dp_accounting.pld import PLDAccountant

from imgsynth.privacy.entries import Asked
from imgsynth.privacy.events import training_event
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.patients import Patients
from imgsynth.types import InputError

ONE, TWO = training_event(0.1, 2.0, 50), training_event(1.0, 8.0, 1)


def asked(run: str, event: dp.DpEvent = ONE, cohort: str = "lungs", budget: float | None = None,
          epsilon: float = 1.0, people: str | None = None) -> Asked:  # fmt: skip
    patients = None if people is None else Patients(frozenset(people))
    return Asked(cohort, event, run, epsilon, 1e-5, budget, "patient", patients)


def oracle(*events: dp.DpEvent) -> float:
    """Google's accountant alone, one event after another."""
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    for event in events:
        accountant.compose(event)
    return float(accountant.get_epsilon(1e-5))


def test_the_sum_is_the_accountants_and_nothing_is_recorded(ledger: Ledger) -> None:
    ledger.open_entry(**vars(asked("before")))
    (row,), faults = ledger.foresee([asked("a"), asked("b", TWO), asked("c", TWO)])
    assert row.spent == pytest.approx(oracle(ONE), rel=0.01) and row.entries == 1
    assert row.together == pytest.approx(oracle(ONE, ONE, TWO, TWO), rel=0.01)
    assert row.together < row.spent + oracle(ONE) + 2 * oracle(TWO)  # and not the naive sum
    assert (row.planned, row.budget, faults) == (3, None, []) and ledger.verify() == 1


def test_what_is_foreseen_is_what_is_spent(ledger: Ledger) -> None:
    planned = [asked("a", people="xyz"), asked("b", TWO, people="xyz")]
    (row,), _ = ledger.foresee(planned)
    for one in planned:
        ledger.open_entry(**vars(one))
    assert ledger.composed_epsilon("lungs", 1e-5) == row.together


def test_a_run_that_is_on_record_is_not_counted_again(ledger: Ledger) -> None:
    ledger.open_entry(**vars(asked("a")))
    (row,), _ = ledger.foresee([asked("a"), asked("b", TWO)])
    assert row.planned == 1 and row.together == pytest.approx(oracle(ONE, TWO), rel=0.01)
    (row,), _ = ledger.foresee([asked("a")])
    assert row.planned == 0 and row.together == row.spent


def test_a_budget_that_all_together_would_pass_is_told_though_each_alone_would_not(ledger: Ledger) -> None:
    limit = (oracle(ONE, ONE) + oracle(ONE, ONE, ONE)) / 2
    _, two = ledger.foresee([asked("a", budget=limit), asked("b", budget=limit)])
    _, three = ledger.foresee([asked(run, budget=limit) for run in "abc"])
    assert two == [] and len(three) == 1
    assert "3 runs asked" in three[0].got and f"{limit:g}" in three[0].expected and ledger.cohorts() == []


def test_a_budget_set_by_the_custodian_holds(ledger: Ledger) -> None:
    ledger.set_budget("lungs", 0.01)
    assert len(ledger.foresee([asked("a")])[1]) == 1


def test_the_budget_of_another_cohort_with_the_same_patients_holds(ledger: Ledger) -> None:
    """As when it comes to it: oracle is open_entry, run by run."""
    ledger.open_entry(**vars(asked("old", cohort="chests", people="abc", budget=1.05 * oracle(ONE))))
    planned = [asked("new", people="cde")]
    (row,), faults = ledger.foresee(planned)
    assert [one.cohort for one in row.shared] == ["chests"] and "chests" in faults[0].where
    with pytest.raises(InputError, match="chests"):
        ledger.open_entry(**vars(planned[0]))
    assert ledger.foresee([asked("new", people="xyz")])[1] == []


def test_runs_without_privacy_are_infinite_and_the_others_are_told_apart(ledger: Ledger) -> None:
    (row,), faults = ledger.foresee([asked("a"), asked("b", dp.NonPrivateDpEvent(), epsilon=math.inf)])
    assert math.isinf(row.together) and row.private == pytest.approx(oracle(ONE), rel=0.01) and faults == []
    assert len(ledger.foresee([asked("b", dp.NonPrivateDpEvent(), epsilon=math.inf, budget=1e6)])[1]) == 1
