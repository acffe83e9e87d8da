"""The run folder: whose it is, what it was begun with, and that only one process works in it."""

from __future__ import annotations

import dataclasses
import fcntl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from imgsynth.files import read_json, write_text
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.published import Published
from imgsynth.schema import Config, SelectionConfig
from imgsynth.training.disk import writing
from imgsynth.training.metrics import read_rows
from imgsynth.training.team import Team
from imgsynth.types import Fault, InputError

# What a run is made of. A folder holds one run: these cannot change in it once it has begun.
BINDING = ("data", "preprocess", "model", "init", "privacy", "trainer", "selection", "sample.labels",
           "sample.histogram_epsilon", "sample.metadata", "sample.metadata_by", "sample.sites")  # fmt: skip
# Where and how fast it is computed, what is declared of the images, and the cohort's budget over all runs, a policy.
FREE = ("data.cache", "data.defaced", "privacy.physical_batch", "privacy.budget_epsilon", "trainer.device",
        "trainer.memory_format", "trainer.threads", "trainer.rank_timeout")  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """Where everything is in a run's folder."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def begun(self) -> bool:
        """Whether a run was begun here: its configuration is stored after its manifest, plan and ledger entry."""
        return self.config.is_file()

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def initial(self) -> Path:
        """The public weights that the run began with, if it did (``initial.py``)."""
        return self.root / "initial.pt"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoints" / "last.pt"

    @property
    def next_checkpoint(self) -> Path:
        """A checkpoint that is whole and about to be put in place (``succession.py``)."""
        return self.root / "checkpoints" / "next.pt"

    @property
    def label_histogram(self) -> Path:
        return self.root / "label_histogram.json"

    @property
    def selection(self) -> Path:
        """Which step's weights were chosen, and by what rule (``selecting.py``)."""
        return self.root / "selection.json"

    @property
    def diverged(self) -> Path:
        """There once a step came to numbers that are none, or was refused: the run is over, and its ε spent."""
        return self.root / "diverged.json"

    @property
    def cache(self) -> Path:
        """Preprocessed images of patients, with ``data.cache=disk``."""
        return self.root / "local" / "cache"

    @property
    def local(self) -> Path:
        """What shows or measures patients, and never leaves."""
        return self.root / "local"

    def sheet(self, step: int) -> Path:
        return self.root / "samples" / f"step-{step:06d}.png"

    def run_id(self) -> str:
        """The id under which the ledger knows this run; drawn once, on disk before any spend is recorded."""
        path = self.root / "run_id.txt"
        if not path.is_file():
            write_text(path, uuid.uuid4().hex + "\n")
        return path.read_text(encoding="utf-8").strip()

    def sweep(self) -> None:
        """Remove what a killed process had begun to write: a checkpoint that is not whole holds steps that are going to
        be taken again. Only training writes these files, and only one process trains here."""
        names = ("metrics.jsonl", "manifest.json", "plan.json", "config.json", "run_id.txt",
                 "label_histogram.next.json", "selection.next.json", "diverged.json", "initial.pt",
                 "metrics.LOCAL-ONLY.txt", "selection.json")  # fmt: skip
        patterns = [
            "checkpoints/.*",
            "samples/.*",
            "local/.README.txt.*",
            "local/.metrics.jsonl.*",
            "local/.files.json.*",
            "local/.teachers-*",
        ]
        patterns += [f".{name}.*" for name in names]
        with writing(self.root):
            for pattern in patterns:
                for leftover in self.root.glob(f"{pattern}.partial"):
                    leftover.unlink()

    def refuse_diverged(self) -> None:
        """Raises InputError for a run that a step ended: that it did was shown, and is a result of what it spent."""
        if self.diverged.is_file():
            (fault, *_) = read_json(self.diverged)["faults"]
            raise InputError(
                Fault(
                    str(self.root),
                    f"a run that one of its steps ended ({fault['where']}: {fault['got']})",
                    "a run that is not over: to take its steps again would be a second release on one spend",
                    "start a new run in a new output folder; what this one spent stays spent",
                )
            )

    def refuse_lost_checkpoint(self) -> None:
        """Raises InputError for outputs without a checkpoint: going on would release twice what is counted once."""
        if not self.checkpoint.is_file():
            self.refuse_older_checkpoint(0)

    def refuse_older_checkpoint(self, step: int) -> None:
        """Raises InputError when steps after ``step`` were already shown. They leave memory after their checkpoint, so
        that this is never the work of a kill."""
        shown = max((row["step"] for row in read_rows(self.root / "metrics.jsonl")), default=0)
        if shown > step:
            raise InputError(
                Fault(
                    str(self.checkpoint),
                    f"{f'a checkpoint of step {step}' if step else 'no checkpoint'} beside metrics up to step {shown}",
                    "the checkpoint that belongs to them, because its steps are spent",
                    "restore the checkpoint, or train into a new output=DIR (a new entry in the ledger)",
                )
            )

    def refuse_succeeded(self, step: int | None, last: Published | None) -> NoReturn:
        """Raises InputError for a checkpoint of ``step`` (None: there is none) that is not ``last``, which the ledger
        knows as the one that was published last."""
        got = "no checkpoint" if step is None else f"a checkpoint of step {step}"
        if last is None:
            raise InputError(
                Fault(str(self.root), f"{got} that this ledger has no record of", "the ledger that the run began with",
                      "set privacy.ledger or $IMGSYNTH_LEDGER to it, or train into a new output=DIR")
            )  # fmt: skip
        raise InputError(
            Fault(
                str(self.root),
                f"{got}, of a run that the ledger knows to have published step {last.step} in another state of this "
                "folder: a copy of it went on, or an older state of it was put back",
                "the checkpoint that was published last: to take its steps again is a second release on one spend",
                "go on in the folder that has it, or restore it from there; else train into a new output=DIR (a new "
                "entry in the ledger)",
            )
        )


