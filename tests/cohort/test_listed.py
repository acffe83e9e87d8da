"""A table that names images: DICOM series, NIfTI files and pictures; what it may not name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.load import load_volume
from imgsynth.cohort.phantom import make_phantoms
from imgsynth.config_rules import range_faults
from imgsynth.schema import Config, DataConfig, PhantomConfig
from imgsynth.types import InputError


@pytest.fixture(scope="session")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Orderly phantoms: root/<patient>/study-1/IM0001.dcm …"""
    config = PhantomConfig(patients=4, size=8, extra_studies=0.0, traps=False)
    return make_phantoms(tmp_path_factory.mktemp("listed") / "cohort", config)


@pytest.fixture
def scans(tmp_path: Path, write_nifti: Callable[..., Path]) -> Path:
    root = tmp_path / "scans"
    for n in range(6):
        write_nifti(root / "deep" / f"s{n}" / "image.nii.gz", n)
    return root


def ask(root: Path, table: Path, **more: object) -> DataConfig:
    return DataConfig(kind="table", root=str(root), table=str(table), **more)  # type: ignore[arg-type]


def write(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def faults_of(data: DataConfig) -> list[str]:
    with pytest.raises(InputError) as caught:
        build_manifest(data)
    return [str(fault) for fault in caught.value.faults]


def test_files_and_what_the_table_says_of_them(scans: Path, tmp_path: Path) -> None:
    rows = [f"./deep/s{n}/image.nii.gz,P{n // 2},{'ill' if n > 3 else 'well'},F,{30 + n},north" for n in range(5)]
    table = write(tmp_path / "t.csv", "path,patient_id,finding,sex,age,hospital", *rows)
    data = ask(scans, table, modality="MR", label="finding", classes=["well", "ill"], site="hospital")
    manifest, faults = build_manifest(data)
    assert (manifest.patients(), manifest.ids, manifest.kind) == (["P0", "P1", "P2"], "patient", "table")
    assert manifest.patient_classes() == {"P0": 0, "P1": 0, "P2": 1}
    assert {(i.sex, i.age_band, i.site) for i in manifest.items} == {("F", "30-39", "north")}
    assert {item.files[0] for item in manifest.items} == {f"deep/s{n}/image.nii.gz" for n in range(5)}  # not s5
    assert faults == []
    assert load_volume(manifest, manifest.items[0]).array.shape == (10, 12, 9)
    other = write(tmp_path / "t.tsv", "where\tpatient_id", *(f"deep/s{n}/image.nii.gz\tP{n}" for n in range(3)))
    assert len(build_manifest(ask(scans, other, modality="MR", key="where"))[0].items) == 3
    assert "paths below data.root: where, patient_id" in faults_of(ask(scans, other, modality="MR"))[0]


def test_a_row_for_each_dicom_series(series: Path, tmp_path: Path) -> None:
    plain, _ = build_manifest(DataConfig(kind="dicom", root=str(series)))
    folders = sorted({str(Path(item.files[0]).parent) for item in plain.items})
    table = write(tmp_path / "t.csv", "path,patient,label", *(f"{f},N{k},{k % 2}" for k, f in enumerate(folders)))
    manifest, faults = build_manifest(ask(series, table, classes=["a", "b"]))
    assert (manifest.patients(), manifest.modality, faults) == (["N0", "N1", "N2", "N3"], "CT", [])
    assert {(i.files, i.digest, i.affine, i.series) for i in manifest.items} == {
        (i.files, i.digest, i.affine, i.series) for i in plain.items
    }
    same = next(item for item in plain.items if item.digest == manifest.by_patient["N0"][0].digest)
    read = load_volume(manifest, manifest.by_patient["N0"][0]).array
    np.testing.assert_array_equal(read, load_volume(plain, same).array)
    bare = write(tmp_path / "bare.csv", "path", *folders)
    assert build_manifest(ask(series, bare))[0].patients() == plain.patients()  # then the headers say whose it is


def test_rows_that_are_not_one_series(series: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(series, root)
    patients = sorted(path.name for path in root.iterdir() if path.is_dir())
    two = root / "two"
    two.mkdir()
    for name in patients[:2]:
        (root / name).rename(two / name)
    (root / "empty").mkdir()
    (root / "notes.txt").write_text("no image")
    table = write(tmp_path / "t.csv", "path", *patients[2:], "two", "empty", "notes.txt")
    faults = faults_of(ask(root, table))
    assert sum("2 series of images: CT" in fault and "t.csv, two" in fault for fault in faults) == 1
    assert [fault for fault in faults if "t.csv, empty: got 0 series" in fault]
    assert [fault for fault in faults if "t.csv, notes.txt: got 0 series" in fault]


def test_one_file_of_dicom_is_a_row_too_and_kinds_may_be_mixed(series: Path, tmp_path: Path) -> None:
    root = tmp_path / "mixed"
    random = np.random.default_rng(0)
    for n in range(2):
        (root / "png").mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 14)).astype(np.uint8)).save(root / "png" / f"{n}.png")
        slices = sorted((series / sorted(p.name for p in series.iterdir() if p.is_dir())[n]).rglob("*.dcm"))
        dataset = pydicom.dcmread(slices[0])
        dataset.Modality, dataset.SOPClassUID = "CR", pydicom.uid.ComputedRadiographyImageStorage
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.save_as(root / f"radiograph{n}")
    rows = ["png/0.png,a", "png/1.png,b", "radiograph0,c", "radiograph1,d"]
    manifest, _ = build_manifest(ask(root, write(tmp_path / "t.csv", "file,patient", *rows), modality="CR"))
    assert (manifest.patients(), manifest.modality) == (["a", "b", "c", "d"], "CR")
    assert [load_volume(manifest, items[0]).modality for items in manifest.by_patient.values()] == ["CR"] * 4


