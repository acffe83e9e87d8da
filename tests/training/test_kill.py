"""kill -9 at random and at the worst moments: the run goes on as if nothing had happened, and is spent once."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from imgsynth.privacy.ledger import Ledger
from imgsynth.schema import Config
from imgsynth.training import begin, histogram, loop, once, publish, succession
from imgsynth.training.checkpoint import load_checkpoint
from imgsynth.training.folder import RunFolder
from imgsynth.training.metrics import read_rows
from imgsynth.training.run import model_factory
from imgsynth.types import InputError

Configure = Callable[..., Config]
FORK = multiprocessing.get_context("fork")


def start(cfg: Config, run_dir: Path, prepare: Callable[[], None] = lambda: None) -> BaseProcess:
    """Train in a process of its own, in which ``prepare`` ran before."""

    def target() -> None:
        prepare()
        loop.train(cfg, run_dir, model_factory(cfg.model))

    process = FORK.Process(target=target)
    process.start()
    return process


def finish(cfg: Config, run_dir: Path) -> None:
    process = start(cfg, run_dir)
    process.join(300)
    assert process.exitcode == 0


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(RunFolder(run_dir).checkpoint)["state"]
    averages = {f"ema.{k}": v for k, v in state["ema"].items() if isinstance(v, torch.Tensor)}
    return {**state["model"], **averages, **_flat(state["optimizers"])}


def _flat(value: dict | list | torch.Tensor | float, at: str = "optimizer") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {at: value}
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, item in pairs for k, v in _flat(item, f"{at}.{key}").items()}
    return {}


def assert_same_run(run_dir: Path, unbroken: Path, cfg: Config) -> None:
    """Bit for bit the same weights, averages and optimizer moments, the same public files, and one spend each."""
    ours, theirs = weights(run_dir), weights(unbroken)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (run_dir / "metrics.jsonl").read_bytes() == (unbroken / "metrics.jsonl").read_bytes()
    for sheet in (unbroken / "samples").iterdir():
        assert (run_dir / "samples" / sheet.name).read_bytes() == sheet.read_bytes()
    cohort = json.loads((run_dir / "manifest.json").read_text())["fingerprint"]
    entries = Ledger(cfg.privacy.ledger).entries(cohort)
    assert [entry.state for entry in entries] == ["closed", "closed"]  # of this run and of the unbroken one
    assert not list(run_dir.rglob("*.partial")) and not list(run_dir.rglob("*next*"))


@pytest.fixture(scope="module")
def with_histogram(make_config: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unbroken run that the runs killed at the worst moments are held against, beside its ledger."""
    root = tmp_path_factory.mktemp("unbroken")
    cfg = make_config("gan", privacy={"ledger": str(root / "ledger")}, sample={"labels": "histogram"})
    loop.train(cfg, root / "run", model_factory(cfg.model))
    return root


@pytest.mark.parametrize("model", ["gan", "vae"])
def test_killed_at_random_moments(model: str, configure: Configure, tmp_path: Path) -> None:
    """Steps are slowed a little so that kills hit all over; a process that got nowhere new is killed all the same."""
    cfg = configure(model, trainer={"steps": 30, "checkpoint_every": 4, "sheet_every": 6})
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    loop.train(cfg, unbroken, model_factory(cfg.model))

    def slow() -> None:
        update = loop.private_update
        loop.private_update = lambda *arguments: (time.sleep(0.03), update(*arguments))[1]

    random.seed(f"{time.time()} {model}")
    before_first, after_first = 0, 0
    for _ in range(6):
        process = start(cfg, broken, slow)
        time.sleep(random.uniform(0.05, 0.9))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        if (broken / "checkpoints" / "last.pt").is_file():
            after_first += 1
        else:
            before_first += 1
    finish(cfg, broken)
    assert before_first + after_first > 0
    assert_same_run(broken, unbroken, cfg)


def killed_at(monkeypatch_target: object, name: str, call: int) -> Callable[[], None]:
    """Make the ``call``-th call of a function the last thing that the process does."""

    def prepare() -> None:
        original, calls = getattr(monkeypatch_target, name), []

        def wrapper(*arguments: object, **named: object) -> object:
            calls.append(1)
            return die() if len(calls) == call else original(*arguments, **named)

        setattr(monkeypatch_target, name, wrapper)

    return prepare


