"""The ledger's file: damage is noticed, and no kill, no full disk and no other process takes a spend from it."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import tempfile
import time
from pathlib import Path

import pytest
from dp_accounting import dp_event as dp

from imgsynth.privacy import store
from imgsynth.privacy.accounting import epsilon
from imgsynth.privacy.events import compose
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.patients import Patients
from imgsynth.privacy.published import Published
from imgsynth.types import InputError

FORK = multiprocessing.get_context("fork")
PEOPLE = Patients(frozenset({"p1", "p2"}))
NOBODY = 65534
DAMAGE = {
    "a body edited": ("""UPDATE record SET body = replace(body, '"n": 2', '"n": 3') WHERE number = 1""", 1),
    "the last body edited": ("""UPDATE record SET body = replace(body, '"run": "c"', '"run": "d"')""", 3),
    "a budget edited": ("""UPDATE record SET body = replace(body, '"budget_epsilon": 9', '"budget_epsilon": 99')""", 1),
    "a hash edited": ("UPDATE record SET hash = upper(hash) WHERE number = 2", 2),
    "the first gone": ("DELETE FROM record WHERE number = 1", 1),
    "one in between gone": ("DELETE FROM record WHERE number = 2", 2),
    "the last gone": ("DELETE FROM record WHERE number = 3", 3),
    "all gone": ("DELETE FROM record", 1),
    "two swapped": ("UPDATE record SET number = CASE number WHEN 2 THEN -3 WHEN 3 THEN -2 ELSE 1 END", 1),
    "one added": ("INSERT INTO record VALUES (4, '{}', 'no hash of it')", 4),
    "one that is no text": ("UPDATE record SET body = x'ff00fe' WHERE number = 2", 2),
    "the table gone": ("DROP TABLE record", 1),
    "patients edited": ("UPDATE members SET patients = zeroblob(32)", 1),
    "patients gone": ("DELETE FROM members", 1),
}


@pytest.fixture
def three(ledger, spend):
    for run in "abc":
        spend(ledger, run, patients=PEOPLE, budget=9)
    return ledger


def assert_refused(ledger, spend, match):
    for act in (
        lambda: spend(ledger, "d", patients=PEOPLE),
        lambda: ledger.composed_epsilon("lungs", 1e-5),
        lambda: ledger.verify(),
    ):
        with pytest.raises(InputError, match=match):
            act()


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_ledger_stops_everything(three, spend, sql, name):
    statement, record = DAMAGE[name]
    sql(three, statement)
    before = (three.folder / "ledger.sqlite").read_bytes()
    assert_refused(three, spend, rf"record {record}: .*restore the ledger's folder")
    if not name.startswith("patients"):
        for act in (lambda: spend(three, "a", patients=PEOPLE), lambda: three.close_entry("lungs", "a")):
            with pytest.raises(InputError, match=rf"record {record}: .*restore the ledger's folder"):
                act()
    assert (three.folder / "ledger.sqlite").read_bytes() == before


@pytest.mark.parametrize("file", ["ledger.sqlite", "ledger.end"])
def test_a_ledger_of_which_one_file_is_gone_stops_everything(three, spend, file):
    (three.folder / file).unlink()
    assert_refused(three, spend, "restore the ledger's folder")
    assert_refused(three, spend, "restore the ledger's folder")  # nothing made it good in between


def test_an_older_state_of_the_database_is_noticed(three, spend):
    saved = (three.folder / "ledger.sqlite").read_bytes()
    spend(three, "d", patients=PEOPLE)
    (three.folder / "ledger.sqlite").write_bytes(saved)
    assert_refused(three, spend, "lost: 3 records of 4")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"records": 3}', '{"records": 3, "last": "0"}', "\x00"])
def test_a_damaged_end_stops_everything(three, spend, text):
    (three.folder / "ledger.end").write_text(text)
    assert_refused(three, spend, "restore the ledger's folder")


@pytest.mark.parametrize("length", [0, 100, 5000], ids=str)
def test_a_truncated_database_stops_everything(three, spend, length):
    file = three.folder / "ledger.sqlite"
    file.write_bytes(file.read_bytes()[:length])
    assert_refused(three, spend, "restore the ledger's folder")


def test_a_file_that_is_no_ledger_is_refused(three, spend):
    file = three.folder / "ledger.sqlite"
    file.write_bytes(b"no database at all " * 500)
    assert_refused(three, spend, r"not a database.*restore the ledger's folder")
    file.unlink()
    other = sqlite3.connect(file)
    other.execute("CREATE TABLE record (number, body, hash)")
    other.close()
    assert_refused(three, spend, "no ledger of imgsynth")


def test_a_ledger_of_a_later_version_is_not_guessed_at(three, spend, sql):
    sql(three, "PRAGMA user_version = 2")
    assert_refused(three, spend, r"version 2.*a later imgsynth")


def test_verify_reads_every_page(three, sql):
    assert three.verify() == 3
    sql(three, "PRAGMA writable_schema = ON")
    file = three.folder / "ledger.sqlite"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE padding (x)")  # an index that does not match its table, in an unread page
    connection.execute("CREATE INDEX i ON padding (x)")
    connection.execute("INSERT INTO padding VALUES (1)")
    connection.commit()
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_master SET sql = 'CREATE INDEX i ON padding (x) WHERE x > 5' WHERE name = 'i'")
    connection.commit()
    connection.close()
    assert len(three.entries("lungs")) == 3
    with pytest.raises(InputError, match=r"restore the ledger's folder"):
        three.verify()


def test_a_lost_or_another_key_is_refused_with_a_remedy(three, spend):
    key = three.folder / "ledger.key"
    assert key.stat().st_mode & 0o777 == 0o600
    saved = key.read_bytes()
    key.unlink()
    for got in ("no such file", "another key"):
        with pytest.raises(InputError, match=rf"{got}.*restore it from the ledger's back-up"):
            spend(three, "d", patients=PEOPLE)
        assert three.composed_epsilon("lungs", 1e-5) > 1  # what was spent is still known
        key.write_bytes(bytes(32))
    key.write_bytes(saved)
    spend(three, "d", patients=PEOPLE)


def test_a_ledger_that_cannot_be_written_stops_the_run(tmp_path, spend):
    (tmp_path / "file").write_text("")
    for patients in (None, PEOPLE):
        with pytest.raises(InputError, match=r"set privacy\.ledger"):
            spend(Ledger(tmp_path / "file"), "a", patients=patients)


def in_child(act):
    """What ``act`` returns, or the text of its InputError, in a process of its own."""
    ours, theirs = FORK.Pipe(duplex=False)

    def target():
        try:
            theirs.send(act())
        except InputError as error:
            theirs.send(str(error))

    child = FORK.Process(target=target)
    child.start()
    said = ours.recv() if ours.poll(60) else "no answer"
    child.join(10)
    return said


@pytest.mark.parametrize("room", [0, 40_000, 70_000], ids=str)
def test_a_full_disk_loses_nothing(three, spend, room):
    """No file may grow beyond ``room`` bytes: the first write fails, or one in the middle of the transaction."""
    many = Patients(frozenset(map(str, range(5000))))

    def act():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        return spend(three, "d", patients=many).run

    assert "set privacy.ledger" in in_child(act)
    assert [e.run for e in three.entries("lungs")] == list("abc")
    assert spend(three, "d", patients=many).n == 5000


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user to one without rights")
def test_a_read_only_ledger_can_be_read_and_not_written(spend):
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        spend(Ledger(folder), "a")

        def as_nobody(act):
            os.setuid(NOBODY)
            return act()

        assert in_child(lambda: as_nobody(lambda: [e.run for e in Ledger(folder).entries("lungs")])) == ["a"]
        assert "set privacy.ledger" in in_child(lambda: as_nobody(lambda: spend(Ledger(folder), "b").run))
        assert Ledger(folder).verify() == 1
    finally:
        shutil.rmtree(folder)


def test_a_ledger_held_too_long_says_so(three, spend, monkeypatch):
    monkeypatch.setattr("imgsynth.privacy.store.PATIENCE", 0.2)
    holder = sqlite3.connect(three.folder / "ledger.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(InputError, match=r"locked.*when the other process is done"):
        spend(three, "d")
    assert [e.run for e in three.entries("lungs")] == list("abc")  # reading waits for nobody
    holder.close()
    spend(three, "d")


def _spend_many(spend, folder, name, count, budget):
    for i in range(count):
        try:
            event = dp.GaussianDpEvent(20.0)
            spend(Ledger(folder), f"{name}{i}", event, eps=0.2, budget=budget, patients=PEOPLE)
        except InputError as error:
            os._exit(3 if "budget" in str(error) else 4)


def test_eight_writers_at_once_lose_no_spend_and_a_reader_sees_whole_states(ledger, spend):
    workers = [FORK.Process(target=_spend_many, args=(spend, ledger.folder, name, 5, None)) for name in "stuvwxyz"]
    for worker in workers:
        worker.start()
    seen = [[]]
    while any(worker.is_alive() for worker in workers):
        assert ledger.verify() >= len(seen[-1])
        seen.append([e.run for e in ledger.entries("lungs")])
        assert seen[-1][: len(seen[-2])] == seen[-2]
    assert [worker.exitcode for worker in workers] == [0] * 8
    assert sorted(e.run for e in ledger.entries("lungs")) == [f"{name}{i}" for name in "stuvwxyz" for i in range(5)]
    assert len({json.dumps(seen_) for seen_ in seen}) > 2  # the reader did look in between


def test_processes_racing_for_the_budget_cannot_all_win(ledger, spend):
    spend(ledger, "first", dp.GaussianDpEvent(20.0), eps=0.2)
    budget = epsilon(compose([dp.GaussianDpEvent(20.0)] * 6), 1e-5)
    workers = [FORK.Process(target=_spend_many, args=(spend, ledger.folder, name, 20, budget)) for name in "xyz"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [3, 3, 3]
    assert len(ledger.entries("lungs")) == 6
    assert ledger.composed_epsilon("lungs", 1e-5) <= budget


def _spend_and_tell(spend, folder, first, pipe):
    pipe.send("begun")
    for i in range(first, 10_000):
        cohort = ("lungs", "brains")[i % 2]
        spend(Ledger(folder), f"run{i}", cohort=cohort, patients=Patients(frozenset({f"p{i % 7}"})))
        pipe.send(i)


@pytest.fixture
def quick_ledger(tmp_path):
    """A ledger in memory where that is a folder: files outlive a kill there as on a disk, which nobody waits for."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Ledger(Path(folder) / "ledger")


