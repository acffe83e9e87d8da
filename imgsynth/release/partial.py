"""A folder that appears whole or not at all, and in which a killed process's work is not lost."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgsynth.files import rename, sha256
from imgsynth.release.folder import list_files
from imgsynth.types import Fault, InputError

JOURNAL = "journal.jsonl"
WRITING = "writing.lock"  # shared by all processes that write into a partial folder


@dataclass
class Partial:
    """A folder in the making: ``folder`` is what will appear, ``seed`` what the process that began it drew.

    ``done`` are the pieces that are whole, as ``record`` was told of them: by key, each with "sums", the SHA-256 of its
    files by path relative to ``folder``.
    """

    folder: Path
    seed: int
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder.parent

    @property
    def sums(self) -> dict[str, str]:
        """SHA-256 of every file of every piece."""
        return {name: value for piece in self.done.values() for name, value in piece["sums"].items()}

    def record(self, key: str, piece: Mapping[str, Any]) -> None:
        """Note that the piece ``key`` is whole. Its files must be in place already."""
        self.done[key] = dict(piece)
        _append(self.root / JOURNAL, {"key": key, **piece})


@contextmanager
def resumable_folder(final: Path, binding: str, seed: int) -> Iterator[Partial]:
    """Yield a folder beside ``final``; when the block ends well, put it in ``final``'s place.

    Where an earlier process with the same ``binding`` was killed or interrupted, its folder is gone on with: ``done``
    are its pieces, of which every file has been hashed again, and all else that it wrote is removed. ``seed`` is for a
    folder that is begun; one that is gone on with has its own. It is in a journal that is outside ``folder``, readable
    by its owner alone, and is removed with it.

    What was written is removed when the block raises an Exception (disk full, a fault of the input) and kept when it is
    interrupted, or when a process of a pool was killed. In any case the older ``final`` is as it was. An ``OSError``
    becomes an InputError that names the folder; so does another process that is at work here.

    A directory cannot be renamed over another one that is not empty, so that an older ``final`` steps aside first and
    is removed last; a process killed between the two renames is repaired by the next call.
    """
    root, aside = final.with_name(f".{final.name}.partial"), final.with_name(f".{final.name}.old")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _alone(final):
            _bring_back(aside, final)
            shutil.rmtree(aside, ignore_errors=True)
            try:
                partial = _go_on(root, binding) or _begin(root, binding, seed)
                yield partial
                _put_in_place(partial.folder, aside, final)
            except BrokenProcessPool as error:
                raise InputError(_killed(final)) from error
            except Exception:
                shutil.rmtree(root, ignore_errors=True)
                raise
            finally:
                _bring_back(aside, final)
                shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(root, ignore_errors=True)
    except OSError as error:
        raise InputError(_fault(final, error)) from error


def hold(root: Path) -> None:
    """Call in every process that writes into the partial folder at ``root``: as long as it lives, nobody goes on."""
    handle = os.open(root / WRITING, os.O_RDONLY)  # never closed: the lock ends with the process
    fcntl.flock(handle, fcntl.LOCK_SH)


def _begin(root: Path, binding: str, seed: int) -> Partial:
    shutil.rmtree(root, ignore_errors=True)
    (root / "whole").mkdir(parents=True)
    (root / WRITING).touch()
    (root / JOURNAL).touch(mode=0o600)
    _append(root / JOURNAL, {"binding": binding, "seed": seed})
    return Partial(root / "whole", seed)


def _go_on(root: Path, binding: str) -> Partial | None:
    """What an earlier process left under the same ``binding``, without all that is not whole; None: nothing."""
    lines = _lines(root / JOURNAL)
    if not lines or lines[0].get("binding") != binding or not (root / WRITING).is_file():
        return None
    with (root / WRITING).open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # until the last writer of a killed process is gone: they end by themselves
    partial = Partial(root / "whole", lines[0]["seed"])
    for line in lines[1:]:
        key = line.pop("key")
        if all(_is(partial.folder / name, value) for name, value in line["sums"].items()):
            partial.done[key] = line
    _remove_all_but(partial.folder, set(partial.sums))
    _rewrite(root / JOURNAL, [lines[0], *({"key": key, **piece} for key, piece in partial.done.items())])
    return partial


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and not path.is_symlink() and sha256(path) == digest


def _remove_all_but(folder: Path, kept: set[str]) -> None:
    """Remove every file that is not ``kept``, and every folder that is then empty."""
    for name in list_files(folder):
        if name not in kept:
            (folder / name).unlink()
    for here, _, _ in os.walk(folder, topdown=False):
        if Path(here) != folder:
            with suppress(OSError):  # not empty
                Path(here).rmdir()


def _lines(journal: Path) -> list[dict[str, Any]]:
    """The journal's lines up to the first that is not whole: the process may have been killed while it wrote."""
    lines: list[dict[str, Any]] = []
    if journal.is_file():
        for text in journal.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            try:
                line = json.loads(text if text.endswith("\n") else "")
            except ValueError:
                break
            if not isinstance(line, dict):
                break
            lines.append(line)
    return lines


def _append(journal: Path, line: Mapping[str, Any]) -> None:
    with journal.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")


def _rewrite(journal: Path, lines: list[dict[str, Any]]) -> None:
    """Without a torn line at its end, to which the next one would be glued."""
    new = journal.with_name(f".{journal.name}")
    new.touch(mode=0o600)
    new.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    rename(new, journal)


def _put_in_place(folder: Path, aside: Path, final: Path) -> None:
    os.sync()  # once for all files, so that after a power cut too the name stands for what was written
    if final.exists():
        final.rename(aside)
    rename(folder, final)


def _bring_back(aside: Path, final: Path) -> None:
    if aside.exists() and not final.exists():
        aside.rename(final)


@contextmanager
def _alone(final: Path) -> Iterator[None]:
    """Hold ``final``'s lock, which the operating system frees when the process ends, however it does."""
    with final.with_name(f".{final.name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            fault = Fault(str(final), "a folder that another process is writing", "one process at a time",
                          "wait for it to end")  # fmt: skip
            raise InputError(fault) from error
        yield


def _killed(final: Path) -> Fault:
    return Fault(
        str(final),
        "a writing process that was killed, as happens where memory runs out",
        "processes that live until their work is done; what is whole is kept",
        "the same command with sample.writers=1, which goes on from there",
    )


def _fault(final: Path, error: OSError) -> Fault:
    reason = error.strerror or str(error)
    named = f" ({Path(error.filename).name})" if error.filename else ""
    return Fault(
        where=str(final),
        got=f"'{reason}' while writing{named}",
        expected="a folder that can be written, on a disk with room; nothing was changed",
        remedy="free space or choose another output folder (output=DIR), then run the same command again",
    )
