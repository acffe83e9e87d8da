from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.load import load_volume
from imgsynth.schema import DataConfig, PhantomConfig, PreprocessConfig, SplitsConfig
from imgsynth.types import InputError


def test_decathlon_cases_are_patients_and_masks_are_no_images(decathlon: Path) -> None:
    manifest, faults = build_manifest(DataConfig(kind="nifti", root=str(decathlon)))
    assert manifest.patients() == [f"case_{n:03d}" for n in range(8)]
    assert faults == []
    item = manifest.by_patient["case_003"][0]
    assert item.files == ("imagesTr/case_003.nii.gz",)
    assert item.mask == "labelsTr/case_003.nii.gz"
    assert (item.modality, item.shape, item.spacing) == ("MR", (10, 12, 9), (2.0, 2.0, 2.5))
    assert (item.orientation, item.dtype) == ("LAS", "int16")
    assert any("case ids" in note for note in manifest.notes)
    assert manifest.ids == "case"
    stored = np.asarray(nib.load(decathlon / item.files[0]).dataobj)
    np.testing.assert_array_equal(load_volume(manifest, item).array, stored)


@pytest.mark.parametrize("column", ["patient", "patient_id", "subject", "participant_id", "PatientID"])
def test_a_patient_column_wins_over_case_ids(decathlon: Path, tmp_path: Path, column: str) -> None:
    table, people = tmp_path / "t.csv", [f"P{n}" for n in range(4)]
    table.write_text(f"case,{column}\n" + "\n".join(f"case_{n:03d},P{n % 4}" for n in range(8)))
    data = DataConfig(kind="nifti", root=str(decathlon), table=str(table))
    for asked in (None, column):
        manifest, _ = build_manifest(dataclasses.replace(data, patient=asked))
        assert (manifest.patients(), manifest.ids, manifest.notes) == (people, "patient", ())
        assert [item.files[0] for item in manifest.by_patient["P1"]] == [f"imagesTr/case_00{n}.nii.gz" for n in (1, 5)]
        assert all(len({item.split for item in items}) == 1 for items in manifest.by_patient.values())
    table.write_text(f"case,{column}\n" + "\n".join(f"case_{n:03d},{'n/a' if n else 'P0'}" for n in range(8)))
    with pytest.raises(InputError, match=f"no {column} for 7 of 8"):
        build_manifest(data)