def test_kill_9_at_200_random_moments_loses_no_spend_and_doubles_none(quick_ledger, spend, sql):
    """Each process begins with the run of which nobody was told, as the same command started again does.

    In which time they are killed follows what they did before: longer after one that told of nothing, shorter after
    others. So half of them have told of a run by then, whatever the machine is doing besides and as the account grows.
    """
    ledger = quick_ledger
    spend(ledger, "timed", cohort="other")
    told, within = [], 0.01
    for kill in range(200):
        ours, theirs = FORK.Pipe(duplex=False)
        worker = FORK.Process(target=_spend_and_tell, args=(spend, ledger.folder, len(told), theirs))
        worker.start()
        theirs.close()
        assert ours.recv() == "begun"
        time.sleep(random.uniform(0, within))
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        before = len(told)
        while ours.poll():
            try:
                told.append(ours.recv())
            except EOFError:
                break
        within *= 1.2 if len(told) == before else 1 / 1.2
        if kill % 20 == 0:
            assert ledger.verify() in (len(told) + 1, len(told) + 2)
    assert told == list(range(len(told))) and len(told) > 20  # kills did hit processes at work
    if ledger.verify() == len(told) + 1:
        spend(ledger, f"run{len(told)}")
    bodies = [json.loads(body) for (body,) in sql(ledger, "SELECT body FROM record ORDER BY number")]
    assert [body["run"] for body in bodies] == ["timed", *(f"run{i}" for i in range(len(told) + 1))]
    assert {body["what"] for body in bodies} == {"open"}


