import json
import math
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from dp_accounting import dp_event as dp

from imgsynth.privacy.accounting import epsilon
from imgsynth.privacy.events import compose, histogram_event, training_event
from imgsynth.privacy.ledger import Ledger
from imgsynth.types import InputError

TRAINING = training_event(0.1, 2.0, 50)
HISTOGRAM = histogram_event(0.5)
fork = multiprocessing.get_context("fork")


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger")


def spend(ledger, run, event=HISTOGRAM, eps=0.5, delta=1e-5, budget=None, cohort="lungs", unit="patient"):
    return ledger.open_entry(cohort, event, run=run, epsilon=eps, delta=delta, budget_epsilon=budget, unit=unit)


def files_of(ledger):
    return sorted(ledger.folder.glob("*.jsonl"))


def test_entries_compose(ledger):
    assert ledger.composed_epsilon("lungs", 1e-5) == 0.0
    spend(ledger, "a", TRAINING)
    spend(ledger, "b")
    assert ledger.composed_epsilon("lungs", 1e-5) == epsilon(compose([TRAINING, HISTOGRAM]), 1e-5)
    assert [(e.run, e.state, e.event) for e in ledger.entries("lungs")] == [
        ("a", "open", TRAINING),
        ("b", "open", HISTOGRAM),
    ]


def test_cohorts_are_apart(ledger):
    spend(ledger, "a")
    spend(ledger, "a", cohort="brains/../α")
    assert len(files_of(ledger)) == 2
    assert [e.run for e in ledger.entries("brains/../α")] == ["a"]
    assert ledger.entries("hearts") == []


def test_an_entry_is_on_disk_when_it_is_returned_and_counts_while_open(ledger):
    spend(ledger, "a")
    again = Ledger(ledger.folder)
    assert again.composed_epsilon("lungs", 1e-5) == pytest.approx(0.5, abs=1e-3)
    again.close_entry("lungs", "a")
    again.close_entry("lungs", "a")
    assert ledger.entries("lungs")[0].state == "closed"
    assert ledger.composed_epsilon("lungs", 1e-5) == pytest.approx(0.5, abs=1e-3)
    assert len(files_of(ledger)[0].read_text().splitlines()) == 2


def test_a_run_that_resumes_spends_once(ledger):
    first = spend(ledger, "a")
    before = files_of(ledger)[0].read_bytes()
    assert spend(ledger, "a", budget=0.1) == first
    assert files_of(ledger)[0].read_bytes() == before


def test_a_run_that_comes_back_with_another_mechanism_is_refused(ledger):
    spend(ledger, "a")
    with pytest.raises(InputError, match="another mechanism"):
        spend(ledger, "a", TRAINING)


def test_closing_what_was_never_opened_is_refused(ledger):
    with pytest.raises(InputError, match="no entry of run a"):
        ledger.close_entry("lungs", "a")


def test_going_over_the_budget_is_refused_with_all_three_numbers(ledger):
    spend(ledger, "a", budget=1.2)
    spend(ledger, "b", budget=1.2)
    with pytest.raises(InputError, match=r"ε = 1 spent by 2 runs, 0\.5 asked, 1\.5 together.*budget of ε = 1\.2"):
        spend(ledger, "c", budget=1.2)
    assert [e.run for e in ledger.entries("lungs")] == ["a", "b"]


@pytest.mark.parametrize("declared", [None, 1.2, 1e9])
def test_the_smallest_budget_holds_and_no_run_can_raise_it(ledger, declared):
    spend(ledger, "a", budget=0.7)
    with pytest.raises(InputError, match=r"budget of ε = 0\.7.*set_budget"):
        spend(ledger, "b", budget=declared)
    assert ledger.budget("lungs") == 0.7


