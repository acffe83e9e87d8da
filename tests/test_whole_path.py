"""One job through every room, from each kind of source: what `imgsynth run` does, small."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from brief import brief_trainings

from imgsynth import config, pipeline
from imgsynth.types import InputError

# As small as every stage still does real work.
SMALL = (
    "trainer.steps=4", "trainer.checkpoint_every=2", "trainer.sheet_every=2", "sample.n=6", "encoder=random_conv",
    "evaluate.n=40", "evaluate.bootstrap=20", "evaluate.classifier_seeds=2", "audit.n=40", "audit.bootstrap=100",
    "audit.extraction_samples=40", "audit.ocr_pictures=1", "privacy.batch_patients=8",
)  # fmt: skip
FILES = ("report.html", "report_public.html", "release/privacy_card.json", "release/privacy_card.md",
         "release/checksums.sha256", "evaluation.json", "audit.json", "config.yaml", "manifest.json")  # fmt: skip


def run(tmp_path: Path, overrides: str) -> Path:
    output = tmp_path / "run"
    with brief_trainings():
        report = pipeline.run(config.from_overrides("run", [*SMALL, *overrides.split(), f"output={output}"]))
    assert report == output / "report.html"
    for name in FILES:
        assert (output / name).is_file(), name
    return output


def card(output: Path) -> dict:
    return json.loads((output / "release" / "privacy_card.json").read_text())


@pytest.fixture(scope="module")
def phantom_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("phantom")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("IMGSYNTH_LEDGER", str(folder / "ledger"))
        return run(
            folder,
            "data.phantom.patients=60 data.phantom.size=16 preprocess.shape=[16,16,16] "
            "preprocess.spacing=[24,24,24] privacy.delta=1e-3",
        )


def test_phantoms_to_a_release_that_verifies(phantom_run: Path) -> None:
    pipeline.verify(phantom_run / "release")
    assert len(list((phantom_run / "release").rglob("*.nii.gz"))) == 6
    assert len(list((phantom_run / "release").rglob("*.dcm"))) == 6 * 16


def test_a_second_call_finishes_without_training_again(phantom_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGSYNTH_LEDGER", str(phantom_run.parent / "ledger"))
    before = (phantom_run / "checkpoints" / "last.pt").stat().st_mtime_ns
    checked = config.from_overrides("train", [f"output={phantom_run}"])
    pipeline.train(checked)
    assert (phantom_run / "checkpoints" / "last.pt").stat().st_mtime_ns == before


def test_a_run_folder_of_another_config_is_refused_and_kept(phantom_run: Path) -> None:
    before = (phantom_run / "config.yaml").read_bytes()
    with pytest.raises(InputError, match="clipping_norm"):
        pipeline.train(config.from_overrides("train", [f"output={phantom_run}", "privacy.clipping_norm=3"]))
    assert (phantom_run / "config.yaml").read_bytes() == before


def test_inspect_proposes_a_plan(tmp_path: Path, phantom_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked = config.from_overrides("inspect", ["data.phantom.patients=60", "data.phantom.size=16",
                                                f"output={tmp_path / 'look'}"])  # fmt: skip
    result = json.loads(pipeline.inspect(checked).read_text())
    assert result["proposal"]
    assert "60" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["vae", "gan"])
def test_no_privacy_is_marked_not_releasable(tmp_path: Path, model: str) -> None:
    output = run(
        tmp_path,
        f"privacy=none model={model} data.phantom.patients=40 data.phantom.size=16 "
        "preprocess.shape=[16,16,16] preprocess.spacing=[24,24,24]",
    )
    assert card(output)["releasable"] is False
    assert "NOT RELEASABLE" in (output / "release" / "privacy_card.md").read_text()


def test_hippocampus_nifti(tmp_path: Path, real_data: Path) -> None:
    output = run(
        tmp_path,
        f"data=nifti data.root={real_data / 'msd_hippocampus'} privacy.delta=1e-3 preprocess.shape=[16,24,16]",
    )
    assert card(output)["unit"] == "patient"
    masks = [image["mask"] for image in json.loads((output / "local" / "files.json").read_text())["images"]]
    assert len(masks) == 180 and all(masks)


def test_brains_bids(tmp_path: Path, real_data: Path) -> None:
    output = run(
        tmp_path,
        f"data=nifti data.root={real_data / 'brain_t1w_2mm'} privacy.delta=1e-3 data.label=group "
        "data.classes=[control,depr] model=gan preprocess.shape=[16,16,16] privacy.batch_patients=null",
    )
    assert card(output)["plan"]["sampling_rate"] * card(output)["plan"]["n"] == 17  # half of 34: 64 would be too many
    assert {item["label"] for item in json.loads((output / "manifest.json").read_text())["items"]} == {
        "control",
        "depr",
    }


def test_chest_radiographs_npz(tmp_path: Path, real_data: Path) -> None:
    output = run(
        tmp_path,
        f"data=npz data.root={real_data / 'nih_cxr_256.npz'} data.patient=patient_ids "
        f"data.table={real_data / 'nih_cxr_256.csv'} data.label=label data.classes=[no_finding,pneumonia] "
        "data.images_per_patient=2 preprocess.shape=[32,32] privacy.delta=1e-3 evaluate.rivals=false",
    )
    items = json.loads((output / "manifest.json").read_text())["items"]
    assert len(items) == 686 and len({item["patient"] for item in items}) == 478


def test_medmnist_says_that_the_unit_is_the_image(tmp_path: Path, real_data: Path) -> None:
    output = run(
        tmp_path,
        f"data=medmnist data.root={real_data / 'pneumoniamnist_28.npz'} data.classes=[normal,pneumonia] "
        "privacy.delta=1e-5 evaluate.rivals=false",
    )
    assert card(output)["unit"] == "image"
    for name in ("release/privacy_card.md", "report.html", "report_public.html"):
        assert "image" in (output / name).read_text()


def test_clinical_ct_slices_dicom(tmp_path: Path, real_data: Path) -> None:
    with zipfile.ZipFile(real_data / "dicom" / "nysbu_ct_dev.zip") as archive:
        archive.extractall(tmp_path / "scans")
    output = run(
        tmp_path,
        f"data=dicom data.root={tmp_path / 'scans'} data.pattern='(?P<patient>A[0-9]+)/axial/' privacy.delta=1e-2 "
        "preprocess.shape=[32,32] preprocess.spacing=[14,14] privacy.batch_patients=2",
    )
    assert len({item["patient"] for item in json.loads((output / "manifest.json").read_text())["items"]}) == 6


def test_one_mr_series_is_one_patient_and_refused(tmp_path: Path, real_data: Path) -> None:
    with zipfile.ZipFile(real_data / "dicom" / "studyforrest_t1_series.zip") as archive:
        archive.extractall(tmp_path / "scans")
    with pytest.raises(InputError, match="patient"):
        run(
            tmp_path,
            f"data=dicom preprocess=mr data.root={tmp_path / 'scans'}",
        )
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_unreadable_file_among_good_ones_is_said_and_survived(tmp_path: Path, real_data: Path) -> None:
    (tmp_path / "scans").mkdir()
    for path in sorted((real_data / "msd_hippocampus" / "imagesTr").glob("*.nii.gz"))[:12]:
        shutil.copy(path, tmp_path / "scans")
    broken = tmp_path / "scans" / "hippocampus_999.nii.gz"
    broken.write_bytes(b"not a scan")
    checked = config.from_overrides(
        "inspect",
        [
            "data=nifti",
            f"data.root={tmp_path / 'scans'}",
            f"output={tmp_path / 'o'}",
            "data.pattern='(?P<patient>hippocampus_[0-9]+)'",
        ],
    )
    assert "hippocampus_999" in pipeline.inspect(checked).read_text()