@contextmanager
def claimed(root: Path) -> Iterator[RunFolder]:
    """Make the folder if it is new and hold it: two processes in one run would release twice what is counted once.

    The lock is the operating system's, so that it ends with the process however that ends.
    """
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        handle = (root / ".lock").open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                Fault(str(root), "a folder that another process trains in", "one process for a run",
                      "wait for it to end, or choose another output=DIR")
            ) from error  # fmt: skip
        folder = RunFolder(root)
        folder.sweep()
        yield folder


@contextmanager
def claimed_spend(folder: RunFolder, ledger: str | None) -> Iterator[None]:
    """Hold the run's id in the ledger's folder: copies of one run folder, trained at the same time, would release
    twice what the ledger has once. Freed by the operating system at the process's death. Raises InputError."""
    with writing(folder.root):
        run = folder.run_id()
    path = Ledger(ledger).folder / f"run-{run}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    except OSError as error:
        remedy = "set privacy.ledger or $IMGSYNTH_LEDGER to a writable folder; without a ledger nothing runs"
        raise InputError(Fault(f"ledger {path.parent}", str(error), "a writable folder", remedy)) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                Fault(str(folder.root), f"a copy of run {run}, which another process trains in another folder",
                      "one process for a run, as the ledger counts it once",
                      "wait for it to end, or train into a new output=DIR (a new entry in the ledger)")
            ) from error  # fmt: skip
        yield


def refuse_other_run(folder: RunFolder, cfg: Config) -> None:
    """Raises InputError naming every binding key in which the folder's run, if one was begun, differs from ``cfg``."""
    if not folder.begun:
        return
    stored = {"selection": dataclasses.asdict(SelectionConfig()), **read_json(folder.config)}  # of earlier versions
    old, new = flatten(stored), flatten(dataclasses.asdict(cfg))
    faults = [
        Fault(key, f"{new.get(key, 'nothing')!r}", f"{old.get(key, 'nothing')!r}, with which {folder.root} was begun",
              "the same value, or another output=DIR")
        for key in sorted(old.keys() | new.keys())
        if binding(key) and old.get(key, "nothing") != new.get(key, "nothing")
    ]  # fmt: skip
    if faults:
        raise InputError(*faults)


def refuse_other_commands(team: Team, cfg: Config) -> None:
    """Raises InputError naming every key in which the ranks of one run were started differently. Each may name the
    output as its machine does: only the first uses it."""
    ours = flatten(dataclasses.asdict(dataclasses.replace(cfg, output=None)))
    faults = [
        Fault(key, f"{other.get(key, 'nothing')!r} on rank {rank}", f"{first.get(key, 'nothing')!r}, as on rank 0",
              "the same command on all machines")
        for first, *others in [team.gather(ours)]
        for rank, other in enumerate(others, 1)
        for key in sorted(first.keys() | other.keys())
        if first.get(key, "nothing") != other.get(key, "nothing")
    ]  # fmt: skip
    if faults:
        raise InputError(*faults)


def binding(key: str) -> bool:
    return any(key == b or key.startswith(b + ".") for b in BINDING) and key not in FREE


def flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys; lists are values, and an empty dict is one too."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            flat.update(flatten(item, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = item
    return flat
