"""Zips as folders: read as the folder would be, unpacked once, and never outside of the cache."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.load import load_volume
from imgsynth.schema import DataConfig
from imgsynth.types import InputError
from imgsynth.volumes import archives, limits
from imgsynth.volumes.dicom_index import read_dicom_folder
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.local_cache import cache_folder


def zipped(files: list[Path], root: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.relative_to(root))
    return target


def with_member(target: Path, name: str, data: bytes = b"x" * 10, mode: int = 0) -> Path:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = mode << 16
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr(info, data)
    return target


@pytest.mark.parametrize("within", [True, False], ids=["in a folder", "as the root"])
def test_a_zip_reads_as_its_folder_does(make_series, tmp_path, within):
    files = make_series()
    (folder := tmp_path / "source").mkdir()
    archive = zipped(files, tmp_path, folder / "Export.ZIP")
    index = read_dicom_folder(folder if within else archive)
    (series,), (expected,) = index.series, read_dicom_folder(tmp_path / "scan").series
    assert not index.faults and [p.name for p in series.files] == [p.name for p in expected.files]
    assert series.files[0].parent == archive / "scan"
    assert np.array_equal(read_dicom_series(series).array, read_dicom_series(expected).array)
    assert series.header_value("StudyDescription") == "thorax"


@pytest.mark.parametrize("lost", [True, False], ids=["cache lost", "cache kept"])
def test_a_cohort_in_a_zip_is_loaded_from_it_whatever_becomes_of_the_cache(make_series, tmp_path, lost):
    files = make_series(range(3)) + make_series(range(3), folder="b", PatientID="p2", SeriesInstanceUID="1.9")
    files += make_series(range(3), folder="c", PatientID="p3", SeriesInstanceUID="1.8")
    archive = zipped(files, tmp_path, tmp_path / "export.zip")
    manifest, _ = build_manifest(DataConfig(kind="dicom", root=str(archive)))
    assert len(manifest.items) == 3
    if lost:
        for path in cache_folder("unpacked", archive).iterdir():
            path.unlink()
        archives._unpacked.cache_clear()
    assert load_volume(manifest, manifest.items[0]).array.shape == (6, 5, 3)
    archive.write_bytes(archive.read_bytes().replace(b"patient-1", b"patient-2"))
    zipped(files[3:], tmp_path, archive)
    with pytest.raises(InputError, match=r"export\.zip"):
        for item in manifest.items:
            load_volume(manifest, item)


def test_what_is_unpacked_is_private_and_unpacked_once(make_series, tmp_path, monkeypatch):
    archive = zipped(make_series(), tmp_path, tmp_path / "export.zip")
    read_dicom_folder(archive)
    folder = cache_folder("unpacked", archive)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if len(path.name) == 40} == {0o600}
    archives._unpacked.cache_clear()
    monkeypatch.setattr(archives, "_unpack", None)  # would be called
    assert len(read_dicom_folder(archive).series) == 1


def test_a_changed_zip_is_unpacked_anew_and_the_old_images_go(make_series, tmp_path):
    files = make_series()
    archive = zipped(files, tmp_path, tmp_path / "export.zip")
    read_dicom_folder(archive)
    archive.unlink()
    zipped(files[:2], tmp_path, archive)
    (series,) = read_dicom_folder(archive).series
    assert len(series.files) == 2
    assert len([path for path in cache_folder("unpacked", archive).iterdir() if len(path.name) == 40]) == 2


def test_unpacking_goes_on_where_it_stopped(make_series, tmp_path, monkeypatch):
    archive = zipped(make_series(), tmp_path, tmp_path / "export.zip")
    opened: list[str] = []
    real = zipfile.ZipFile.open

    def counted(self, info, *rest):
        opened.append(info.filename)
        if len(opened) == 4:
            raise KeyboardInterrupt
        return real(self, info, *rest)

    monkeypatch.setattr(zipfile.ZipFile, "open", counted)
    with pytest.raises(KeyboardInterrupt):
        read_dicom_folder(archive)
    assert len(read_dicom_folder(archive).series[0].files) == 6
    assert len(opened) == 4 + 3


@pytest.mark.parametrize(
    ("name", "mode", "problem"),
    [("../../evil.dcm", 0, "out of the zip"), ("/etc/evil.dcm", 0, "out of the zip"), ("a\\..\\evil.dcm", 0, "out of"),
     ("C:/evil.dcm", 0, "out of the zip"), ("link.dcm", stat.S_IFLNK | 0o777, "a link"), ("in.zip", 0, "within a zip"),
     ("new\nline.dcm", 0, "control characters")],
)  # fmt: skip
def test_odd_members_are_refused_by_name_and_the_rest_is_read(make_series, tmp_path, name, mode, problem):
    (folder := tmp_path / "source").mkdir()
    archive = with_member(zipped(make_series(), tmp_path, folder / "export.zip"), name, mode=mode)
    before = {p for p in tmp_path.rglob("*") if "cache" not in p.parts}
    index = read_dicom_folder(folder)
    (fault,) = index.faults
    assert fault.where == f"{archive}/{name}" and problem in fault.got and len(index.series) == 1
    assert {p for p in tmp_path.rglob("*") if "cache" not in p.parts} == before
    assert not Path("/etc/evil.dcm").exists()


def test_a_name_that_a_zip_has_twice_is_refused(make_series, tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive = with_member(with_member(zipped(make_series(), tmp_path, tmp_path / "export.zip"), "a"), "a")
    (fault,) = read_dicom_folder(archive).faults
    assert "twice" in fault.got


def test_bombs_are_refused_by_name(make_series, tmp_path, monkeypatch):
    """At a hundredth of the real limit, so that the test need not pack 300 MiB."""
    monkeypatch.setattr(limits, "ROOM", 2_560_000)
    archive = with_member(zipped(make_series(), tmp_path, tmp_path / "one.zip"), "bomb.dcm", bytes(3_000_000))
    index = read_dicom_folder(archive)
    assert "bomb.dcm" in index.faults[0].where and "3000000 (a decompression bomb)" in index.faults[0].got
    assert len(index.series) == 1
    many = tmp_path / "many.zip"
    for n in range(4):
        with_member(many, f"part{n}", bytes(800_000))
    (fault,) = read_dicom_folder(many).faults
    assert fault.where == str(many) and "decompression bomb" in fault.got


def test_a_zip_that_lies_about_a_size_gives_no_more_than_it_stated(make_series, tmp_path):
    """The central directory says 1000 bytes where the stream holds 5 million."""
    archive = with_member(tmp_path / "liar.zip", "a.dcm", bytes(5_000_000))
    data = bytearray(archive.read_bytes())
    at = data.index(b"PK\1\2") + 24
    data[at : at + 4] = (1000).to_bytes(4, "little")
    archive.write_bytes(data)
    (fault,) = read_dicom_folder(archive).faults
    assert fault.where == str(archive) and "cannot be read" in fault.got
    assert all(path.stat().st_size <= 1000 for path in cache_folder("unpacked", archive).iterdir())


@pytest.mark.parametrize("damage", ["cut", "flipped", "encrypted"])
def test_damaged_and_encrypted_zips_are_refused_by_name(make_series, tmp_path, damage):
    (folder := tmp_path / "source").mkdir()
    archive = zipped(make_series(), tmp_path, folder / "export.zip")
    data = bytearray(archive.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[60] ^= 0xFF
    else:
        for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            at = -1
            while (at := data.find(mark, at + 1)) >= 0:
                data[at + offset] |= 1
    archive.write_bytes(data)
    index = read_dicom_folder(folder)
    assert not index.series
    if damage == "cut":  # no longer a zip: a file like others that are not DICOM
        assert index.passed_over == (archive,)
    else:
        assert all(fault.where.startswith(str(archive)) for fault in index.faults) and index.faults


def test_hidden_members_are_passed_over_as_in_a_folder(make_series, tmp_path):
    archive = with_member(zipped(make_series(), tmp_path, tmp_path / "export.zip"), "__MACOSX/scan/._1.dcm")
    archive = with_member(archive, ".git/x")
    index = read_dicom_folder(archive)
    assert not index.faults and not index.passed_over and len(index.series) == 1


# DICOMDIR -------------------------------------------------------------------------------------------------------------


def medium(make_slice, save, root: Path, lower: bool = False) -> list[Path]:
    """A DICOMDIR and three files, made by pydicom's own FileSet."""
    from pydicom.fileset import FileSet

    files = FileSet()
    for k in range(3):
        dataset = make_slice(
            k, StudyDate="20200101", StudyTime="120000", StudyID="1", SeriesNumber=1, AccessionNumber=""
        )
        files.add(save(dataset, root.parent / f"{k}.dcm"))
    files.write(root)
    written = sorted(path for path in root.rglob("*") if path.is_file() and path.name != "DICOMDIR")
    if lower:
        written = [path.rename(path.with_name(path.name.lower())) for path in written]
    return written