WORST = {
    "the ledger has the run, the folder not yet": (begin, "write_json", 1),
    "a step before the first checkpoint": (loop, "private_update", 3),
    "before a later checkpoint is written": (succession, "save_checkpoint", 2),
    "the first checkpoint is whole, the ledger does not know it": (Ledger, "publish", 1),
    "a later checkpoint is whole, the ledger does not know it": (Ledger, "publish", 2),
    "the ledger knows the first checkpoint, it is not in place": (succession, "rename", 1),
    "the ledger knows a later checkpoint, it is not in place": (succession, "rename", 2),
    "the checkpoint is there, its metrics are not": (publish.Metrics, "publish", 2),
    "the metrics are there, the sheet is not": (publish, "save_png", 1),
    "all steps are taken, the histogram is not drawn": (histogram, "noisy_histogram", 1),
    "the histogram is drawn and not yet on disk": (once, "write_json", 1),
    "the histogram is drawn, the ledger does not know it": (Ledger, "publish", 5),
    "the ledger knows the histogram, it is not in place": (once, "rename", 1),
    "the histogram is on disk, the ledger is open": (Ledger, "close_entry", 1),
}


@pytest.mark.parametrize("moment", WORST)
def test_killed_at_the_worst_moments(moment: str, configure: Configure, tmp_path: Path, with_histogram: Path) -> None:
    cfg = configure("gan", sample={"labels": "histogram"})
    shutil.copytree(with_histogram / "ledger", str(cfg.privacy.ledger))
    unbroken, broken = with_histogram / "run", tmp_path / "broken"
    process = start(cfg, broken, killed_at(*WORST[moment]))
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    shown = read_rows(broken / "metrics.jsonl")
    if shown:  # whatever left memory is in the checkpoint
        assert shown[-1]["step"] <= load_checkpoint(RunFolder(broken).checkpoint)["state"]["step"]
    finish(cfg, broken)
    assert_same_run(broken, unbroken, cfg)
    assert (broken / "label_histogram.json").read_bytes() == (unbroken / "label_histogram.json").read_bytes()


AROUND_THE_RELEASE = {
    "before anything is released": (loop, "post_processing_updates", 1),
    "the released mean is whole on disk, the ledger does not know it": (Ledger, "publish", 1),
    "in the first step without patients": (loop, "post_processing_updates", 2),
    "in a later step without patients": (loop, "post_processing_updates", 6),
}


@pytest.mark.parametrize("moment", AROUND_THE_RELEASE)
def test_killed_around_the_release_of_a_mean(moment: str, configure: Configure, tmp_path: Path) -> None:
    cfg, unbroken, broken = configure("merf"), tmp_path / "unbroken", tmp_path / "broken"
    loop.train(cfg, unbroken, model_factory(cfg.model))
    process = start(cfg, broken, killed_at(*AROUND_THE_RELEASE[moment]))
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    finish(cfg, broken)
    assert_same_run(broken, unbroken, cfg)


def test_an_unseeded_run_takes_its_lost_steps_with_fresh_noise(configure: Configure, tmp_path: Path) -> None:
    """Twice from one and the same killed state: the two ends differ, and no state of a generator is on disk."""
    cfg = configure("gan", privacy={"seed": None})
    run_dir, saved, ledger = tmp_path / "run", tmp_path / "saved", Path(str(cfg.privacy.ledger))
    start(cfg, run_dir, killed_at(loop, "private_update", 6)).join(300)
    shutil.copytree(run_dir, saved / "run")
    shutil.copytree(ledger, saved / "ledger")
    finish(cfg, run_dir)
    once = weights(run_dir)
    assert [row["step"] for row in read_rows(run_dir / "metrics.jsonl")] == list(range(1, 10))
    assert load_checkpoint(RunFolder(run_dir).checkpoint)["state"]["random"] is None
    for folder in (run_dir, ledger):
        shutil.rmtree(folder)
        shutil.copytree(saved / folder.name, folder)
    finish(cfg, run_dir)
    assert any(not torch.equal(once[name], again) for name, again in weights(run_dir).items())