def test_the_custodian_sets_a_budget_on_record_and_runs_may_only_lower_it(ledger):
    spend(ledger, "a", budget=0.7)
    ledger.set_budget("lungs", 2.2)
    assert '"what": "budget"' in files_of(ledger)[0].read_text().splitlines()[-1]
    spend(ledger, "b", budget=5.0)
    assert ledger.budget("lungs") == 2.2
    spend(ledger, "c", budget=1.7)
    with pytest.raises(InputError, match=r"budget of ε = 1\.7"):
        spend(ledger, "d")
    assert (ledger.budget("lungs"), ledger.budget("brains")) == (1.7, None)
    for wrong in (0.0, math.inf, math.nan):
        with pytest.raises(InputError, match="finite ε above 0"):
            ledger.set_budget("lungs", wrong)


def test_entries_by_patient_and_by_image_do_not_compose(ledger):
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


def test_a_non_private_run_makes_the_cohort_infinite_and_fits_no_budget(ledger):
    with pytest.raises(InputError, match="inf together"):
        spend(ledger, "a", dp.NonPrivateDpEvent(), eps=math.inf, budget=1e9)
    spend(ledger, "a", dp.NonPrivateDpEvent(), eps=math.inf)
    assert ledger.composed_epsilon("lungs", 1e-5) == math.inf
    assert ledger.entries("lungs")[0].epsilon == math.inf
    assert "Infinity" not in files_of(ledger)[0].read_text()
    with pytest.raises(InputError):
        spend(ledger, "b", budget=10.0)


def test_unknown_mechanisms_are_refused_and_leave_no_line(ledger):
    with pytest.raises(InputError, match="cannot be accounted for"):
        spend(ledger, "a", dp.UnsupportedDpEvent())
    assert ledger.entries("lungs") == []


def test_the_table_is_json_and_composes_line_by_line(ledger):
    spend(ledger, "a", budget=9.0)
    spend(ledger, "b", TRAINING, eps=3.0)
    ledger.close_entry("lungs", "a")
    rows = ledger.table("lungs")
    json.dumps(rows, allow_nan=False)
    assert [(r["run"], r["state"], r["epsilon"]) for r in rows] == [("a", "closed", 0.5), ("b", "open", 3.0)]
    assert rows[1]["composed_epsilon"] == ledger.composed_epsilon("lungs", 1e-5) > rows[0]["composed_epsilon"]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda text: text[:-20], 3),
        (lambda text: text + '{"what": "open", "ru', 4),
        (lambda text: text.replace('"budget_epsilon": null', '"budget_epsilon": 1e9', 1), 2),
        (lambda text: "".join(text.splitlines(keepends=True)[1:]), 1),
        (lambda text: "".join(text.splitlines(keepends=True)[:-1]), 3),
        (lambda text: "", 1),
        (lambda text: text[:-1].replace('"epsilon": 0.5', '"epsilon": 0.1') + "\n", 2),
        (lambda text: text.replace('"run": "c"', '"run": "e"'), 3),
        (lambda text: text.replace("\n", "\nrubbish\n", 1), 2),
        (lambda text: text.replace("\n", "\n\x00\x00\n", 1), 2),
    ],
    ids=[
        "torn",
        "half a line",
        "edited",
        "line removed",
        "last line removed",
        "emptied",
        "all edited",
        "last line edited",
        "rubbish",
        "zeros",
    ],
)
def test_a_damaged_ledger_stops_everything(ledger, damage, line):
    for run in "abc":
        spend(ledger, run)
    path = files_of(ledger)[0]
    path.write_text(damage(path.read_text()))
    damaged = path.read_bytes()
    for act in (
        lambda: spend(ledger, "d"),
        lambda: spend(ledger, "a"),
        lambda: ledger.close_entry("lungs", "a"),
        lambda: ledger.composed_epsilon("lungs", 1e-5),
    ):
        with pytest.raises(InputError, match=f"line {line}: .*restore the file from a back-up"):
            act()
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("suffix", [".jsonl", ".head"])
def test_a_ledger_of_which_one_file_is_gone_stops_everything(ledger, suffix):
    spend(ledger, "a")
    files_of(ledger)[0].with_suffix(suffix).unlink()
    for act in (lambda: spend(ledger, "a"), lambda: spend(ledger, "b"), lambda: ledger.entries("lungs")):
        with pytest.raises(InputError, match="restore the file from a back-up"):
            act()


