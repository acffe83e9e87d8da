"""Checksums find every kind of tampering."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from imgsynth.release.folder import CHECKSUMS, check_checksums, write_checksums


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


def test_a_sum_that_a_writer_took_is_not_taken_again(summed: Path) -> None:
    before = (summed / CHECKSUMS).read_text()
    write_checksums(summed, {"a/one.dcm": "0" * 64, "no such file": "1" * 64})
    after = (summed / CHECKSUMS).read_text()
    assert after == "0" * 64 + before[64:]
    assert [fault.where for fault in check_checksums(summed)] == ["a/one.dcm"]


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