def test_names_of_cases_in_a_patient_column_say_nothing_of_persons(decathlon: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("patient,age\n" + "\n".join(f"case_{n:03d},{30 + n}" for n in range(8)))
    data = DataConfig(kind="nifti", root=str(decathlon), table=str(table))
    assert build_manifest(data)[0].ids == "case"
    assert build_manifest(dataclasses.replace(data, patient="patient"))[0].ids == "patient"  # a person vouches for it


def test_a_pattern_makes_patients_of_cases_only_where_it_names_all(decathlon: Path) -> None:
    data = DataConfig(kind="nifti", root=str(decathlon), pattern=r"case_00(?P<patient>\d)")
    assert build_manifest(data)[0].ids == "patient"
    some, _ = build_manifest(dataclasses.replace(data, pattern=r"case_00(?P<patient>[0-4])?"))
    assert some.ids == "case"


def test_ids_are_kept_in_one_unicode_form(npz: Path, decathlon: Path, tmp_path: Path) -> None:
    path = tmp_path / "forms.npz"
    written = ["Zo\u00eb", "Zoe\u0308", " \uff30\uff11\u00a0", "P1", *"abcdefgh"]
    np.savez(path, images=np.load(npz)["images"], patient_ids=np.array(written))
    manifest, _ = build_manifest(DataConfig(kind="npz", root=str(path), modality="DX"))
    assert sorted(manifest.patients()) == sorted(["P1", "Zo\u00eb", *"abcdefgh"])
    assert [len(manifest.by_patient[name]) for name in ("P1", "Zo\u00eb")] == [2, 2]
    table = tmp_path / "t.csv"
    wide = "\uff30"  # a full-width P
    table.write_text("case,who\n" + "\n".join(f"\uff43ase_{n:03d},{(wide, 'P')[n % 2]}{n // 2}" for n in range(8)))
    tabled, _ = build_manifest(DataConfig(kind="nifti", root=str(decathlon), table=str(table), patient="who"))
    assert tabled.patients() == [f"P{n}" for n in range(4)]


def test_decathlon_is_known_by_its_images_folder_too(decathlon: Path) -> None:
    whole, _ = build_manifest(DataConfig(kind="nifti", root=str(decathlon)))
    images, _ = build_manifest(DataConfig(kind="nifti", root=str(decathlon / "imagesTr")))
    assert (images.items, images.root, images.fingerprint) == (whole.items, whole.root, whole.fingerprint)


def test_plain_nifti_needs_ids_from_a_pattern_or_a_table(tmp_path: Path, write_nifti) -> None:
    root = tmp_path / "plain"
    for n in range(8):
        write_nifti(root / f"CASE{n // 2}-scan{n}.nii", n)
    write_nifti(root / "CASE0-scan0_seg.nii", 20, dtype=np.uint8)
    write_nifti(root / "masks" / "CASE1-scan2.nii", 21, dtype=np.uint8)
    data = DataConfig(kind="nifti", root=str(root), modality="MR")
    with pytest.raises(InputError, match="no patient id for 8 of 8"):
        build_manifest(data)
    manifest, _ = build_manifest(dataclasses.replace(data, pattern=r"(?P<patient>CASE\d)"))
    assert manifest.patients() == ["CASE0", "CASE1", "CASE2", "CASE3"]
    assert [item.mask for item in manifest.by_patient["CASE0"]] == ["CASE0-scan0_seg.nii", None]
    assert [item.mask for item in manifest.by_patient["CASE1"]] == ["masks/CASE1-scan2.nii", None]
    table = tmp_path / "t.csv"
    table.write_text("who;scan\n" + "\n".join(f"P{n % 4};CASE{n // 2}-scan{n}" for n in range(8)))
    by_table, _ = build_manifest(dataclasses.replace(data, table=str(table), patient="who"))
    assert by_table.by_patient["P1"][1].files == ("CASE2-scan5.nii",)
    by_image, _ = build_manifest(dataclasses.replace(data, unit="image"))
    assert len(by_image.patients()) == 8
    assert by_image.unit == "image"
    assert any("no patient ids" in note for note in by_image.notes)


def test_names_that_begin_with_a_subject_say_who_it_is(tmp_path: Path, write_nifti) -> None:
    root = tmp_path / "flat"
    for n in range(4):
        write_nifti(root / f"sub-{n:02d}_T1w.nii.gz", n)
    write_nifti(root / "sub-00_ses-2_T1w.nii.gz", 9)
    (root / "participants.tsv").write_text("participant_id\tsex\n" + "".join(f"sub-{n:02d}\tF\n" for n in range(4)))
    manifest, faults = build_manifest(DataConfig(kind="nifti", root=str(root)))
    assert (manifest.patients(), manifest.ids, faults) == ([f"sub-{n:02d}" for n in range(4)], "patient", [])
    assert [item.study for item in manifest.by_patient["sub-00"]] == ["ses-1", "ses-2"]
    assert {(item.sex, item.modality) for item in manifest.items} == {("F", "MR")}
    with pytest.raises(InputError, match=r"data\.channel"):
        build_manifest(DataConfig(kind="nifti", root=str(root), channel="1"))


def test_npz_arrays_and_table_agree(npz: Path) -> None:
    arrays, _ = build_manifest(DataConfig(kind="npz", root=str(npz), modality="DX", classes=["fine", "sick"]))
    assert arrays.patients() == [str(n) for n in range(100, 106)]
    assert arrays.patient_classes() == {"100": 0, "101": 1, "102": 1, "103": 0, "104": 1, "105": 1}
    table = str(npz.with_name("table.csv"))
    tabled, _ = build_manifest(
        DataConfig(kind="npz", root=str(npz), modality="DX", classes=["fine", "sick"], table=table, label="finding")
    )
    assert tabled.fingerprint == arrays.fingerprint
    assert {item.patient: item.sex for item in tabled.items} == {str(n): "MF"[n % 2] for n in range(100, 106)}
    assert tabled.by_patient["101"][0].age_band == "60-69"
    item = arrays.by_patient["104"][1]
    expected = np.load(npz)["images"][9]
    np.testing.assert_array_equal(load_volume(arrays, item).array[..., 0], expected.T)


def test_npz_with_a_table_by_row_number_in_any_order(npz: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.npz"
    np.savez(bare, images=np.load(npz)["images"])
    table = tmp_path / "rows.tsv"
    table.write_text("row\tpatient\n" + "\n".join(f"{n}\tp{n // 3}" for n in reversed(range(12))) + "\n")
    manifest, _ = build_manifest(DataConfig(kind="npz", root=str(bare), modality="DX", table=str(table), key="row"))
    assert [item.row for item in manifest.by_patient["p1"]] == [3, 4, 5]


def test_medmnist_parts_are_pooled_and_the_unit_must_be_the_image(medmnist: Path) -> None:
    data = DataConfig(kind="medmnist", root=str(medmnist), modality="DX", classes=["no", "yes"])
    with pytest.raises(InputError, match=r"data\.unit=image"):
        build_manifest(data)
    manifest, _ = build_manifest(dataclasses.replace(data, unit="image"))
    assert len(manifest.patients()) == 20
    assert manifest.class_counts() == [10, 10]
    assert any("pooled" in note for note in manifest.notes)
    item = next(item for item in manifest.items if item.array == "val_images" and item.row == 2)
    np.testing.assert_array_equal(load_volume(manifest, item).array[..., 0], np.load(medmnist)["val_images"][2].T)


def test_medmnist_keeps_its_official_parts_where_asked(medmnist: Path) -> None:
    data = DataConfig(kind="medmnist", root=str(medmnist), modality="DX", unit="image", classes=["no", "yes"],
                      splits=SplitsConfig(official=True))  # fmt: skip
    manifest, _ = build_manifest(data)
    parts = {"train": "train_images", "holdout": "val_images", "test": "test_images"}
    assert {(item.split, item.array) for item in manifest.items} == set(parts.items())
    assert [len(manifest.patients(split)) for split in ("train", "holdout", "test")] == [10, 4, 6]
    assert any("kept as train, holdout and test" in note for note in manifest.notes)
    pooled, _ = build_manifest(dataclasses.replace(data, splits=SplitsConfig()))
    assert pooled.fingerprint == manifest.fingerprint  # one cohort, one account, however it is split


def test_an_official_part_may_be_empty(medmnist: Path) -> None:
    arrays = dict(np.load(medmnist))
    arrays |= {"val_images": arrays["val_images"][:0], "val_labels": arrays["val_labels"][:0]}
    np.savez(medmnist, **arrays)
    data = DataConfig(kind="medmnist", root=str(medmnist), modality="DX", unit="image", classes=["no", "yes"],
                      splits=SplitsConfig(official=True))  # fmt: skip
    manifest, _ = build_manifest(data)
    assert [len(manifest.patients(split)) for split in ("train", "holdout", "test")] == [10, 0, 6]


def test_medmnist_in_3d_comes_to_the_grid_of_a_volume(tmp_path: Path) -> None:
    random, arrays = np.random.default_rng(5), {}
    for part, count in (("train", 6), ("val", 2), ("test", 2)):
        arrays[f"{part}_images"] = random.integers(0, 256, (count, 12, 28, 28)).astype(np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    np.savez(tmp_path / "organ3d.npz", **arrays)
    data = DataConfig(
        kind="medmnist", root=str(tmp_path / "organ3d.npz"), modality="CT", unit="image", classes=["a", "b"]
    )
    manifest, _ = build_manifest(data)
    assert {(item.shape, item.orientation) for item in manifest.items} == {((28, 28, 12), "LPS")}
    assert len(manifest.items) == 10
    item = next(item for item in manifest.items if item.array == "test_images" and item.row == 1)
    np.testing.assert_array_equal(load_volume(manifest, item).array, arrays["test_images"][1].T)
    grid = PreprocessConfig(shape=[28, 28, 12], fit="resize", intensity="minmax", low=0.0, high=255.0)
    x = PatientDataset(manifest, "train", grid)[0][0]
    assert tuple(x.shape) == (1, 1, 28, 28, 12) and float(x.min()) == -1 and float(x.max()) == 1


@pytest.mark.parametrize("shape", [(28, 28, 3), (28, 28, 28, 3), (28,)], ids=str)
def test_medmnist_in_colour_is_refused_once(tmp_path: Path, shape: tuple[int, ...]) -> None:
    arrays = {f"{part}_images": np.zeros((4, *shape), np.uint8) for part in ("train", "val", "test")}
    labels = {f"{part}_labels": np.zeros((4, 1), np.uint8) for part in ("train", "val", "test")}
    np.savez(tmp_path / "path.npz", **arrays, **labels)
    with pytest.raises(InputError, match=r"train_images: got shape .*gray images") as caught:
        build_manifest(DataConfig(kind="medmnist", root=str(tmp_path / "path.npz"), modality="DX", unit="image"))
    assert len(caught.value.faults) == 1


def test_pictures_are_labelled_by_folder_and_identified_by_pattern(pictures: Path) -> None:
    data = DataConfig(kind="images", root=str(pictures), modality="DX", pattern=r"(?P<patient>p\d+)_",
                      classes=["normal", "lesion"], images_per_patient=2)  # fmt: skip
    manifest, faults = build_manifest(data)
    assert manifest.patient_classes() == {f"p{n}": int(n >= 3) for n in range(6)}
    assert faults == []
    item = manifest.by_patient["p4"][1]
    assert (item.files, item.shape) == (("lesion/p4_1.png",), (14, 20, 1))
    pixels = np.asarray(Image.open(pictures / "lesion" / "p4_1.png"))
    np.testing.assert_array_equal(load_volume(manifest, item).array[..., 0].T, pixels)


def test_folders_that_are_no_classes_are_reported(pictures: Path) -> None:
    _, faults = build_manifest(
        DataConfig(kind="images", root=str(pictures), modality="DX", pattern=r"(?P<patient>p\d+)_")
    )
    assert [fault.got for fault in faults] == ["sub-folders lesion, normal, not used as labels"]


def test_labels_from_the_pattern(pictures: Path) -> None:
    data = DataConfig(kind="images", root=str(pictures), modality="DX", classes=["0", "1"], images_per_patient=2,
                      pattern=r"(?P<patient>p\d+)_(?P<label>\d)")  # fmt: skip
    manifest, _ = build_manifest(data)
    assert {item.label for item in manifest.by_patient["p0"]} == {"0", "1"}
    assert manifest.class_counts() == [0, 6]


def test_phantoms_are_read_like_a_clinical_folder(phantoms: tuple[Path, PhantomConfig]) -> None:
    root, config = phantoms
    manifest, faults = build_manifest(DataConfig(kind="phantom", root=str(root), phantom=config))
    with (root / "labels.csv").open() as file:
        rows = {row["patient"]: row for row in csv.DictReader(file)}
    assert manifest.kind == "phantom"
    assert manifest.patients() == sorted(rows)
    assert {p: manifest.classes[c] for p, c in manifest.patient_classes().items()} == {
        p: r["label"] for p, r in rows.items()
    }
    for item in manifest.items:
        assert (item.modality, item.shape, item.sex) == ("CT", (8, 8, 8), rows[item.patient]["sex"])
        assert item.site == rows[item.patient]["site"]
    assert len(manifest.items) > len(rows)
    assert all("LOCALIZER" in fault.got or "again" in fault.got for fault in faults)
    volume = load_volume(manifest, manifest.items[0])
    assert volume.unit == "HU"
    assert volume.array.min() < -900 and volume.array.max() > 0


def test_phantoms_can_be_told_apart_by_sex_instead_of_lesions(phantoms: tuple[Path, PhantomConfig]) -> None:
    root, config = phantoms
    data = DataConfig(kind="phantom", root=str(root), phantom=config, label="sex")
    manifest, _ = build_manifest(data)
    assert manifest.classes == ("F", "M") and {item.label for item in manifest.items} == {"F", "M"}
    assert all(item.label == item.sex for item in manifest.items)


def test_all_that_phantoms_do_not_take_is_told_at_once_before_any_is_made(tmp_path: Path) -> None:
    theirs = dict.fromkeys(("table", "key", "patient", "site", "sex", "age", "pattern"), "x")
    data = DataConfig(kind="phantom", root=str(tmp_path / "phantoms"), label="age", **theirs)
    with pytest.raises(InputError) as refused:
        build_manifest(data)
    assert [fault.where for fault in refused.value.faults] == [*(f"data.{name}" for name in theirs), "data.label"]
    for label, classes in (("site", None), ("sex", ["normal", "lesion"]), (None, ["F", "M"])):
        data = DataConfig(kind="phantom", root=str(tmp_path / "phantoms"), label=label, classes=classes)
        with pytest.raises(InputError, match=r"data\.classes=\["):
            build_manifest(data)
    assert not (tmp_path / "phantoms").exists()


def test_the_order_of_phantoms_classes_is_the_users(phantoms: tuple[Path, PhantomConfig]) -> None:
    root, config = phantoms
    data = DataConfig(kind="phantom", root=str(root), phantom=config, label="sex", classes=["M", "F"])
    assert build_manifest(data)[0].classes == ("M", "F")


def test_phantoms_go_to_the_users_cache_where_no_root_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = DataConfig(phantom=PhantomConfig(patients=4, size=8))
    manifest, _ = build_manifest(data)
    assert Path(manifest.root).parent == tmp_path / "imgsynth"
    assert Path(manifest.root).name.startswith("phantom-")
    again, _ = build_manifest(data)
    assert again == manifest
    other, _ = build_manifest(DataConfig(phantom=PhantomConfig(patients=4, size=8, seed=1)))
    assert other.root != manifest.root


def test_header_facts_of_dicom(phantoms: tuple[Path, PhantomConfig]) -> None:
    root, _ = phantoms
    manifest, _ = build_manifest(DataConfig(kind="dicom", root=str(root), label="PatientSex", classes=["F", "M"]))
    assert all(item.label == item.sex and item.age_band for item in manifest.items)
    assert all(item.site for item in manifest.items)


def test_one_voxel_changes_the_fingerprint_and_a_renamed_file_does_not(decathlon: Path) -> None:
    data = DataConfig(kind="nifti", root=str(decathlon))
    before = build_manifest(data)[0].fingerprint
    path = decathlon / "imagesTr" / "case_002.nii.gz"
    image = nib.load(path)
    array = np.asarray(image.dataobj).copy()
    array[3, 4, 5] += 1
    nib.save(nib.Nifti1Image(array, image.affine, image.header), path)
    assert build_manifest(data)[0].fingerprint != before
