import json
import math

import pytest
from dp_accounting import dp_event as dp

from imgsynth.privacy.accounting import epsilon
from imgsynth.privacy.events import compose, histogram_event, training_event
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.patients import Patients
from imgsynth.types import InputError

TRAINING = training_event(0.1, 2.0, 50)
HISTOGRAM = histogram_event(0.5)


def test_entries_compose(ledger, spend):
    assert ledger.composed_epsilon("lungs", 1e-5) == 0.0
    spend(ledger, "a", TRAINING)
    spend(ledger, "b")
    assert ledger.composed_epsilon("lungs", 1e-5) == epsilon(compose([TRAINING, HISTOGRAM]), 1e-5)
    assert [(e.run, e.state, e.event) for e in ledger.entries("lungs")] == [
        ("a", "open", TRAINING),
        ("b", "open", HISTOGRAM),
    ]


def test_cohorts_are_apart(ledger, spend):
    spend(ledger, "a")
    spend(ledger, "a", cohort="brains/../α")
    assert [e.run for e in ledger.entries("brains/../α")] == ["a"]
    assert ledger.entries("hearts") == []
    assert ledger.cohorts() == ["brains/../α", "lungs"]


def test_an_entry_is_on_disk_when_it_is_returned_and_counts_while_open(ledger, spend):
    spend(ledger, "a")
    again = Ledger(ledger.folder)
    assert again.composed_epsilon("lungs", 1e-5) == pytest.approx(0.5, abs=1e-3)
    again.close_entry("lungs", "a")
    again.close_entry("lungs", "a")
    assert ledger.entries("lungs")[0].state == "closed"
    assert ledger.composed_epsilon("lungs", 1e-5) == pytest.approx(0.5, abs=1e-3)
    assert ledger.verify() == 2


def test_a_run_that_resumes_spends_once(ledger, spend):
    first = spend(ledger, "a")
    assert spend(ledger, "a", budget=0.1) == first
    assert ledger.verify() == 1
    assert ledger.budget("lungs") is None


def test_a_run_that_comes_back_with_another_mechanism_is_refused(ledger, spend):
    spend(ledger, "a")
    with pytest.raises(InputError, match="another mechanism"):
        spend(ledger, "a", TRAINING)


def test_closing_what_was_never_opened_is_refused(ledger, spend):
    with pytest.raises(InputError, match="no entry of run a"):
        ledger.close_entry("lungs", "a")


def test_going_over_the_budget_is_refused_with_all_three_numbers(ledger, spend):
    spend(ledger, "a", budget=1.2)
    spend(ledger, "b", budget=1.2)
    with pytest.raises(InputError, match=r"ε = 1 spent by 2 runs, 0\.5 asked, 1\.5 together.*budget of ε = 1\.2"):
        spend(ledger, "c", budget=1.2)
    assert [e.run for e in ledger.entries("lungs")] == ["a", "b"]


@pytest.mark.parametrize("declared", [None, 1.2, 1e9])
def test_the_smallest_budget_holds_and_no_run_can_raise_it(ledger, spend, declared):
    spend(ledger, "a", budget=0.7)
    with pytest.raises(InputError, match=r"budget of ε = 0\.7.*set_budget"):
        spend(ledger, "b", budget=declared)
    assert ledger.budget("lungs") == 0.7


def test_a_budget_holds_at_the_smallest_delta_of_its_cohorts_runs(ledger, spend):
    """At δ = 0.01 two runs have less ε than one at 1e-6: a budget that was declared at 1e-6 is not passed by that."""
    one = epsilon(TRAINING, 1e-6)
    assert epsilon(compose([TRAINING, TRAINING]), 1e-2) < one
    spend(ledger, "a", TRAINING, delta=1e-6, budget=one + 0.01)
    for delta in (1e-6, 1e-2):
        with pytest.raises(InputError, match=r"together.*at δ = 1e-06"):
            spend(ledger, "b", TRAINING, delta=delta)
    ledger.set_budget("lungs", epsilon(compose([TRAINING, TRAINING]), 1e-6))
    spend(ledger, "b", TRAINING, delta=1e-2)
    with pytest.raises(InputError, match=r"at δ = 1e-09"):  # a smaller δ than ever: from now on, all is measured by it
        spend(ledger, "c", delta=1e-9, eps=0.01)


