from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgsynth.cohort.build import build_manifest, manifest_of, survey_source
from imgsynth.cohort.inspect import inspect_cohort, print_inspection
from imgsynth.cohort.look import Look
from imgsynth.cohort.preflight import preflight
from imgsynth.schema import DataConfig, PhantomConfig, PreprocessConfig

MR = PreprocessConfig(shape=[16, 16, 16], fit="resize", intensity="percentile", low=0.0, high=1000.0)


def inspected(data: DataConfig, preprocess: PreprocessConfig) -> dict[str, Any]:
    survey = survey_source(data)
    return inspect_cohort(manifest_of(survey), preflight(survey).looks, preprocess)


def test_what_is_counted(bids: Path) -> None:
    found = inspected(DataConfig(kind="bids", root=str(bids), label="group", classes=["well", "ill"]), MR)
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
    assert found["memory_mib"]["preprocessed"] == round(7 * 16**3 * 4 / 2**20, 1)
    stored = found["intensities"][0]
    assert stored["min"] <= stored["p0.5"] <= stored["median"] <= stored["p99.5"] <= stored["max"] <= 200


def test_a_cohort_is_shown(phantoms: tuple[Path, PhantomConfig], capsys: pytest.CaptureFixture) -> None:
    root, config = phantoms
    grid = PreprocessConfig(shape=[8, 8, 8], spacing=[48.0] * 3, low=-1000, high=600)
    print_inspection(inspected(DataConfig(kind="phantom", root=str(root), phantom=config), grid))
    shown = capsys.readouterr().out
    for expected in ("lesion", "patients", "preprocess.spacing=", "10"):
        assert expected in shown


def test_cropped_images_are_counted_along_the_grid_s_axes(tmp_path: Path, write_nifti) -> None:
    for n in range(4):  # 40 mm along left-right, 48 along front-back, 50 along head-feet
        write_nifti(tmp_path / f"p{n}.nii", n, shape=(20, 24, 20))
    manifest, _ = build_manifest(DataConfig(kind="nifti", root=str(tmp_path), modality="MR", pattern="(?P<patient>p.)"))

    def cropped(shape: list[int], orientation: str = "RAS") -> int:
        grid = PreprocessConfig(shape=shape, spacing=[1.0] * 3, orientation=orientation)
        return inspect_cohort(manifest, [Look()] * 4, grid)["grid"]["images_cropped"]

    assert cropped([40, 48, 50]) == 0
    assert cropped([40, 43, 50]) == 4
    assert cropped([50, 48, 40]) == 4
    assert cropped([50, 48, 40], "SAR") == 0


def test_suggestions_hold_the_images(decathlon: Path) -> None:
    data = DataConfig(kind="nifti", root=str(decathlon))
    suggested = dict(entry.split("=", 1) for entry in inspected(data, MR)["suggested"])
    room = np.array(json.loads(suggested["preprocess.shape"])) * json.loads(suggested["preprocess.spacing"])
    assert (room >= np.array([20.0, 24.0, 22.5])).all()
    assert suggested["preprocess.intensity"] == "percentile"
    flat = PreprocessConfig(shape=[16, 16], fit="resize")
    again = dict(entry.split("=", 1) for entry in inspected(data, flat)["suggested"])
    assert again["preprocess.shape"] == "[32,32,32]"  # volumes need three axes, whatever was declared


def test_an_image_that_went_away_is_a_finding(decathlon: Path) -> None:
    survey = survey_source(DataConfig(kind="nifti", root=str(decathlon)))
    (decathlon / "imagesTr" / "case_000.nii.gz").unlink()
    found = preflight(survey)
    assert found.codes("error") == {"broken_pixels"}
    shown = inspect_cohort(manifest_of(survey), found.looks, MR)
    assert len(shown["intensities"]) == 7 and "case_000" not in str(shown["intensities"])
