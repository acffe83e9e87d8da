"""What a release holds, that nothing of the source is in it, and that a failure leaves the old one."""

from __future__ import annotations

import csv
import dataclasses
import errno
import gzip
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch

from imgsynth.files import read_json
from imgsynth.models import Diffusion
from imgsynth.models.base import GenerativeModel
from imgsynth.release import images as images_module
from imgsynth.release.folder import CHECKSUMS
from imgsynth.release.generate import generate
from imgsynth.release.images import release_volume
from imgsynth.release.labels import draw_labels
from imgsynth.release.provenance import hyper_parameters, provenance
from imgsynth.release.sample import sample_release
from imgsynth.release.update import update_card
from imgsynth.release.verify import verify_release
from imgsynth.training.run import load_run
from imgsynth.types import Grid, InputError
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.nifti import read_nifti

SENTINEL = b"ZQXJSENTINEL"


def released(run_dir: Path, **sample: object) -> Path:
    cfg = load_run(run_dir).config
    for name, value in sample.items():
        setattr(cfg.sample, name, value)
    return sample_release(run_dir, cfg)


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def all_bytes(path: Path) -> bytes:
    """The file's name and bytes, with what gzip hides."""
    content = path.read_bytes()
    return path.as_posix().encode() + content + (gzip.decompress(content) if path.suffix == ".gz" else b"")


def found_in(root: Path, text: bytes) -> list[str]:
    forms = [text, text.decode().encode("utf-16-le"), text.lower()]
    names = [p.relative_to(root) for p in root.rglob("*") if p.is_file()]
    return [
        str(name) for name in names if any(f in all_bytes(root / name).replace(str(root).encode(), b"") for f in forms)
    ]


def test_both_formats_hold_the_same_image_in_the_grids_place(ct_release: Path) -> None:
    for entry in read_json(ct_release / "synthetic_cohort.json")["patients"]:
        dicom = read_dicom_series([ct_release / name for name in entry["dicom"]])
        nifti = read_nifti(ct_release / entry["nifti"][0])
        assert dicom.array.shape == (8, 8, 8) and len(entry["dicom"]) == 8
        np.testing.assert_array_equal(dicom.array, nifti.array)
        np.testing.assert_allclose(dicom.affine, nifti.affine, atol=1e-6)
        np.testing.assert_allclose(nifti.affine, [[10, 0, 0, -35], [0, 10, 0, -35], [0, 0, 10, -35], [0, 0, 0, 1]])
        assert -1000 <= nifti.array.min() < nifti.array.max() <= 600 and dicom.unit == "HU"