def test_paths_that_leave_the_root(scans: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.nii.gz"
    shutil.copy(scans / "deep" / "s0" / "image.nii.gz", outside)
    (scans / "link.nii.gz").symlink_to(outside)
    (scans / "up").symlink_to(tmp_path)
    (scans / "within").symlink_to(scans / "deep" / "s1")
    ways = ["../outside.nii.gz", str(outside), "deep/../../outside.nii.gz", "link.nii.gz", "up/outside.nii.gz"]
    table = write(
        tmp_path / "t.csv", "path,patient", *(f"{way},p{n}" for n, way in enumerate(ways)), "within/image.nii.gz,q"
    )
    (fault,) = faults_of(ask(scans, table, modality="MR"))
    assert f"5 that lead out of data.root: {', '.join(ways)};" in fault


def test_all_that_is_wrong_with_the_paths_at_once(scans: Path, tmp_path: Path) -> None:
    rows = ["deep/s0/image.nii.gz,a", "./deep/s0//image.nii.gz,b", ",c", "gone.nii.gz,d", "deep/lost.nii.gz,e",
            "deep/s1,f", "deep/s1/image.nii.gz,g", "../x,h"]  # fmt: skip
    faults = "\n".join(faults_of(ask(scans, write(tmp_path / "t.csv", "path,patient", *rows), modality="MR")))
    assert "2 that are not there" in faults and "gone.nii.gz, deep/lost.nii.gz" in faults
    assert "1 without a path: row 4" in faults
    assert "1 in more than one row: deep/s0/image.nii.gz" in faults
    assert "1 inside the folder of another row: deep/s1/image.nii.gz" in faults
    assert "1 that lead out of data.root: ../x" in faults


def test_images_that_cannot_be_read_and_persons_under_two_ids(scans: Path, tmp_path: Path) -> None:
    rows = [f"deep/s{n}/image.nii.gz,P{n}" for n in range(6)]
    table = write(tmp_path / "t.csv", "path,patient", *rows)
    (scans / "deep" / "s5" / "image.nii.gz").write_bytes(b"no image")
    manifest, faults = build_manifest(ask(scans, table, modality="MR"))
    assert manifest.patients() == [f"P{n}" for n in range(5)]
    assert any("unreadable" in f.got and f.files == ("deep/s5/image.nii.gz",) for f in faults)
    assert any("rows without an image" in f.got or "1 rows without" in f.got for f in faults)
    shutil.copy(scans / "deep" / "s0" / "image.nii.gz", scans / "deep" / "s1" / "image.nii.gz")
    assert "occur under more than one id: P0 and P1" in faults_of(ask(scans, table, modality="MR"))[0]


def test_tables_that_are_none_and_the_door(scans: Path, tmp_path: Path) -> None:
    twice = write(tmp_path / "t.csv", "path,patient,patient", "deep/s0/image.nii.gz,a,b")
    assert "columns patient more than once" in faults_of(ask(scans, twice, modality="MR"))[0]
    data = DataConfig(kind="table", root=str(scans))
    assert "data.table" in faults_of(data)[0]
    assert "data.table" in [fault.where for fault in range_faults(Config(data=data))]
    none = write(tmp_path / "none.csv", "path,patient", "deep/s0/image.nii.gz,")
    assert "no patient" in faults_of(ask(scans, none, modality="MR"))[0]