def test_a_copy_of_an_unfinished_run_cannot_be_finished_twice(configure: Configure, tmp_path: Path) -> None:
    cfg = configure("gan", privacy={"seed": None})
    start(cfg, tmp_path / "run", killed_at(loop, "private_update", 6)).join(300)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    finish(cfg, tmp_path / "run")
    with pytest.raises(InputError, match="finished elsewhere"):
        loop.train(cfg, tmp_path / "copy", model_factory(cfg.model))


def unseeded(configure: Configure) -> Config:
    return configure("gan", privacy={"seed": None}, trainer={"checkpoint_every": 2})


def refused(cfg: Config, run_dir: Path, match: str) -> None:
    before = [(path, path.read_bytes()) for path in sorted(run_dir.rglob("*.pt"))]
    with pytest.raises(InputError, match=match):
        loop.train(cfg, run_dir, model_factory(cfg.model))
    assert before == [(path, path.read_bytes()) for path in sorted(run_dir.rglob("*.pt"))]


@pytest.mark.parametrize(("first", "second"), [("run", "copy"), ("copy", "run")])
def test_a_copy_does_not_go_on_after_the_other_one_did(
    first: str, second: str, configure: Configure, tmp_path: Path
) -> None:
    """One after the other, both unfinished; whether the original or the copy goes on first."""
    cfg = unseeded(configure)
    start(cfg, tmp_path / "run", killed_at(loop, "private_update", 4)).join(300)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    start(cfg, tmp_path / first, killed_at(loop, "private_update", 3)).join(300)  # it publishes step 4 alone
    assert load_checkpoint(RunFolder(tmp_path / first).checkpoint)["state"]["step"] == 4
    refused(cfg, tmp_path / second, "a checkpoint of step 2, of a run that .* published step 4 .*go on in the folder")
    finish(cfg, tmp_path / first)
    refused(cfg, tmp_path / second, "finished elsewhere")


def test_a_copy_without_any_checkpoint_does_not_begin_again(configure: Configure, tmp_path: Path) -> None:
    cfg = unseeded(configure)
    start(cfg, tmp_path / "run", killed_at(loop, "private_update", 2)).join(300)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    start(cfg, tmp_path / "run", killed_at(loop, "private_update", 4)).join(300)
    refused(cfg, tmp_path / "copy", "no checkpoint, of a run that .* published step 2")


def test_a_state_that_a_back_up_has_from_before_cannot_be_put_back(configure: Configure, tmp_path: Path) -> None:
    cfg = unseeded(configure)
    start(cfg, tmp_path / "run", killed_at(loop, "private_update", 4)).join(300)
    shutil.copytree(tmp_path / "run", tmp_path / "saved")
    start(cfg, tmp_path / "run", killed_at(succession, "rename", 1)).join(300)
    shutil.rmtree(tmp_path / "run")
    shutil.copytree(tmp_path / "saved", tmp_path / "run")
    refused(cfg, tmp_path / "run", "published step 4")  # which never was in place, but a back-up cannot know that


@pytest.mark.parametrize("moment", [(Ledger, "publish", 2), (succession, "rename", 2)], ids=["whole", "noted"])
def test_steps_that_were_on_disk_whole_are_not_taken_again(
    moment: tuple[object, str, int], configure: Configure, tmp_path: Path
) -> None:
    """Nor in a copy, which then takes the run over: either one goes on, but not both."""
    cfg, run_dir = unseeded(configure), tmp_path / "run"
    start(cfg, run_dir, killed_at(*moment)).join(300)
    taken = load_checkpoint(RunFolder(run_dir).next_checkpoint)["rows"]
    assert [row["step"] for row in taken] == [3, 4]
    shutil.copytree(run_dir, tmp_path / "copy")
    start(cfg, tmp_path / "copy", killed_at(loop, "private_update", 3)).join(300)
    assert read_rows(tmp_path / "copy" / "metrics.jsonl")[2:4] == taken
    refused(cfg, run_dir, "published step 6")
    finish(cfg, tmp_path / "copy")


def test_who_was_overtaken_while_it_trained_publishes_nothing(configure: Configure, tmp_path: Path) -> None:
    """On a file system whose locks other machines do not see."""
    cfg = unseeded(configure)
    start(cfg, tmp_path / "run", killed_at(loop, "private_update", 4)).join(300)
    folder, ledger = RunFolder(tmp_path / "run"), Ledger(cfg.privacy.ledger)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    ours, theirs = (succession.Succession(RunFolder(tmp_path / n), ledger, folder.run_id()) for n in ("run", "copy"))
    content = theirs.restore()
    assert content is not None and ours.restore() is not None
    later = {**content, "state": {**content["state"], "step": 4}}
    theirs.publish(later)
    with pytest.raises(InputError, match="published step 4"):
        ours.publish(later)
    assert load_checkpoint(folder.checkpoint)["state"]["step"] == 2
    with pytest.raises(InputError, match="published step 4"):
        ours.restore()


