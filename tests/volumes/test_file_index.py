"""The index of a source: resumed where it stopped, every change noticed, private, and no more in it than allowed."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from imgsynth.cohort.build_dicom import find_dicom
from imgsynth.cohort.build_nifti import find_nifti
from imgsynth.files import sha256
from imgsynth.schema import DataConfig
from imgsynth.volumes import file_index, parallel
from imgsynth.volumes.dicom_index import DicomIndex, read_dicom_folder, read_dicom_tree
from imgsynth.volumes.file_index import FileIndex
from imgsynth.volumes.file_tree import list_files

LONG_AGO = 1_600_000_000 * 10**9


def aged(root: Path) -> Path:
    """Files are not remembered in the first two seconds of their life."""
    for path in root.rglob("*"):
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return root


def indexed(root: Path) -> tuple[DicomIndex, int]:
    """The index, and how many files had to be read for it."""
    memory = FileIndex(root)
    return read_dicom_tree(list_files(root), memory), memory.read_now


def facts(index: DicomIndex) -> tuple:
    return (
        [(s.uid, s.modality, s.shape, s.affine.tolist(), s.slices, s.meta, s.faults) for s in index.series],
        index.faults, index.passed_over,
    )  # fmt: skip


@pytest.fixture
def cohort(make_series, make_slice, save, tmp_path) -> Path:
    """Two series, a scout, a copy, a damaged file and one that is not DICOM."""
    files = make_series()
    make_series(range(4), folder="other", SeriesInstanceUID="1.2.3.9", PatientID="patient-2")
    make_series([40], prefix="loc", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    shutil.copy(files[2], tmp_path / "scan" / "zz-copy.dcm")
    (tmp_path / "scan" / "cut.dcm").write_bytes(files[3].read_bytes()[:700])
    (tmp_path / "readme.txt").write_text("not DICOM")
    return aged(tmp_path)


def test_a_second_look_reads_nothing_and_says_the_same(cohort):
    first, read = indexed(cohort)
    assert read == len(list_files(cohort).files) == 14
    again, read_again = indexed(cohort)
    assert read_again == 0 and facts(again) == facts(first) == facts(read_dicom_folder(cohort))
    assert len(first.series) == 2 and len(first.faults) == 3 and first.passed_over == (cohort / "readme.txt",)


def test_what_is_remembered_of_each_file_makes_the_same_index(cohort):
    """Not only the folder as a whole: with one file more, the others come from their own entries."""
    indexed(cohort)
    (cohort / "more.txt").write_text("x")
    os.utime(cohort / "more.txt", ns=(LONG_AGO, LONG_AGO))
    again, read = indexed(cohort)
    assert read == 1 and facts(again) == facts(read_dicom_folder(cohort))


def test_a_changed_file_is_read_again(cohort):
    indexed(cohort)
    path = next((cohort / "other").iterdir())
    dataset = dcmread(path)
    dataset.PatientAge = "062Y"  # the size stays
    dataset.save_as(path)
    os.utime(path, ns=(LONG_AGO + 1, LONG_AGO + 1))
    again, read = indexed(cohort)
    assert read == 1 and facts(again) == facts(read_dicom_folder(cohort))


def test_a_file_replaced_by_one_of_the_same_size_and_date_is_noticed(cohort):
    """rsync and cp -p keep dates: the inode's own date tells."""
    first, _ = indexed(cohort)
    path = sorted((cohort / "other").iterdir())[0]
    other = cohort.parent / f"{cohort.name}-replacement"
    data = path.read_bytes()
    other.write_bytes(data.replace(b"patient-2", b"patient-3"))
    os.utime(other, ns=(LONG_AGO, LONG_AGO))
    other.replace(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (len(data), LONG_AGO)
    again, read = indexed(cohort)
    assert read == 1 and {s.meta["PatientID"] for s in again.series} == {"patient-1", "patient-2", "patient-3"}
    assert facts(again) != facts(first)


def test_a_removed_file_is_missed_and_forgotten(cohort):
    indexed(cohort)
    gone = sorted((cohort / "scan").iterdir())[3]
    gone.unlink()
    again, read = indexed(cohort)
    assert read == 0 and facts(again) == facts(read_dicom_folder(cohort))
    assert any("1 of" in fault.got or "differ" in fault.got for fault in again.faults)
    with sqlite3.connect(FileIndex(cohort).path) as store:
        names = {name for (name,) in store.execute("SELECT name FROM entries")}
    assert gone.relative_to(cohort).as_posix() not in names and len(names) == 13


def test_a_file_of_this_moment_is_not_remembered(cohort):
    """It could change again within the grain of its date."""
    path = cohort / "scan" / "cut.dcm"
    path.write_bytes(path.read_bytes())
    assert [indexed(cohort)[1] for _ in range(2)] == [14, 1]


def test_entries_of_other_code_are_not_trusted(cohort, monkeypatch):
    indexed(cohort)
    monkeypatch.setattr(file_index, "_readers", lambda: "another version")
    assert [indexed(cohort)[1] for _ in range(2)] == [14, 0]


@pytest.mark.parametrize("where", ["cut short", "in the middle", "everywhere"])
def test_a_damaged_index_is_made_anew(cohort, where):
    indexed(cohort)
    path = FileIndex(cohort).path
    data = path.read_bytes()
    damaged = {"cut short": data[:5000], "everywhere": b"no database at all" * 500,
               "in the middle": data[:4096] + b"\xff" * 8192 + data[12288:]}  # fmt: skip
    path.write_bytes(damaged[where])
    again, read = indexed(cohort)
    assert read == 14 and facts(again) == facts(read_dicom_folder(cohort))


def test_the_index_is_private_and_lies_outside_of_the_source(cohort):
    before = {path: path.stat().st_mtime_ns for path in cohort.rglob("*")}
    indexed(cohort)
    path = FileIndex(cohort).path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and cohort not in path.parents
    assert {path: path.stat().st_mtime_ns for path in cohort.rglob("*")} == before


def test_only_allow_listed_fields_are_in_the_index(cohort):
    find_dicom(DataConfig(kind="dicom", root=str(cohort)))
    content = b"".join(p.read_bytes() for p in FileIndex(cohort).path.parent.glob(f"{FileIndex(cohort).path.name}*"))
    assert b"patient-1" in content and b"Sentinel" not in content and b"thorax" not in content


def test_without_a_place_for_the_index_everything_is_read(cohort, monkeypatch, capsys):
    (cohort.parent / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cohort.parent / "file"))
    index, read = indexed(cohort)
    assert read == 14 and facts(index) == facts(read_dicom_folder(cohort))
    assert "no index of files can be kept" in capsys.readouterr().err


