from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.inspect import inspect_cohort, print_inspection
from imgsynth.schema import DataConfig, PhantomConfig, PreprocessConfig

MR = PreprocessConfig(shape=[16, 16, 16], fit="resize", intensity="percentile", low=0.0, high=1000.0)


def test_what_is_counted(bids: Path) -> None:
    manifest, faults = build_manifest(DataConfig(kind="bids", root=str(bids), label="group", classes=["well", "ill"]))
    found = inspect_cohort(manifest, faults, MR)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["patients"], found["studies"], found["images"], found["masks"]) == (6, 7, 7, 1)
    assert found["images_per_patient"] == {"1": 5, "2": 1}
    assert found["sex"] == {"F": 3, "M": 3}
    assert found["age_bands"]["90+"] == 1 and sum(found["age_bands"].values()) == 6
    assert found["sites"] == {}
    assert {name: sum(row.values()) for name, row in found["classes"].items()} == {"well": 3, "ill": 3}
    assert sum(entry["patients"] for entry in found["splits"].values()) == 6
    assert found["orientations"] == {"LAS": 7}
    assert found["dtypes"] == {"int16": 7}
    assert found["shapes"]["median"] == [10, 12, 9]
    assert [group["count"] for group in found["faults"]] == [1]
    assert found["memory_mib"]["preprocessed"] == round(7 * 16**3 * 4 / 2**20, 1)
    stored = found["intensities"][0]
    assert stored["min"] <= stored["p0.5"] <= stored["median"] <= stored["p99.5"] <= stored["max"] <= 200


def test_faults_are_grouped_and_shown(phantoms: tuple[Path, PhantomConfig], capsys: pytest.CaptureFixture) -> None:
    root, config = phantoms
    manifest, faults = build_manifest(DataConfig(kind="phantom", root=str(root), phantom=config))
    found = inspect_cohort(manifest, faults, PreprocessConfig(shape=[8, 8, 8], spacing=[48.0] * 3, low=-1000, high=600))
    assert sum(group["count"] for group in found["faults"]) == len(faults)
    assert len(found["faults"]) < len(faults)
    print_inspection(found)
    shown = capsys.readouterr().out
    for expected in ("lesion", "patients", "LOCALIZER", "preprocess.spacing=", "10"):
        assert expected in shown


def test_cropped_images_are_counted_along_the_grid_s_axes(tmp_path: Path, write_nifti) -> None:
    for n in range(4):  # 40 mm along left-right, 48 along front-back, 50 along head-feet
        write_nifti(tmp_path / f"p{n}.nii", n, shape=(20, 24, 20))
    manifest, _ = build_manifest(DataConfig(kind="nifti", root=str(tmp_path), modality="MR", pattern="(?P<patient>p.)"))

    def cropped(shape: list[int], orientation: str = "RAS") -> int:
        grid = PreprocessConfig(shape=shape, spacing=[1.0] * 3, orientation=orientation)
        return inspect_cohort(manifest, [], grid)["grid"]["images_cropped"]

    assert cropped([40, 48, 50]) == 0
    assert cropped([40, 43, 50]) == 4
    assert cropped([50, 48, 40]) == 4
    assert cropped([50, 48, 40], "SAR") == 0


def test_suggestions_hold_the_images(decathlon: Path) -> None:
    manifest, _ = build_manifest(DataConfig(kind="nifti", root=str(decathlon)))
    suggested = dict(entry.split("=", 1) for entry in inspect_cohort(manifest, [], MR)["suggested"])
    room = np.array(json.loads(suggested["preprocess.shape"])) * json.loads(suggested["preprocess.spacing"])
    assert (room >= np.array([20.0, 24.0, 22.5])).all()
    assert suggested["preprocess.intensity"] == "percentile"
    flat = PreprocessConfig(shape=[16, 16], fit="resize")
    again = dict(entry.split("=", 1) for entry in inspect_cohort(manifest, [], flat)["suggested"])
    assert again["preprocess.shape"] == "[32,32,32]"  # volumes need three axes, whatever was declared


def test_an_image_that_went_away_is_a_fault_of_the_inspection(decathlon: Path) -> None:
    manifest, _ = build_manifest(DataConfig(kind="nifti", root=str(decathlon)))
    (decathlon / "imagesTr" / "case_000.nii.gz").unlink()
    found = inspect_cohort(manifest, [], MR)
    assert [group["got"] for group in found["faults"]] == ["no such file"]