def test_the_release_holds_the_generators_images(ct_run: Path) -> None:
    run = load_run(ct_run)
    x_BC = generate(run, np.zeros(3, int), torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = run.model.sample(torch.zeros(3, dtype=torch.long), torch.Generator().manual_seed(5))
    np.testing.assert_allclose(x_BC, expected.clamp(-1, 1).numpy(), atol=1e-6)
    volume = release_volume(x_BC[0], run.grid)
    np.testing.assert_array_equal(volume.array, np.rint((x_BC[0, 0] + 1) / 2 * 1600 - 1000))


def test_generating_in_batches_gives_every_label_its_image(dx_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(dx_run)
    monkeypatch.setattr("imgsynth.release.generate.VOXELS_AT_ONCE", 2 * 256)
    seen = []
    real = type(run.model).sample
    monkeypatch.setattr(
        type(run.model), "sample", lambda self, y, random: seen.append(y.tolist()) or real(self, y, random)
    )
    assert generate(run, np.array([0, 1, 1, 0, 1]), torch.Generator()).shape == (5, 1, 16, 16)
    assert seen == [[0, 1], [1, 0], [1]]
    assert generate(run, np.array([], int), torch.Generator()).shape == (0, 1, 16, 16)
    with pytest.raises(ValueError, match="below 2"):
        generate(run, np.array([2]), torch.Generator())


@pytest.mark.parametrize("kind", ["ct", "mr", "dx"])
def test_no_sentinel_of_the_source_is_in_anything_that_may_leave(kind: str, request: pytest.FixtureRequest) -> None:
    run_dir = request.getfixturevalue(f"{kind}_run")
    assert found_in(run_dir / "..", SENTINEL), "the search itself must work: the local manifest has it"
    released(run_dir)
    for part in ("release", "checkpoints", "samples", "tensorboard"):
        assert list((run_dir / part).rglob("*")), part
        assert found_in(run_dir / part, SENTINEL) == []
    assert SENTINEL not in (run_dir / "metrics.jsonl").read_bytes()


def test_nothing_else_of_the_source_is_in_the_release(ct_run: Path, ct_release: Path) -> None:
    first = pydicom.dcmread(next(iter(sorted(Path(load_run(ct_run).manifest.root).rglob("*.dcm")))))
    for secret in (first.StudyInstanceUID, first.SeriesInstanceUID, first.SOPInstanceUID, first.FrameOfReferenceUID,
                   first.StudyDate, first.PatientBirthDate, load_run(ct_run).manifest.fingerprint):  # fmt: skip
        assert found_in(ct_release, str(secret).encode()) == []


def test_every_call_gives_other_patients(ct_run: Path) -> None:
    name = "nifti/sub-syn0001/ct/sub-syn0001_desc-synthetic_ct.nii.gz"
    assert tree(released(ct_run))[name] != tree(released(ct_run))[name]


def test_uids_are_under_the_root_that_is_asked_for(ct_run: Path) -> None:
    for path in released(ct_run, n=2, uid_root="1.2.826.0.1.3680043.10.999").rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            assert dataset[keyword].value.startswith("1.2.826.0.1.3680043.10.999.")


def test_every_call_draws_other_labels(dx_run: Path) -> None:
    assert len({tuple(e["label"] for e in read_json(released(dx_run, n=40) / "synthetic_cohort.json")["patients"])
                for _ in range(2)}) == 2  # fmt: skip


def test_text_among_a_models_settings_is_not_released() -> None:
    class Model(GenerativeModel):
        def __init__(self, shape: tuple[int, ...], classes: int, width: int = 3, weights: str = "none"): ...

    settings = {"_target_": "mine.Model", "width": 5, "weights": "/home/doe/weights.pt"}
    assert hyper_parameters(Model, settings) == {"width": 5}
    stated = hyper_parameters(Diffusion, {"warm_up": ["moments"], "channels": 4})
    assert (stated["warm_up"], stated["channels"]) == (["moments"], 4)
    assert "warm_up" not in hyper_parameters(Diffusion, {"warm_up": ["moments", "/home/doe"]})


def test_nothing_that_a_further_transform_is_told_is_released(ct_run: Path) -> None:
    run = load_run(ct_run)
    text = SENTINEL.decode()
    extra = [{"_target_": f"{text}.Transform", "atlas": f"/home/{text}/atlas.nii.gz"}]
    preprocess = dataclasses.replace(run.config.preprocess, extra=extra)
    told = provenance(dataclasses.replace(run, config=dataclasses.replace(run.config, preprocess=preprocess)))
    assert text not in str(told) and told["further_transforms"] == 1
    assert set(told["config"]["preprocess"]) == {"shape", "spacing", "orientation", "fit", "intensity", "low", "high"}


@pytest.mark.parametrize(
    ("defaced", "said"), [(None, "Nobody has declared"), (True, "no faces"), (False, "show faces")]
)
def test_a_release_says_what_was_declared_of_faces(ct_run: Path, defaced: bool | None, said: str) -> None:
    cfg = load_run(ct_run).config
    cfg.data.defaced = defaced
    folder = sample_release(ct_run, cfg)
    assert read_json(folder / "provenance.json")["config"]["data"]["defaced"] is defaced
    assert said in (folder / "README.md").read_text()
    verify_release(folder)


@pytest.mark.parametrize(
    ("kind", "declared", "expected"),
    [("ct", None, None), ("ct", "NO", "NO"), ("ct", "YES", "YES"), ("dx", None, "YES"), ("dx", "NO", "NO")],
)
def test_burned_in_annotation_is_declared_or_left_open(
    kind: str, declared: str | None, expected: str | None, request: pytest.FixtureRequest
) -> None:
    """DX must have it (PS3.3 C.8.11.3, type 1): not judged is YES there, absent elsewhere."""
    folder = released(request.getfixturevalue(f"{kind}_run"), n=1, burned_in=declared)
    for path in folder.rglob("*.dcm"):
        assert pydicom.dcmread(path).get("BurnedInAnnotation") == expected
    assert read_json(folder / "privacy_card.json")["burned_in_annotation"] == declared
    verify_release(folder)
    update_card(folder.parent)
    verify_release(folder)
    assert read_json(folder / "privacy_card.json")["burned_in_annotation"] == declared


def with_ids(monkeypatch: pytest.MonkeyPatch, run_dir: Path, ids: str) -> None:
    run = load_run(run_dir)
    run = dataclasses.replace(run, plan=dataclasses.replace(run.plan, ids=ids))
    monkeypatch.setattr("imgsynth.release.sample.load_run", lambda _: run)


@pytest.mark.parametrize(("ids", "named"), [("case", "case"), ("patient", "patient")])
def test_case_ids_are_said_to_be_cases_in_every_file(
    ct_run: Path, ids: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_ids(monkeypatch, ct_run, ids)
    folder = sample_release(ct_run, load_run(ct_run).config)
    for name in ("README.md", "privacy_card.md"):
        assert ("CASES, NOT PATIENTS" in (folder / name).read_text()) == (ids == "case"), name
    path = folder / "nifti/sub-syn0001/ct/sub-syn0001_desc-synthetic_ct.nii.gz"
    assert nib.load(path).header["descrip"].item().decode().endswith(f" per {named}")
    sidecar = read_json(path.with_name(path.name.replace(".nii.gz", ".json")))
    assert sidecar["PrivacyUnit"] == named
    derivation = pydicom.dcmread(next(folder.rglob("*.dcm"))).DerivationDescription
    assert f"unit = {named}" in derivation and derivation == sidecar["Description"]
    verify_release(folder)


def test_an_mr_release_is_a_bids_derivative_and_right_handed(mr_run: Path) -> None:
    folder = released(mr_run, bids_suffix="FLAIR") / "nifti"
    path = folder / "sub-syn0001" / "anat" / "sub-syn0001_desc-synthetic_FLAIR.nii.gz"
    image = nib.load(path)
    assert np.linalg.det(image.affine[:3, :3]) > 0 and nib.aff2axcodes(image.affine) == ("L", "A", "I")
    assert image.header["qform_code"] == image.header["sform_code"] == 1
    assert json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())["SyntheticData"] is True
    described = read_json(folder / "dataset_description.json")
    assert described["DatasetType"] == "derivative" and described["GeneratedBy"][0]["Name"] == "imgsynth"
    rows = (folder / "participants.tsv").read_text().splitlines()
    assert rows[0] == "participant_id\tlabel" and rows[1] == "sub-syn0001\tn/a" and len(rows) == 5


def test_an_mr_release_passes_the_bids_validator(mr_run: Path) -> None:
    validator = shutil.which("bids-validator-deno")
    if validator is None:
        pytest.skip("bids-validator-deno is not installed (pip install bids-validator-deno)")
    folder = released(mr_run) / "nifti"
    done = subprocess.run([validator, "--json", str(folder)], capture_output=True, text=True)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []


@pytest.mark.parametrize("kind", ["ct", "mr", "dx"])
def test_dciodvfy_knows_nothing_against_it_but_the_tag_it_does_not_know(
    kind: str, request: pytest.FixtureRequest
) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian package dicom3tools)")
    folder = released(request.getfixturevalue(f"{kind}_run"), n=1)
    for path in folder.rglob("*.dcm"):
        said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True).stderr
        errors = [line for line in said.splitlines() if line.startswith("Error")]
        assert (
            len(errors) == 1 and "(0x0008,0x001c)" in errors[0] and "not a recognized standard attribute" in errors[0]
        )


