"""A folder appears whole or not at all, and its checksums find every kind of tampering."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import pytest

from imgsynth.release.folder import CHECKSUMS, atomic_folder, check_checksums, write_checksums
from imgsynth.types import InputError


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def final(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "release"
    (folder / "dicom").mkdir(parents=True)
    (folder / "dicom" / "old.dcm").write_bytes(b"old")
    return folder


def test_the_new_folder_replaces_the_old_one_whole(final: Path) -> None:
    with atomic_folder(final) as partial:
        (partial / "new").write_text("new")
        assert tree(final) == {"dicom/old.dcm": b"old"}
    assert tree(final) == {"new": b"new"}
    assert [p.name for p in final.parent.iterdir()] == ["release"]


def test_a_full_disk_midway_leaves_the_old_release_and_says_what_to_do(final: Path) -> None:
    with pytest.raises(InputError) as caught, atomic_folder(final) as partial:
        (partial / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", str(partial / "half"))
    assert caught.value.exit_code == 2
    assert "No space left on device" in str(caught.value) and str(final) in str(caught.value)
    assert tree(final) == {"dicom/old.dcm": b"old"}
    assert [p.name for p in final.parent.iterdir()] == ["release"]


def test_an_interrupt_leaves_the_old_release(final: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_folder(final) as partial:
        (partial / "half").write_text("half")
        raise KeyboardInterrupt
    assert tree(final) == {"dicom/old.dcm": b"old"}


def test_a_failed_last_rename_brings_the_old_release_back(final: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def fail_on_the_new(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_the_new)
    with pytest.raises(InputError), atomic_folder(final) as partial:
        (partial / "new").write_text("new")
    assert tree(final) == {"dicom/old.dcm": b"old"}


def test_a_process_killed_between_the_two_renames_is_repaired_by_the_next_call(final: Path) -> None:
    final.rename(final.with_name(".release.old"))
    (final.with_name(".release.partial")).mkdir()
    (final.with_name(".release.partial") / "stale").write_text("from the killed process")
    with pytest.raises(InputError), atomic_folder(final) as partial:
        assert tree(partial) == {}
        raise OSError(errno.ENOSPC, "No space left on device")
    assert tree(final) == {"dicom/old.dcm": b"old"}


def test_a_parent_that_is_a_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputError), atomic_folder(tmp_path / "run" / "release"):
        pass


@pytest.fixture
def summed(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.dcm").write_bytes(b"\x00\x01")
    (tmp_path / "two with blank.txt").write_text("two")
    write_checksums(tmp_path)
    return tmp_path


def test_sha256sum_reads_the_checksums(summed: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", CHECKSUMS], cwd=summed, check=True)
    assert check_checksums(summed) == []


@pytest.mark.parametrize(
    ("tamper", "where"),
    [
        (lambda f: (f / "a" / "one.dcm").write_bytes(b"\x00\x02"), "a/one.dcm"),
        (lambda f: (f / "a" / "one.dcm").unlink(), "a/one.dcm"),
        (lambda f: (f / "a" / "extra").write_text(""), "a/extra"),
        (lambda f: (f / "linked").symlink_to(f / "a", target_is_directory=True), "linked"),
        (lambda f: (f / CHECKSUMS).unlink(), CHECKSUMS),
        (lambda f: (f / CHECKSUMS).write_text("no sums at all\n"), CHECKSUMS),
    ],
)
def test_each_kind_of_tampering_is_found(summed: Path, tamper, where: str) -> None:
    tamper(summed)
    assert [fault.where for fault in check_checksums(summed)] == [where]
