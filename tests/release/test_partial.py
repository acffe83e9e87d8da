"""A folder appears whole or not at all; what a killed process left is gone on with if it is whole, and only then."""

from __future__ import annotations

import errno
import json
import multiprocessing
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from imgsynth.files import sha256
from imgsynth.release.partial import JOURNAL, Partial, hold, resumable_folder
from imgsynth.types import InputError


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def beside(final: Path) -> list[str]:
    return sorted(p.name for p in final.parent.iterdir() if p.name != f".{final.name}.lock")


def add(partial: Partial, key: str, name: str, content: bytes) -> None:
    path = partial.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    partial.record(key, {"sums": {name: sha256(path)}})


@pytest.fixture
def final(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "release"
    (folder / "dicom").mkdir(parents=True)
    (folder / "dicom" / "old.dcm").write_bytes(b"old")
    return folder


@pytest.fixture
def interrupted(final: Path) -> Path:
    """A release of which two pieces were whole, a third was being written, and the older one is there."""
    with pytest.raises(KeyboardInterrupt), resumable_folder(final, "this", 11) as partial:
        add(partial, "a", "dicom/a/1.dcm", b"first")
        add(partial, "b", "dicom/b/1.dcm", b"second")
        (partial.folder / "dicom" / "c").mkdir()
        (partial.folder / "dicom" / "c" / "1.dcm").write_bytes(b"hal")
        raise KeyboardInterrupt
    assert tree(final) == {"dicom/old.dcm": b"old"}
    return final


def journal(final: Path) -> Path:
    return final.with_name(".release.partial") / JOURNAL


def test_the_new_folder_replaces_the_old_one_whole(final: Path) -> None:
    with resumable_folder(final, "this", 0) as partial:
        (partial.folder / "new").write_text("new")
        add(partial, "a", "a.dcm", b"a")
        assert tree(final) == {"dicom/old.dcm": b"old"}
    assert tree(final) == {"new": b"new", "a.dcm": b"a"}
    assert beside(final) == ["release"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device", "half"), ValueError("No space left on device")]
)
def test_an_error_midway_leaves_the_old_release_and_nothing_else(final: Path, error: Exception) -> None:
    expected = InputError if isinstance(error, OSError) else ValueError
    with pytest.raises(expected, match="No space left on device"), resumable_folder(final, "this", 0) as partial:
        (partial.folder / "half").write_text("half")
        raise error
    assert tree(final) == {"dicom/old.dcm": b"old"} and beside(final) == ["release"]


def test_what_is_whole_is_gone_on_with_and_nothing_else(interrupted: Path) -> None:
    with resumable_folder(interrupted, "this", 99) as partial:
        assert partial.seed == 11 and sorted(partial.done) == ["a", "b"]
        assert tree(partial.folder) == {"dicom/a/1.dcm": b"first", "dicom/b/1.dcm": b"second"}
        assert not (partial.folder / "dicom" / "c").exists()
        add(partial, "c", "dicom/c/1.dcm", b"third")
        assert partial.sums == {name: sha256(partial.folder / name) for name in tree(partial.folder)}
    assert tree(interrupted) == {"dicom/a/1.dcm": b"first", "dicom/b/1.dcm": b"second", "dicom/c/1.dcm": b"third"}
    assert beside(interrupted) == ["release"]


def test_another_binding_begins_anew(interrupted: Path) -> None:
    with resumable_folder(interrupted, "that", 99) as partial:
        assert partial.seed == 99 and not partial.done and tree(partial.folder) == {}


@pytest.mark.parametrize("damage", ["shorter", "other", "gone", "link"])
def test_a_piece_of_which_a_file_is_not_as_it_was_is_written_again(interrupted: Path, damage: str) -> None:
    path = interrupted.with_name(".release.partial") / "whole" / "dicom" / "a" / "1.dcm"
    content = path.read_bytes()
    path.unlink()
    if damage == "link":
        (path.parents[3] / "elsewhere").write_bytes(content)
        path.symlink_to(path.parents[3] / "elsewhere")
    elif damage != "gone":
        path.write_bytes({"shorter": content[:-1], "other": content[:-1] + b"?"}[damage])
    with resumable_folder(interrupted, "this", 99) as partial:
        assert sorted(partial.done) == ["b"] and tree(partial.folder) == {"dicom/b/1.dcm": b"second"}


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_journal_that_ends_within_a_line_is_read_up_to_there(interrupted: Path, cut: int) -> None:
    journal(interrupted).write_bytes(journal(interrupted).read_bytes()[:-cut])
    for known in (["a"], ["a", "b"]):  # the line that is then written does not stick to the torn one
        with pytest.raises(KeyboardInterrupt), resumable_folder(interrupted, "this", 99) as partial:
            assert sorted(partial.done) == known
            if known == ["a"]:
                add(partial, "b", "dicom/b/1.dcm", b"second")
            raise KeyboardInterrupt


@pytest.mark.parametrize("text", ["", "{", "[]\n", '{"binding": "this"', "\0\0\0\0"])
def test_a_journal_without_a_head_begins_anew(interrupted: Path, text: str) -> None:
    journal(interrupted).write_text(text)
    with resumable_folder(interrupted, "this", 99) as partial:
        assert partial.seed == 99 and not partial.done and tree(partial.folder) == {}


def test_the_seed_is_for_its_owner_alone(interrupted: Path) -> None:
    assert json.loads(journal(interrupted).read_text().splitlines()[0])["seed"] == 11
    assert journal(interrupted).stat().st_mode & 0o077 == 0
    with pytest.raises(KeyboardInterrupt), resumable_folder(interrupted, "this", 99):
        raise KeyboardInterrupt
    assert journal(interrupted).stat().st_mode & 0o077 == 0


def test_a_killed_writer_is_a_fault_that_keeps_what_is_whole(final: Path) -> None:
    with pytest.raises(InputError, match=r"sample\.writers=1"), resumable_folder(final, "this", 11) as partial:
        add(partial, "a", "a.dcm", b"a")
        raise BrokenProcessPool
    with resumable_folder(final, "this", 99) as partial:
        assert sorted(partial.done) == ["a"]


def test_a_failed_last_rename_brings_the_old_release_back(final: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def fail_on_the_new(self: Path, target: Path) -> Path:
        if self.name == "whole":
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_on_the_new)
    with pytest.raises(InputError), resumable_folder(final, "this", 0) as partial:
        (partial.folder / "new").write_text("new")
    assert tree(final) == {"dicom/old.dcm": b"old"}


def test_a_process_killed_between_the_two_renames_is_repaired_by_the_next_call(interrupted: Path) -> None:
    interrupted.rename(interrupted.with_name(".release.old"))
    with pytest.raises(InputError), resumable_folder(interrupted, "this", 99) as partial:
        assert sorted(partial.done) == ["a", "b"]
        raise OSError(errno.ENOSPC, "No space left on device")
    assert tree(interrupted) == {"dicom/old.dcm": b"old"}


def test_a_parent_that_is_a_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputError), resumable_folder(tmp_path / "run" / "release", "this", 0):
        pass


def test_two_processes_do_not_write_one_release(final: Path) -> None:
    with resumable_folder(final, "this", 0):
        with pytest.raises(InputError, match="another process"), resumable_folder(final, "this", 0):
            pass
        assert beside(final) == [".release.partial", "release"]


def _write_on(root: Path, started: multiprocessing.synchronize.Event, late: float) -> None:
    """A writer that outlives its parent by ``late`` seconds and adds a file at its end."""
    import time

    hold(root)
    started.set()
    time.sleep(late)
    (root / "whole" / "late.dcm").write_bytes(b"late")


def test_nobody_goes_on_before_the_last_writer_has_ended(interrupted: Path) -> None:
    context = multiprocessing.get_context("fork")
    started, root = context.Event(), interrupted.with_name(".release.partial")
    child = context.Process(target=_write_on, args=(root, started, 0.5))
    child.start()
    assert started.wait(60)
    with resumable_folder(interrupted, "this", 99) as partial:
        assert not child.is_alive() or not (root / "whole" / "late.dcm").exists()
        child.join(60)
        assert sorted(partial.done) == ["a", "b"] and len(tree(partial.folder)) == 2