def test_a_commit_is_on_disk_before_anybody_is_told(three):
    """What no kill can show, a power cut would: the log is flushed at every commit."""
    with three._store.writing() as book:
        asked = [book._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert asked == ["wal", 2]


def test_a_reader_who_comes_while_the_ledger_is_begun_looks_again(three, monkeypatch):
    """He found no end, and then records: they were begun in between."""
    found, real = [], store.read_end
    monkeypatch.setattr(store, "read_end", lambda path: real(path) if found else found.append(path))
    assert three.verify() == 3


def test_a_run_publishes_only_after_what_it_published_last(three):
    """A row of its own for each run, beside the records, which it neither adds to nor reads."""
    assert three.published("a") is None and not three.publish("a", Published(4, "x"), after="w")
    assert three.publish("a", Published(4, "x"), after=None)
    assert not three.publish("a", Published(6, "y"), after=None) and not three.publish(
        "a", Published(6, "y"), after="y"
    )
    assert three.publish("b", Published(1, "z"), after=None) and three.publish("a", Published(8, "y"), after="x")
    again = Ledger(three.folder)
    assert (again.published("a"), again.published("b")) == (Published(8, "y"), Published(1, "z"))
    assert again.verify() == 3


def test_of_processes_that_publish_after_the_same_checkpoint_one_does(three):
    def go(token, results):
        results.put(three.publish("a", Published(4, token), after=None))

    results = FORK.Queue()
    processes = [FORK.Process(target=go, args=(str(i), results)) for i in range(6)]
    for process in processes:
        process.start()
    assert sorted(results.get(timeout=60) for _ in processes) == [False] * 5 + [True]
    for process in processes:
        process.join()