def test_digests_are_kept_by_file_and_follow_its_content(cohort):
    data = DataConfig(kind="dicom", root=str(cohort))
    first = {scan.names: scan.digest for scan in find_dicom(data).scans}
    tree, memory = list_files(cohort), FileIndex(cohort)
    names = [name for name in tree.files if name.startswith("other/")]
    assert memory.digests(tree, names) == {name: sha256(cohort / name) for name in names} and memory.read_now == 0
    path = cohort / names[0]
    path.write_bytes(path.read_bytes()[:-2] + b"\1\1")
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    again = {scan.names: scan.digest for scan in find_dicom(data).scans}
    assert sum(first[key] != again[key] for key in first) == 1


def _read_or_die(root: Path, name: str) -> str:
    """Reads 300 files and is then killed as the kernel kills: nothing gets to clean up."""
    counter = root / ".read"
    counter.write_text(str(int(counter.read_text()) + 1))
    if counter.read_text() == "301":
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def _count(root: Path, name: str) -> str:
    return name


def test_a_killed_index_goes_on_where_it_stopped(tmp_path, monkeypatch):
    for n in range(500):
        (tmp_path / f"{n:03d}").write_text("x")
    (tmp_path / ".read").write_text("0")
    aged(tmp_path)
    monkeypatch.setattr(file_index, "_COMMIT_EVERY", 0.0)
    tree = list_files(tmp_path)
    child = os.fork()
    if child == 0:
        FileIndex(tmp_path).entries(tree, _read_or_die, "Reading")
        os._exit(0)  # not reached
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    memory = FileIndex(tmp_path)
    assert memory.entries(tree, _count, "Reading") == list(tree.files)
    assert memory.read_now == 500 - 300 // parallel.CHUNK * parallel.CHUNK


def test_processes_and_one_process_say_the_same(cohort, monkeypatch):
    one = facts(indexed(cohort)[0])
    FileIndex(cohort).path.unlink()
    monkeypatch.setattr(parallel, "PARALLEL_FROM", 2)
    monkeypatch.setattr(parallel, "CHUNK", 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    several, read = indexed(cohort)
    assert read == 14 and facts(several) == one


def test_digests_of_nifti_files_are_kept_too(tmp_path, monkeypatch):
    import nibabel as nib

    for n in range(3):
        nib.save(nib.Nifti1Image(np.full((4, 5, 6), n, np.int16), np.eye(4)), tmp_path / f"p{n}.nii.gz")
    aged(tmp_path)
    data = DataConfig(kind="nifti", root=str(tmp_path), modality="MR")
    first = [scan.digest for scan in find_nifti(data).scans]
    assert first == [sha256(tmp_path / f"p{n}.nii.gz") for n in range(3)]
    monkeypatch.setattr(file_index, "sha256", None)
    assert [scan.digest for scan in find_nifti(data).scans] == first
