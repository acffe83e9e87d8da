"""What `imgsynth inspect` leaves behind: a page that needs nothing else, and the same for programs."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from imgsynth import config, pipeline
from imgsynth.cohort import look_store
from imgsynth.cohort.build import survey_source
from imgsynth.cohort.look import look_at
from imgsynth.cohort.preflight import preflight, print_preflight
from imgsynth.report.inspection import write_inspection
from imgsynth.schema import DataConfig
from imgsynth.types import CheckFailed, InputError


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten images of five patients; the fourth is the first again, a name is one for a page to escape."""
    images = np.random.default_rng(0).normal(100, 20, (10, 24, 20)).astype(np.float32)
    images[3] = images[0]
    owners = np.array(["<b>p0", "<b>p0", "p1", "p1", "p2", "p2", "p3", "p3", "p4", "p4"])
    np.savez(tmp_path / "images.npz", images=images, patient_ids=owners)
    return tmp_path / "images.npz"


def overrides(root: Path, output: Path, *more: str) -> list[str]:
    return ["data=npz", f"data.root={root}", "data.modality=DX", "preprocess.shape=[16,16]", f"output={output}", *more]


def test_the_page_stands_alone_and_says_that_it_is_local(pictures: Path, tmp_path: Path) -> None:
    survey = survey_source(DataConfig(kind="npz", root=str(pictures), modality="DX"))
    found = preflight(survey)
    write_inspection(tmp_path / "out", {"usable": False, "kind": "npz", "root": "x", "modality": "DX"}, found,
                     survey.found.scans)  # fmt: skip
    page = (tmp_path / "out" / "inspect.html").read_text()
    assert page.count("LOCAL ONLY") >= 3
    assert "<script" not in page and not re.search(r"(src|href)=\"(?!data:image/png|#)", page)
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/png;base64,") == 10
    assert "&lt;b&gt;p0" in page and "<b>p0" not in page.replace("<b><b>", "")
    assert "image_two_patients" in page and found.codes("error") == {"image_two_patients"}
    facts = json.loads((tmp_path / "out" / "inspect.json").read_text())
    assert facts["files"] == {"read": 10, "used": 10, "excluded": 0}
    (one,) = (entry for entry in facts["findings"] if entry["severity"] == "error")
    assert one["count"] == 1 and "[0] and images.npz[images][3]" in one["examples"][0]["where"]


def test_errors_that_training_would_not_see_end_the_inspection_badly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "_propose", lambda *given: None)
    random = np.random.default_rng(0)
    images = [random.integers(1, 99, (8, 8, 8)).astype(np.int16) for _ in range(4)]
    for n, image in enumerate([*images, images[0].astype(np.float64)]):  # the last: other bytes, the first's pixels
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / f"p{n}.nii")
    given = ["data=nifti", f"data.root={tmp_path}", "data.modality=MR", "data.pattern='(?P<patient>p[0-9])'"]
    checked = config.from_overrides("inspect", [*given, f"output={tmp_path / 'o'}"])
    with pytest.raises(CheckFailed, match="The same pixels under two ids"):
        pipeline.inspect(checked)
    assert json.loads((tmp_path / "o" / "inspect.json").read_text())["usable"] is True
    assert "image_two_patients" in capsys.readouterr().out


def test_an_unusable_cohort_is_reported_all_the_same(pictures: Path, tmp_path: Path) -> None:
    images = np.load(pictures)["images"]
    images[7, 0, 0] = np.nan
    np.savez(pictures, images=images, patient_ids=np.array(["P1", "p1", *map(str, range(2, 10))]))
    checked = config.from_overrides("inspect", overrides(pictures, tmp_path / "o"))
    with pytest.raises(InputError, match="P1 and p1"):
        pipeline.inspect(checked)
    facts = json.loads((tmp_path / "o" / "inspect.json").read_text())
    codes = {one["code"] for one in facts["findings"]}
    assert facts["usable"] is False and {"lookalike_ids", "image_two_patients", "unreadable"} <= codes
    with (tmp_path / "o" / "excluded.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["file"], row["code"]) == ("images.npz[images][7]", "unreadable")
    assert facts["files"] == {"read": 10, "used": 9, "excluded": 1}


def test_images_that_did_not_change_are_not_read_again(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    survey, store = survey_source(DataConfig(kind="npz", root=str(pictures), modality="DX")), tmp_path / "looks.jsonl"
    first = preflight(survey, store)
    seen: list[str] = []
    monkeypatch.setattr(
        "imgsynth.cohort.preflight.look_at", lambda *given: (seen.append(given[1].names[0]), look_at(*given))[1]
    )
    assert preflight(survey, store) == first and seen == []
    survey.found.scans[4].digest = "another"
    assert preflight(survey, store).findings == first.findings and seen == ["images.npz[images][4]"]
    monkeypatch.setattr(look_store, "_header", lambda: "of another version")
    preflight(survey, store)
    assert len(seen) == 11


def test_the_terminal_shows_names_in_brackets(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_preflight(preflight(survey_source(DataConfig(kind="npz", root=str(pictures), modality="DX"))))
    shown = "".join(capsys.readouterr().out.split())
    assert "[images][0]" in shown
    assert "10read=10used+0leftout" in shown