@pytest.mark.parametrize("lower", [False, True], ids=["names as listed", "names in small letters"])
def test_a_dicomdir_is_no_image_and_its_files_are_found(make_slice, save, tmp_path, lower):
    written = medium(make_slice, save, tmp_path / "cd", lower)
    index = read_dicom_folder(tmp_path / "cd")
    assert not index.faults and sorted(index.series[0].files) == sorted(written)
    assert index.passed_over == (tmp_path / "cd" / "DICOMDIR",)


def test_files_that_a_dicomdir_lists_and_that_are_missing_are_reported(make_slice, save, tmp_path):
    written = medium(make_slice, save, tmp_path / "disks" / "cd")
    written[-1].unlink()
    index = read_dicom_folder(tmp_path / "disks")
    (fault,) = [fault for fault in index.faults if "DICOMDIR" in fault.got]
    assert fault.where.endswith("cd/DICOMDIR") and "1 of 3 files" in fault.got
    assert written[-1].relative_to(tmp_path / "disks" / "cd").as_posix() in fault.got


def test_a_name_that_is_no_text_is_refused(make_slice, save, tmp_path):
    name = os.fsdecode(b"\xff\xfe.dcm")
    save(make_slice(0), tmp_path / name)
    save(make_slice(1), tmp_path / "good.dcm")
    index = read_dicom_folder(tmp_path)
    (fault,) = index.faults
    assert "not UTF-8" in fault.got and len(index.series) == 1
    assert str(fault).encode()
