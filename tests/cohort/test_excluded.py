"""Read is used and left out, whatever faults name a file, and what nobody has named is told."""

from __future__ import annotations

from pathlib import Path

from imgsynth.cohort.build_scan import Found, Scan
from imgsynth.cohort.excluded import account, write_excluded
from imgsynth.schema import DataConfig
from imgsynth.types import Fault


def test_a_file_is_counted_once_whatever_names_it(tmp_path: Path) -> None:
    for name in ("a.nii", "b.nii", "c.nii", "m.nii", "note.txt", ".hidden.nii", "dataset.json", "people.csv"):
        (tmp_path / name).touch()
    faults = [Fault("a.nii", "one of its stacks", "e", "r", "mixed_frames", ("a.nii",)),
              Fault("b.nii", "first", "e", "r", "unreadable", (str(tmp_path / "b.nii"),)),
              Fault("b.nii", "second", "e", "r", "not_finite", ("b.nii",)),
              Fault("gone.nii", "no such file", "e", "r", "unreadable", ("gone.nii",))]  # fmt: skip
    found = Found(tmp_path, [Scan(("a.nii",), ("a.nii",), "MR", mask="m.nii")], faults)
    made = account(found, DataConfig(kind="nifti", root=str(tmp_path), table=str(tmp_path / "people.csv")))
    assert made.used == ("a.nii", "dataset.json", "m.nii", "people.csv")
    assert [(row.file, row.code) for row in made.excluded] == [
        (".hidden.nii", "hidden_file"), ("b.nii", "unreadable"), ("c.nii", "other_image"), ("note.txt", "not_an_image")
    ]  # fmt: skip
    assert len(made.read) == len(made.used) + len(made.excluded) == 8
    assert {one.code: one.excludes for one in made.findings()} == {
        "hidden_file": (".hidden.nii",), "other_image": ("c.nii",), "not_an_image": ("note.txt",)
    }  # fmt: skip
    rows = write_excluded(tmp_path / "out.csv", made.excluded).read_text().splitlines()
    assert rows[2].startswith("b.nii,unreadable,warning,got first; expected e (b.nii),")


def test_a_dicom_file_that_nobody_has_heard_of_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "lost").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 20)
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 20)
    made = account(Found(tmp_path), DataConfig(kind="dicom", root=str(tmp_path)))
    assert [(row.file, row.code) for row in made.excluded] == [("DICOMDIR", "not_an_image"), ("lost", "unaccounted")]