@pytest.mark.parametrize("head", ["", "[]", "{}", '{"lines": "1", "last": "", "next": null}'])
def test_a_damaged_head_stops_everything(ledger, head):
    spend(ledger, "a")
    files_of(ledger)[0].with_suffix(".head").write_text(head)
    with pytest.raises(InputError, match="restore the file from a back-up"):
        spend(ledger, "b")


@pytest.mark.parametrize(("write", "found"), [(1, ["a"]), (2, ["a"]), (3, ["a", "b"])])
def test_dying_between_the_writes_of_a_spend_loses_none(ledger, monkeypatch, write, found):
    """The head with the intention, the line, the head with the confirmation: the process dies before each of them."""
    spend(ledger, "a")
    rename, calls = Path.replace, []

    def die(path, target):
        calls.append(target)
        if len(calls) == write:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            spend(ledger, "b")
    assert [e.run for e in ledger.entries("lungs")] == found
    spend(ledger, "b")  # the same run again: told that its spend is there, which from now on cannot be lost
    assert [e.run for e in ledger.entries("lungs")] == ["a", "b"]
    path = files_of(ledger)[0]
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    with pytest.raises(InputError, match="lost: 1 lines of 2"):
        ledger.entries("lungs")


def test_a_ledger_that_cannot_be_written_stops_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"set privacy\.ledger"):
        spend(Ledger(tmp_path / "file"), "a")


def test_a_full_disk_loses_nothing(ledger, monkeypatch):
    spend(ledger, "a")
    before = files_of(ledger)[0].read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        spend(ledger, "b")
    assert files_of(ledger)[0].read_bytes() == before


def test_the_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("IMGSYNTH_LEDGER", str(tmp_path / "from env"))
    assert Ledger().folder == tmp_path / "from env"
    assert Ledger(tmp_path / "given").folder == tmp_path / "given"
    monkeypatch.delenv("IMGSYNTH_LEDGER")
    assert Ledger().folder.parts[-2:] == (".imgsynth", "ledger")


def _spend_many(folder, name, count, budget):
    for i in range(count):
        try:
            spend(Ledger(folder), f"{name}{i}", dp.GaussianDpEvent(20.0), eps=0.2, budget=budget)
        except InputError:
            os._exit(3)


def test_two_processes_at_once_lose_no_spend_and_never_pass_the_budget(ledger):
    workers = [fork.Process(target=_spend_many, args=(ledger.folder, name, 8, None)) for name in "xy"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(e.run for e in ledger.entries("lungs")) == sorted(f"{n}{i}" for n in "xy" for i in range(8))


def test_two_processes_racing_for_the_budget_cannot_both_win(ledger):
    spend(ledger, "first", dp.GaussianDpEvent(20.0), eps=0.2)
    budget = epsilon(compose([dp.GaussianDpEvent(20.0)] * 6), 1e-5)
    workers = [fork.Process(target=_spend_many, args=(ledger.folder, name, 20, budget)) for name in "xy"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [3, 3]
    assert len(ledger.entries("lungs")) == 6
    assert ledger.composed_epsilon("lungs", 1e-5) <= budget


def _spend_and_tell(folder, pipe):
    for i in range(10_000):
        spend(Ledger(folder), f"run{i}")
        pipe.send(f"run{i}")


def test_kill_9_at_any_moment_loses_no_spend_and_tears_no_line(ledger):
    for attempt in range(6):
        ours, theirs = fork.Pipe(duplex=False)
        folder = ledger.folder / str(attempt)
        worker = fork.Process(target=_spend_and_tell, args=(folder, theirs))
        worker.start()
        theirs.close()
        told = [ours.recv()]  # it is at work
        time.sleep(random.random() * 0.05)
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        try:
            while True:
                told.append(ours.recv())
        except EOFError:
            pass
        found = [e.run for e in Ledger(folder).entries("lungs")]
        assert found[: len(told)] == told
        assert len(found) <= len(told) + 1
        assert all(e.state == "open" for e in Ledger(folder).entries("lungs"))
        spend(Ledger(folder), "after")  # the dead process holds no lock