def test_labels_are_in_tables_and_sidecars(dx_run: Path) -> None:
    folder = released(dx_run, n=12)
    entries = read_json(folder / "synthetic_cohort.json")["patients"]
    with (folder / "synthetic_cohort.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["label"] for row in rows] == [entry["label"] for entry in entries]
    assert {row["label"] for row in rows} <= {"normal", "pneumonia"}
    for entry, row in zip(entries, rows, strict=True):
        assert read_json(folder / "nifti" / f"{entry['id']}.json")["Label"] == entry["label"]
        assert row["files"] == f"dicom/{entry['id']}/DX;nifti/{entry['id']}.nii.gz"


def test_labels_follow_the_noisy_histogram_or_are_uniform(tmp_path: Path) -> None:
    random, stored = np.random.default_rng(0), tmp_path / "label_histogram.json"
    stored.write_text('{"counts": [30, 0, 90]}')
    drawn = np.bincount(draw_labels("histogram", 4000, 3, stored, random), minlength=3)
    assert drawn[1] == 0 and abs(drawn[0] - 1000) < 120
    even = np.bincount(draw_labels("uniform", 6000, 3, stored, random), minlength=3)
    assert np.abs(even - 2000).max() < 160
    stored.write_text('{"counts": [0, 0]}')
    assert np.bincount(draw_labels("histogram", 100, 2, stored, random)).min() > 20
    with pytest.raises(InputError, match=r"sample\.labels=uniform"):
        draw_labels("histogram", 4, 3, tmp_path / "missing.json", random)


def test_a_disk_that_fills_up_midway_leaves_the_older_release(ct_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(released(ct_run))
    write, calls = images_module.write_nifti, []

    def full(*args: object) -> Path:
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*args)

    monkeypatch.setattr(images_module, "write_nifti", full)
    with pytest.raises(InputError, match="No space left on device"):
        released(ct_run)
    assert tree(ct_run / "release") == before
    assert [p.name for p in ct_run.iterdir() if p.name.startswith(".release")] == [".release.lock"]


def test_sums_and_provenance(ct_release: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", CHECKSUMS], cwd=ct_release, check=True)
    made = read_json(ct_release / "provenance.json")
    assert made["model"] == {"name": "VAE", "settings": made["model"]["settings"]}
    assert made["model"]["settings"]["latent"] == 2 and made["config"]["trainer"]["steps"] == 3
    assert "Not for diagnostic use" in (ct_release / "README.md").read_text()


def test_an_unfinished_run_is_refused(ct_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(ct_run, tmp_path / "run"))
    path = copy / "checkpoints" / "last.pt"
    content = torch.load(path, weights_only=True)
    content["state"]["step"] = 2
    torch.save(content, path)
    with pytest.raises(InputError, match="step 2 of 3"):
        sample_release(copy, load_run(copy).config)


def test_a_2d_grid_maps_to_its_intensities() -> None:
    grid = Grid((2, 2), (1.0, 1.0), "IL", "DX", "a.u.", 0.0, 255.0)
    volume = release_volume(np.array([[[-1.0, 0.0], [1.0, 3.0]]], np.float32), grid)
    np.testing.assert_allclose(np.sort(volume.array.ravel()), [0, 127.5, 255, 255])


def test_a_format_that_cannot_be_written_is_refused_whole(make_run: Callable[..., Path], dx_run: Path) -> None:
    cfg = load_run(dx_run).config
    before = tree(sample_release(dx_run, cfg))
    run = load_run(dx_run)
    narrow = Grid(run.grid.shape, run.grid.spacing, run.grid.orientation, "DX", "a.u.", 0.0, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imgsynth.release.sample.load_run", lambda _: type(run)(**{**vars(run), "grid": narrow}))
        with pytest.raises(InputError, match="grey levels"):
            sample_release(dx_run, cfg)
    assert tree(dx_run / "release") == before