def test_a_cohorts_budget_holds_at_its_own_delta_whatever_runs_elsewhere_ask(ledger, spend):
    one, people = epsilon(TRAINING, 1e-6), Patients(frozenset("123"))
    spend(ledger, "a", TRAINING, delta=1e-6, budget=one + 0.01, patients=people)
    with pytest.raises(InputError, match=r"cohort lungs.*at δ = 1e-06"):
        spend(ledger, "b", TRAINING, delta=1e-2, cohort="hearts", patients=people)


def test_the_custodian_sets_a_budget_on_record_and_runs_may_only_lower_it(ledger, spend, sql):
    spend(ledger, "a", budget=0.7)
    ledger.set_budget("lungs", 2.2)
    assert '"what": "budget"' in sql(ledger, "SELECT body FROM record")[-1][0]
    spend(ledger, "b", budget=5.0)
    assert ledger.budget("lungs") == 2.2
    spend(ledger, "c", budget=1.7)
    with pytest.raises(InputError, match=r"budget of ε = 1\.7"):
        spend(ledger, "d")
    assert (ledger.budget("lungs"), ledger.budget("brains")) == (1.7, None)
    for wrong in (0.0, math.inf, math.nan):
        with pytest.raises(InputError, match="finite ε above 0"):
            ledger.set_budget("lungs", wrong)


def test_entries_by_patient_and_by_image_do_not_compose(ledger, spend):
    spend(ledger, "a", unit="image")
    assert ledger.composed_epsilon("lungs", 1e-5) < 1
    with pytest.raises(InputError, match=r"inf together \(by patient and by image"):
        spend(ledger, "b", budget=1e9)
    with pytest.raises(InputError, match="another mechanism"):
        spend(ledger, "a", unit="patient")
    spend(ledger, "b")
    assert ledger.composed_epsilon("lungs", 1e-5) == math.inf
    assert [(row["unit"], row["composed_epsilon"] is None) for row in ledger.table("lungs")] == [
        ("image", False),
        ("patient", True),
    ]


def test_a_non_private_run_makes_the_cohort_infinite_and_fits_no_budget(ledger, spend, sql):
    with pytest.raises(InputError, match="inf together"):
        spend(ledger, "a", dp.NonPrivateDpEvent(), eps=math.inf, budget=1e9)
    spend(ledger, "a", dp.NonPrivateDpEvent(), eps=math.inf)
    assert ledger.composed_epsilon("lungs", 1e-5) == math.inf
    assert ledger.entries("lungs")[0].epsilon == math.inf
    assert "Infinity" not in sql(ledger, "SELECT body FROM record")[0][0]
    with pytest.raises(InputError):
        spend(ledger, "b", budget=10.0)


def test_equal_runs_compose_as_one_with_all_their_steps(ledger, spend):
    for run in range(20):
        spend(ledger, f"run{run}", TRAINING)
    assert ledger.composed_epsilon("lungs", 1e-5) == epsilon(training_event(0.1, 2.0, 1000), 1e-5)


def test_unknown_mechanisms_are_refused_and_leave_no_line(ledger, spend):
    with pytest.raises(InputError, match="cannot be accounted for"):
        spend(ledger, "a", dp.UnsupportedDpEvent())
    assert ledger.entries("lungs") == []


def test_the_table_is_json_and_composes_line_by_line(ledger, spend):
    spend(ledger, "a", budget=9.0)
    spend(ledger, "b", TRAINING, eps=3.0)
    ledger.close_entry("lungs", "a")
    rows = ledger.table("lungs")
    json.dumps(rows, allow_nan=False)
    assert [(r["run"], r["state"], r["epsilon"]) for r in rows] == [("a", "closed", 0.5), ("b", "open", 3.0)]
    assert rows[1]["composed_epsilon"] == ledger.composed_epsilon("lungs", 1e-5) > rows[0]["composed_epsilon"]


def test_the_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("IMGSYNTH_LEDGER", str(tmp_path / "from env"))
    assert Ledger().folder == tmp_path / "from env"
    assert Ledger(tmp_path / "given").folder == tmp_path / "given"
    monkeypatch.delenv("IMGSYNTH_LEDGER")
    assert Ledger().folder.parts[-2:] == (".imgsynth", "ledger")