def test_a_run_goes_on_with_no_other_ledger(configure: Configure, tmp_path: Path) -> None:
    cfg = unseeded(configure)
    start(cfg, tmp_path / "run", killed_at(loop, "private_update", 4)).join(300)
    shutil.rmtree(str(cfg.privacy.ledger))
    refused(cfg, tmp_path / "run", "that this ledger has no record of")


def test_a_run_of_an_earlier_version_goes_on(configure: Configure, tmp_path: Path) -> None:
    """Its checkpoint has no token, and the ledger no table of what was published."""
    cfg, run_dir = unseeded(configure), tmp_path / "run"
    start(cfg, run_dir, killed_at(loop, "private_update", 4)).join(300)
    content = load_checkpoint(RunFolder(run_dir).checkpoint)
    torch.save({k: v for k, v in content.items() if k not in ("token", "after")}, RunFolder(run_dir).checkpoint)
    connection = sqlite3.connect(Path(str(cfg.privacy.ledger)) / "ledger.sqlite")
    connection.execute("DROP TABLE published")
    connection.close()
    shutil.copytree(run_dir, tmp_path / "copy")
    start(cfg, run_dir, killed_at(loop, "private_update", 3)).join(300)
    refused(cfg, tmp_path / "copy", "published step 4")
    finish(cfg, run_dir)


def test_a_copy_draws_no_second_histogram(configure: Configure, tmp_path: Path) -> None:
    cfg = configure("gan", privacy={"seed": None}, sample={"labels": "histogram"})
    start(cfg, tmp_path / "run", killed_at(histogram, "noisy_histogram", 1)).join(300)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    for moment in ((Ledger, "publish", 1), (once, "rename", 1), (Ledger, "close_entry", 1)):
        start(cfg, tmp_path / "run", killed_at(*moment)).join(300)
        if moment[1] != "publish":
            refused(cfg, tmp_path / "copy", "label histogram was drawn in a copy")
        assert not list((tmp_path / "copy").glob("label_histogram*"))
    finish(cfg, tmp_path / "run")


def test_an_older_checkpoint_cannot_be_put_back(configure: Configure, tmp_path: Path) -> None:
    cfg = configure("gan", privacy={"seed": None})
    last = RunFolder(tmp_path / "run").checkpoint
    start(cfg, tmp_path / "run", killed_at(loop, "private_update", 5)).join(300)
    shutil.copy(last, tmp_path / "older.pt")
    start(cfg, tmp_path / "run", killed_at(loop, "private_update", 4)).join(300)
    shutil.copy(tmp_path / "older.pt", last)
    refused(cfg, tmp_path / "run", "a checkpoint of step 4, of a run that .* published step 6")


def test_a_checkpoint_that_is_not_whole_is_removed(configure: Configure, tmp_path: Path) -> None:
    """It holds steps that are going to be taken again with fresh noise."""

    def die_before_the_rename() -> None:
        replace = Path.replace
        Path.replace = lambda path, to: die() if path.name.startswith(".next.pt") else replace(path, to)

    cfg = configure("gan", privacy={"seed": None})
    start(cfg, tmp_path / "run", die_before_the_rename).join(300)
    (leftover,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert leftover.name.endswith(".partial")
    finish(cfg, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["last.pt"]


def test_a_histogram_that_is_on_disk_is_not_drawn_again(configure: Configure, tmp_path: Path) -> None:
    cfg = configure("gan", privacy={"seed": None}, sample={"labels": "histogram"})
    start(cfg, tmp_path / "run", killed_at(Ledger, "close_entry", 1)).join(300)
    drawn = RunFolder(tmp_path / "run").label_histogram.stat()
    finish(cfg, tmp_path / "run")
    again = RunFolder(tmp_path / "run").label_histogram.stat()
    assert (again.st_ino, again.st_mtime_ns) == (drawn.st_ino, drawn.st_mtime_ns)
