from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.load import load_volume
from imgsynth.schema import DataConfig, PhantomConfig
from imgsynth.types import InputError


def faults_of(data: DataConfig) -> dict[str, str]:
    with pytest.raises(InputError) as caught:
        build_manifest(data)
    return {fault.where: str(fault) for fault in caught.value.faults}


@pytest.mark.parametrize("kind", ["dicom", "nifti", "images"])
def test_an_empty_folder(tmp_path: Path, kind: str) -> None:
    assert "no usable image" in faults_of(DataConfig(kind=kind, root=str(tmp_path)))[str(tmp_path)]


@pytest.mark.parametrize("kind", ["dicom", "nifti", "images", "npz", "medmnist"])
def test_a_root_that_is_not_there(tmp_path: Path, kind: str) -> None:
    assert "existing" in faults_of(DataConfig(kind=kind, root=str(tmp_path / "none")))["data.root"]


def test_all_faults_come_at_once(npz: Path) -> None:
    data = DataConfig(kind="npz", root=str(npz), unit="image", classes=["fine"], images_per_patient=3)
    found = faults_of(data)
    assert "though the source has patient ids" in found["data.unit"]
    assert "labels that are not declared: 1 (5)" in found["data.classes"]
    assert "expected CT, MR, DX or CR" in found["data.modality"]
    assert "at most 1" in found["data.images_per_patient"]


def test_labels_without_declared_classes_are_listed(npz: Path) -> None:
    found = faults_of(DataConfig(kind="npz", root=str(npz), modality="DX"))
    assert "0 (7), 1 (5)" in found["data.classes"]


def test_classes_without_labels(decathlon: Path) -> None:
    assert "data.label" in faults_of(DataConfig(kind="nifti", root=str(decathlon), classes=["a", "b"]))
    assert (
        "data.table" in faults_of(DataConfig(kind="nifti", root=str(decathlon), classes=["a"], label="g"))["data.label"]
    )


def test_more_images_asked_of_a_patient_than_any_has(npz: Path) -> None:
    data = DataConfig(kind="npz", root=str(npz), modality="DX", classes=["fine", "sick"], images_per_patient=3)
    assert "data.images_per_patient=2" in faults_of(data)["data.images_per_patient"]
    build_manifest(dataclasses.replace(data, images_per_patient=2))


def test_one_patient(decathlon: Path) -> None:
    for path in sorted((decathlon / "imagesTr").glob("case*"))[1:]:
        path.unlink()
    assert "one patient" in faults_of(DataConfig(kind="nifti", root=str(decathlon)))["data.root"]


