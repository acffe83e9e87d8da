"""Ledgers of earlier versions, as JSON lines: taken over whole, once, and never forgotten."""

import hashlib
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from imgsynth.privacy import legacy
from imgsynth.privacy.events import event_to_json, histogram_event
from imgsynth.privacy.ledger import Ledger
from imgsynth.types import InputError

FORK = multiprocessing.get_context("fork")
START = "0" * 64


def old_open(run, budget=None, unit="patient", eps=0.5):
    event = event_to_json(histogram_event(eps))
    entry = {
        "run": run,
        "event": event,
        "epsilon": eps,
        "delta": 1e-5,
        "budget_epsilon": budget,
        "opened": "2026-01-01",
    }
    return {"what": "open", "cohort": "lungs", **entry, "unit": unit}


def write_old(ledger, records, cohort="lungs", announced=False):
    """As the earlier version wrote them: hashed line by line, and a head that knows the end."""
    lines, previous = [], START
    for record in records:
        lines.append(json.dumps({**record, "previous": previous}, ensure_ascii=False))
        previous = hashlib.sha256(lines[-1].encode()).hexdigest()
    path = ledger.folder / f"{hashlib.sha256(cohort.encode()).hexdigest()[:24]}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    head = {"lines": len(lines), "last": previous, "next": None}
    if announced:  # killed before the last line was confirmed
        head = {"lines": len(lines) - 1, "last": json.loads(lines[-1])["previous"], "next": previous}
    path.with_suffix(".head").write_text(json.dumps(head))
    return path


OLD = [old_open("a", 1.2), {"what": "close", "run": "a", "closed": "2026-01-02"}, old_open("b")]


@pytest.mark.parametrize("announced", [False, True])
def test_an_old_ledger_is_taken_over_and_put_aside(ledger, spend, announced):
    path = write_old(ledger, OLD, announced=announced)
    assert [(e.run, e.state, e.patients) for e in ledger.entries("lungs")] == [
        ("a", "closed", None),
        ("b", "open", None),
    ]
    assert ledger.budget("lungs") == 1.2
    with pytest.raises(InputError, match="spent by 2 runs"):
        spend(ledger, "c")
    assert spend(ledger, "b").run == "b"  # resumed: spent once
    assert len(ledger.entries("lungs")) == 2
    assert not path.exists() and not path.with_suffix(".head").exists()
    assert path.with_name(f"{path.name}.imported").exists()


def test_a_budget_that_the_custodian_had_set_is_taken_over(ledger):
    write_old(
        ledger, [*OLD, {"what": "budget", "cohort": "lungs", "epsilon": 7.0, "set": "2026-01-03"}, old_open("c", 6.0)]
    )
    assert ledger.budget("lungs") == 6.0
    assert ledger.composed_epsilon("lungs", 1e-5) == pytest.approx(1.5, abs=1e-3)


def test_several_cohorts_are_taken_over_at_once(ledger, spend):
    write_old(ledger, OLD)
    write_old(ledger, [{**old_open("a"), "cohort": "brains", "unit": "image"}], cohort="brains")
    spend(ledger, "new", cohort="hearts")
    assert ledger.cohorts() == ["brains", "hearts", "lungs"]
    assert [e.unit for e in ledger.entries("brains")] == ["image"]


def damaged(path, what):
    text, head = path.read_text(), path.with_suffix(".head")
    if what == "torn":
        path.write_text(text[:-20])
    elif what == "edited":
        path.write_text(text.replace('"budget_epsilon": 1.2', '"budget_epsilon": 12', 1))
    elif what == "line removed":
        path.write_text("".join(text.splitlines(keepends=True)[1:]))
    elif what == "last line removed":
        path.write_text("".join(text.splitlines(keepends=True)[:-1]))
    elif what == "last line edited":
        path.write_text(text.replace('"run": "b"', '"run": "x"'))
    elif what == "rubbish":
        path.write_text(text.replace("\n", "\nrubbish\n", 1))
    elif what == "file gone":
        path.unlink()
    elif what == "head gone":
        head.unlink()
    else:
        head.write_text(what)


@pytest.mark.parametrize(
    "what",
    ["torn", "edited", "line removed", "last line removed", "last line edited", "rubbish", "file gone", "head gone", "",
     "[]", '{"lines": "x", "last": "", "next": null}'],
)  # fmt: skip
def test_a_damaged_old_ledger_stops_everything_and_stays_as_it_is(ledger, spend, what):
    path = write_old(ledger, OLD)
    damaged(path, what)
    before = {file.name: file.read_bytes() for file in ledger.folder.glob("*.jsonl")}
    for act in (lambda: spend(ledger, "a"), lambda: spend(ledger, "x", cohort="y"), lambda: ledger.entries("lungs")):
        with pytest.raises(InputError, match=r"line \d: .*restore the file from a back-up"):
            act()
    assert {file.name: file.read_bytes() for file in ledger.folder.glob("*.jsonl")} == before
    write_old(ledger, OLD)
    assert [e.run for e in ledger.entries("lungs")] == ["a", "b"]


@pytest.mark.parametrize(("rename", "found"), [(1, 2), (2, 2)])
def test_dying_between_import_and_putting_aside_doubles_nothing(ledger, monkeypatch, rename, found):
    """Both files are renamed: the process dies before each of the two."""
    path = write_old(ledger, OLD)

    def dying():
        calls, original = [], Path.rename
        Path.rename = lambda self, to: (
            calls.append(self), os.kill(os.getpid(), signal.SIGKILL) if len(calls) == rename else original(self, to)
        )  # fmt: skip
        ledger.entries("lungs")

    child = FORK.Process(target=dying)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL and path.exists()
    assert len(ledger.entries("lungs")) == found
    assert ledger.verify() == 4  # the note of the import, and three records
    assert not path.exists()


def test_what_the_earlier_version_adds_afterwards_is_taken_over_too(ledger):
    path = write_old(ledger, OLD)
    assert len(ledger.entries("lungs")) == 2
    path.with_name(f"{path.name}.imported").rename(path)  # the old file grew
    write_old(ledger, [*OLD, old_open("c", 1.0)])
    assert [e.run for e in ledger.entries("lungs")] == ["a", "b", "c"]
    write_old(ledger, [old_open("b"), old_open("d")])  # begun anew, with a run that went on
    assert [e.run for e in ledger.entries("lungs")] == ["a", "b", "c", "d"]
    assert ledger.budget("lungs") == 1.0
    write_old(ledger, [old_open("b", eps=0.7)])
    with pytest.raises(InputError, match=r"run b, which is in .* with another mechanism"):
        ledger.entries("lungs")


def test_a_process_of_the_earlier_version_is_waited_for(ledger):
    """It holds its lock while it adds a line, which would else be put aside unread."""
    path = write_old(ledger, OLD)

    def adding(pipe):
        with legacy.locked(path):
            pipe.send("holding")
            pipe.recv()
            write_old(ledger, [*OLD, old_open("c")])

    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=adding, args=(theirs,))
    child.start()
    ours.recv()
    reader = FORK.Process(target=Ledger(ledger.folder).cohorts)
    reader.start()
    reader.join(0.5)
    assert reader.is_alive()
    ours.send("go on")
    child.join(60)
    reader.join(60)
    assert [e.run for e in ledger.entries("lungs")] == ["a", "b", "c"]
