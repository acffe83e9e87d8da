"""imgsynth reads imagesTr and labelsTr as their dataset.json says, and says where the two differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from imgsynth.cohort.build import build_manifest
from imgsynth.config_rules import range_faults
from imgsynth.schema import Config, DataConfig
from imgsynth.types import InputError

CASES = [f"case_{n:03d}" for n in range(8)]
LABELS = {str(n): f"label {n}" for n in range(200)}  # what the fixture's random masks hold


def describe(root: Path, **told: Any) -> None:
    (root / "dataset.json").write_text(json.dumps(told))


def ask(root: Path, **more: Any) -> DataConfig:
    return DataConfig(kind="nnunet", root=str(root), **more)


def listed(cases: list[str]) -> list[dict[str, str]]:
    return [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases]


def in_channels(root: Path, channels: int) -> None:
    for path in sorted((root / "imagesTr").glob("case*.nii.gz")):
        for number in range(channels):
            shutil.copy(path, path.with_name(path.name.replace(".nii", f"_{number:04d}.nii")))
        path.unlink()


def faults_of(data: DataConfig) -> list[str]:
    with pytest.raises(InputError) as caught:
        build_manifest(data)
    return [str(fault) for fault in caught.value.faults]


def test_a_decathlon_as_it_is_described(decathlon: Path) -> None:
    describe(decathlon, modality={"0": "MRI"}, labels=LABELS, numTraining=8, training=listed(CASES),
             test=["./imagesTs/case_100.nii.gz"])  # fmt: skip
    manifest, faults = build_manifest(ask(decathlon))
    assert (manifest.patients(), faults, manifest.ids, manifest.modality) == (CASES, [], "case", "MR")
    assert manifest.by_patient["case_004"][0].mask == "labelsTr/case_004.nii.gz"
    plain, _ = build_manifest(DataConfig(kind="nifti", root=str(decathlon)))
    assert (plain.items, plain.ids) == (manifest.items, "case")


@pytest.mark.parametrize("version", [1, 2])
def test_nnunet_of_both_versions(decathlon: Path, version: int) -> None:
    in_channels(decathlon, 1)
    if version == 1:
        describe(decathlon, modality={"0": "CT"}, labels=LABELS, numTraining=8, training=listed(CASES))
    else:
        names = {"background": 0, "whole": list(range(1, 199)), "core": [5, 6], "ignore": 199}
        describe(decathlon, channel_names={"0": "CT"}, labels=names, numTraining=8, file_ending=".nii.gz")
    manifest, faults = build_manifest(ask(decathlon))
    assert (manifest.patients(), faults, manifest.modality) == (CASES, [], "CT")
    item = manifest.by_patient["case_000"][0]
    assert (item.files, item.mask) == (("imagesTr/case_000_0000.nii.gz",), "labelsTr/case_000.nii.gz")


def test_several_channels_are_asked_back(decathlon: Path) -> None:
    in_channels(decathlon, 2)
    describe(decathlon, channel_names={"0": "CT", "1": "T2w"}, labels=LABELS, numTraining=8, file_ending=".nii.gz")
    (fault,) = faults_of(ask(decathlon))
    assert fault.startswith("data.channel: got nothing, and several channels: 0 CT, 1 T2w")
    for asked in ("1", "0001", "T2w"):
        manifest, faults = build_manifest(ask(decathlon, channel=asked))
        assert (manifest.modality, manifest.patients()) == ("MR", CASES)
        assert {item.files[0][-12:] for item in manifest.items} == {"_0001.nii.gz"}
        assert len(faults) == 8 and all(fault.code == "other_channel" and fault.files for fault in faults)
    assert build_manifest(ask(decathlon, channel="CT"))[0].modality == "CT"
    assert faults_of(ask(decathlon, channel="T2"))[0].endswith("Try: data.channel=T2w")
    (decathlon / "imagesTr" / "case_003_0001.nii.gz").unlink()
    assert "1 cases without channel 1: case_003" in faults_of(ask(decathlon, channel="1"))[0]
    (bad,) = [
        f for f in range_faults(Config(data=DataConfig(kind="dicom", root=".", channel="1"))) if "data" in f.where
    ]
    assert bad.where == "data.channel"


def test_channels_in_one_file_are_not_taken_for_one(decathlon: Path) -> None:
    describe(decathlon, modality={"0": "T2", "1": "ADC"}, labels=LABELS, numTraining=8, training=listed(CASES))
    assert "2 channels (0 T2, 1 ADC) in one file a case" in faults_of(ask(decathlon, channel="T2"))[0]


def test_cases_whose_names_end_in_four_digits_are_no_channels(decathlon: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        for path in sorted((decathlon / folder).glob("case*")):
            path.rename(path.with_name(path.name.replace("case_", "case_0")))
    (decathlon / "dataset.json").unlink()
    manifest, _ = build_manifest(DataConfig(kind="nifti", root=str(decathlon), modality="MR"))
    assert manifest.patients() == [f"case_{n:04d}" for n in range(8)]


def test_everything_that_is_missing_is_named_at_once(decathlon: Path) -> None:
    describe(decathlon, modality={"0": "MRI"}, labels=LABELS, numTraining=12, training=listed([*CASES, "gone", "lost"]))
    (decathlon / "labelsTr" / "case_001.nii.gz").unlink()
    faults = faults_of(ask(decathlon))
    assert any("2 listed images that are not in imagesTr: gone, lost" in fault for fault in faults)
    assert any("3 listed labels that are not in labelsTr: case_001, gone, lost" in fault for fault in faults)
    assert any("numTraining 12, and 10 cases listed" in fault for fault in faults)
    describe(decathlon, channel_names={"0": "MRI"}, labels=LABELS, numTraining=9, file_ending=".nii.gz")
    assert "numTraining 9, and 8 cases in imagesTr" in faults_of(ask(decathlon))[0]


def test_what_is_not_listed_is_left_out_by_name(decathlon: Path, write_nifti: Callable[..., Path]) -> None:
    describe(decathlon, modality={"0": "MRI"}, labels=LABELS, numTraining=6, training=listed(CASES[:6]))
    write_nifti(decathlon / "imagesTs" / "case_100.nii.gz", 100)
    manifest, faults = build_manifest(ask(decathlon))
    assert manifest.patients() == CASES[:6]
    left = {name for fault in faults for name in fault.files}
    assert left == {
        "imagesTs/case_100.nii.gz",
        *(f"{f}/{c}.nii.gz" for f in ("imagesTr", "labelsTr") for c in CASES[6:]),
    }


def test_masks_with_other_labels_or_elsewhere_are_left_out_by_name(
    decathlon: Path, write_nifti: Callable[..., Path]
) -> None:
    def mask(case: str, array: np.ndarray, affine: np.ndarray) -> None:
        nib.save(nib.Nifti1Image(array, affine), decathlon / "labelsTr" / f"{case}.nii.gz")

    affine = np.diag([-2.0, 2.0, 2.5, 1.0])
    good = np.zeros((10, 12, 9), np.uint8)
    good[2:5, 3:6, 4] = 2
    for case in CASES:
        mask(case, good, affine)
    describe(decathlon, channel_names={"0": "MRI"}, labels={"background": 0, "a": 1, "b": 2}, numTraining=8)
    assert build_manifest(ask(decathlon))[1] == []
    extra, moved, turned, half = good.copy(), affine.copy(), np.diag([2.0, 2.0, 2.5, 1.0]), good.astype(np.float32)
    extra[0, 0, 0] = 3
    moved[0, 3] = 0.5
    half[0, 0, 0] = 0.5
    mask("case_001", extra, affine)
    mask("case_002", good, moved)
    mask("case_003", good, turned)
    mask("case_004", good[:, :, :8], affine)
    mask("case_005", half, affine)
    (decathlon / "labelsTr" / "case_006.nii.gz").write_bytes(b"no mask")
    manifest, faults = build_manifest(ask(decathlon))
    assert manifest.patients() == CASES  # the images are sound
    kept = {patient for patient, items in manifest.by_patient.items() if items[0].mask}
    assert kept == {"case_000", "case_007"}
    told = {fault.where.split("/")[1][:8]: fault.got for fault in faults}
    assert told["case_001"].startswith("values 3 ") and told["case_005"].startswith("values 0.5 ")
    assert "0.5 mm from its image's" in told["case_002"] and "mm from" in told["case_003"]
    assert told["case_004"].startswith("(10, 12, 8) voxels") and "unreadable" in told["case_006"]
    assert {fault.code for fault in faults} == {"mask_left_out"}


def test_pictures_in_the_nnunet_layout(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for n in range(4):
        for folder, name, high in (("imagesTr", f"x{n}_0000", 256), ("labelsTr", f"x{n}", 2)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(random.integers(0, high, (20, 14)).astype(np.uint8)).save(tmp_path / folder / f"{name}.png")
    told = {"channel_names": {"0": "radiograph"}, "labels": {"background": 0, "lung": 1}, "numTraining": 4}
    describe(tmp_path, file_ending=".png", **told)
    manifest, faults = build_manifest(ask(tmp_path, modality="DX"))
    assert (manifest.patients(), faults, manifest.modality) == ([f"x{n}" for n in range(4)], [], "DX")
    assert [item.mask for item in manifest.items] == [f"labelsTr/x{n}.png" for n in range(4)]
    describe(tmp_path, file_ending=".nii.gz", **told)
    assert "numTraining 4, and 0 cases" in faults_of(ask(tmp_path, modality="DX"))[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "unreadable JSON"),
        ("[]", "a list"),
        ('{"labels": ["a"]}', "dataset.json, labels"),
        ('{"labels": {"a": 1.5}}', "dataset.json, labels"),
        ('{"numTraining": "many"}', "dataset.json, numTraining"),
        ('{"file_ending": "nii"}', "dataset.json, file_ending"),
        ('{"channel_names": ["CT"]}', "dataset.json, channel_names"),
        ('{"training": [{"picture": "a"}]}', "dataset.json, training"),
        ('{"training": ["imagesTr/a.nii", "other/a.nii.gz"]}', "dataset.json, training"),
        ('{"dataset": {}}', "data=table"),
    ],
    ids=str,
)
def test_a_dataset_json_that_is_none(decathlon: Path, content: str, expected: str) -> None:
    (decathlon / "dataset.json").write_text(content)
    assert expected in faults_of(ask(decathlon))[0]


def test_all_wrong_entries_at_once_and_no_dataset_json_at_all(decathlon: Path, tmp_path: Path) -> None:
    (decathlon / "dataset.json").write_text('{"labels": 1, "numTraining": null, "file_ending": 3}')
    assert len(faults_of(ask(decathlon))) == 3
    (decathlon / "dataset.json").unlink()
    assert "no such file" in faults_of(ask(decathlon))[0]
    assert "without imagesTr" in faults_of(ask(tmp_path / "Task99" / "labelsTr"))[0]


@pytest.mark.realdata
def test_msd_hippocampus_with_the_dataset_json_that_it_is_published_with(real_data: Path, tmp_path: Path) -> None:
    source, root = real_data / "msd_hippocampus", tmp_path / "Task04_Hippocampus"
    root.mkdir()
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (source / "imagesTr").glob("hippo*"))[:30]
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir()
        for case in cases:
            (root / folder / f"{case}.nii.gz").symlink_to(source / folder / f"{case}.nii.gz")
    told: dict[str, Any] = {"modality": {"0": "MRI"}, "numTraining": 30, "training": listed(cases)}
    describe(root, labels={"0": "background", "1": "Anterior", "2": "Posterior"}, **told)
    manifest, faults = build_manifest(ask(root))
    assert (len(manifest.items), faults, manifest.modality, manifest.ids) == (30, [], "MR", "case")
    assert all(item.mask for item in manifest.items)
    describe(root, labels={"0": "background", "1": "Anterior"}, **told)
    _, faults = build_manifest(ask(root))
    assert len(faults) == 30 and all(fault.got.startswith("values 2 ") for fault in faults)