def test_a_table_that_misses_patients(decathlon: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("id,label\n" + "\n".join(f"case_{n:03d},{'ab'[n % 2] if n else 'n/a'}" for n in range(6)))
    data = DataConfig(kind="nifti", root=str(decathlon), table=str(table), label="label", classes=["a", "b"])
    with pytest.raises(InputError) as caught:
        build_manifest(data)
    found = " ".join(fault.got for fault in caught.value.faults)
    assert "no row for 2 of 8 patients or images: case_006, case_007" in found
    assert "no label for 1 of 8 patients or images: case_000" in found


def test_a_table_with_other_faults(decathlon: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    data = DataConfig(kind="nifti", root=str(decathlon), table=str(table), label="label", classes=["a", "b"])
    rows = [f"case_{n:03d},a" for n in range(8)]
    table.write_text("id,label\n" + "\n".join([*rows, "case_001,b"]))
    assert "contradict each other: case_001" in str(faults_of(data))
    table.write_text("id,label\n" + "\n".join([*rows, "case_099,b"]))
    _, faults = build_manifest(data)
    assert ["1 rows without an image: case_099" in fault.got for fault in faults] == [True]
    table.write_text("id,verdict\n" + "\n".join(rows))
    assert "id, verdict" in faults_of(data)["data.label"]
    table.write_text("id,label\ncase_000\n")
    assert "another length" in str(faults_of(data))
    table.write_text("id,label\n")
    assert "no rows" in str(faults_of(data))


def test_npz_rows_and_table_rows_must_match(npz: Path, tmp_path: Path) -> None:
    table = tmp_path / "short.csv"
    table.write_text("patient_id,finding\n1,a\n2,b\n")
    data = DataConfig(kind="npz", root=str(npz), modality="DX", table=str(table), label="finding", classes=["a", "b"])
    assert "2 rows for 12 images" in str(faults_of(data))
    bare = dataclasses.replace(data, table=None)
    assert "images, labels, patient_ids" in faults_of(bare)["data.label"]
    assert "no array 'pixels'" in str(faults_of(dataclasses.replace(bare, label=None, images="pixels")))


def test_an_unreadable_file_among_good_ones_is_left_out_and_said(
    decathlon: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = decathlon / "imagesTr"
    whole = (folder / "case_000.nii.gz").read_bytes()
    (folder / "case_000.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "case_001.nii.gz").write_bytes(gzip.compress(b"no image at all"))
    image = nib.load(folder / "case_002.nii.gz")
    array = np.asarray(image.dataobj, dtype=np.float32).copy()
    array[1, 2, 3], array[0, 0, 0] = np.nan, np.inf
    nib.save(nib.Nifti1Image(array, image.affine), folder / "case_002.nii.gz")
    manifest, faults = build_manifest(DataConfig(kind="nifti", root=str(decathlon)))
    assert len(manifest.items) == 5
    assert sorted(Path(fault.where).name for fault in faults) == [f"case_{n:03d}.nii.gz" for n in range(3)]
    assert any("NaN" in fault.got for fault in faults)
    said = capsys.readouterr().err
    assert "left out or doubtful: 3" in said and "5 images of 5 patients" in said


def test_a_file_that_changed_or_went_after_the_manifest_was_made(decathlon: Path) -> None:
    manifest, _ = build_manifest(DataConfig(kind="nifti", root=str(decathlon)))
    (decathlon / "imagesTr" / "case_000.nii.gz").write_bytes((decathlon / "imagesTr" / "case_001.nii.gz").read_bytes())
    (decathlon / "imagesTr" / "case_002.nii.gz").unlink()
    with pytest.raises(InputError, match=r"case_000\.nii\.gz: got content that has changed"):
        load_volume(manifest, manifest.by_patient["case_000"][0])
    with pytest.raises(InputError, match=r"case_002\.nii\.gz: got no such file"):
        load_volume(manifest, manifest.by_patient["case_002"][0])


def test_the_source_and_the_configuration_may_not_contradict_each_other(decathlon: Path) -> None:
    assert (
        "MR, which the source states"
        in faults_of(DataConfig(kind="nifti", root=str(decathlon), modality="CT"))["data.modality"]
    )


def test_no_series_of_the_chosen_modality(phantoms: tuple[Path, PhantomConfig]) -> None:
    root, _ = phantoms
    with pytest.raises(InputError, match="no usable image"):
        build_manifest(DataConfig(kind="dicom", root=str(root), modality="MR"))


def test_the_same_image_under_two_patients_stops_and_under_one_does_not(decathlon: Path, tmp_path: Path) -> None:
    folder = decathlon / "imagesTr"
    (folder / "case_005.nii.gz").write_bytes((folder / "case_004.nii.gz").read_bytes())
    data = DataConfig(kind="nifti", root=str(decathlon))
    assert "more than one id: case_004 and case_005; expected" in faults_of(data)["patient ids"]
    by_image, faults = build_manifest(dataclasses.replace(data, unit="image"))
    assert (len(by_image.items), ["case_004 and case_005" in fault.got for fault in faults]) == (8, [True])
    table = tmp_path / "t.csv"
    table.write_text("case,patient\n" + "\n".join(f"case_{n:03d},P{n // 2}" for n in range(8)))
    manifest, faults = build_manifest(dataclasses.replace(data, table=str(table)))
    assert (len(manifest.by_patient["P2"]), faults) == (2, [])


@pytest.mark.parametrize(
    ("written", "alike"),
    [(["P1", "p1"], "P1 and p1"), (["007", "7"], "007 and 7"), (["S-01", "s-1"], "S-01 and s-1"),
     (["P1", "P\u200b1"], "P1 and P\u200b1")],
)  # fmt: skip
def test_ids_that_only_look_like_two_patients(npz: Path, tmp_path: Path, written: list[str], alike: str) -> None:
    path = tmp_path / "alike.npz"
    others = ["10", "100", "P10", "01-0", "0", "PP1", "Q1", "Q2", "Q3", "Q4"]
    np.savez(path, images=np.load(npz)["images"], patient_ids=np.array([*written, *others]))
    data = DataConfig(kind="npz", root=str(path), modality="DX")
    assert (
        f"1 groups of ids that differ only by letter case, blanks, leading zeros or invisible characters: {alike};"
        in (faults_of(data)["patient ids"])
    )
    np.savez(path, images=np.load(npz)["images"], patient_ids=np.array(["other", "another", *others]))
    assert len(build_manifest(data)[0].patients()) == 12


def test_a_pattern_that_matches_nothing_or_names_nothing(pictures: Path) -> None:
    data = DataConfig(kind="images", root=str(pictures), modality="DX", pattern="(?P<patient>patient)")
    assert "no path that matches" in faults_of(data)["data.pattern"]
    assert "a named group" in faults_of(dataclasses.replace(data, pattern="p(.)"))["data.pattern"]
    some = dataclasses.replace(data, pattern="normal/(?P<patient>p.)")
    manifest, faults = build_manifest(some)
    assert len(manifest.items) == 6
    assert any("6 of 12 paths that do not match" in fault.got for fault in faults)


def test_a_setting_that_nothing_could_heed_is_refused(decathlon: Path, npz: Path, tmp_path: Path) -> None:
    data = DataConfig(kind="nifti", root=str(decathlon), key="k", patient="p", label="l", site="s", sex="x", age="a")
    assert set(faults_of(data)) == {f"data.{name}" for name in ("key", "patient", "label", "site", "sex", "age")}
    table = tmp_path / "t.csv"
    table.write_text("file,x\n" + "\n".join(f"{n},1" for n in range(12)))
    tabled = DataConfig(kind="npz", root=str(npz), modality="DX", table=str(table), patient="nobody", label="nothing")
    assert set(faults_of(tabled)) == {"data.patient", "data.label"}
