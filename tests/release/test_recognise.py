"""Releases with a watermark, and what is recognised of them and of their copies."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from scipy import ndimage

from imgsynth import pipeline
from imgsynth.config import from_overrides
from imgsynth.files import read_json
from imgsynth.measure.source import fresh_samples, watermark_of, with_watermark
from imgsynth.release.facts import facts_of
from imgsynth.release.folder import list_files
from imgsynth.release.recognise import Recognised, Seen, Together, recognise
from imgsynth.release.sample import sample_release
from imgsynth.release.verify import examine
from imgsynth.release.verify_watermark import watermark_faults
from imgsynth.release.watermark import marked
from imgsynth.release.watermark_search import Found, p_as_made, residual
from imgsynth.schema import DataConfig, PreprocessConfig
from imgsynth.training.run import load_run
from imgsynth.types import CheckFailed, InputError

STRENGTH = 0.5


@pytest.fixture(scope="module")
def run_dir(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CT phantoms of noise and blobs, 32³: three steps of training."""
    folder = tmp_path_factory.mktemp("wm")
    random = np.random.default_rng(2)
    images = [ndimage.gaussian_filter(random.uniform(-900, 500, (32,) * 3), 1) for _ in range(8)]
    np.savez(folder / "images.npz", images=np.array(images, np.float32))
    data = DataConfig(kind="npz", root=str(folder / "images.npz"), modality="CT", unit="image")
    return make_run(data, PreprocessConfig([32] * 3, fit="resize", low=-1000, high=600), sample={"n": 3, "seed": 7})


def sampled(run_dir: Path, to: Path, watermark: float | None) -> Path:
    cfg = load_run(run_dir).config
    cfg = dataclasses.replace(cfg, release=dataclasses.replace(cfg.release, watermark=watermark))
    return Path(shutil.copytree(sample_release(run_dir, cfg), to))


@pytest.fixture(scope="module")
def plain(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sampled(run_dir, tmp_path_factory.mktemp("plain") / "release", None)


@pytest.fixture(scope="module")
def release(run_dir: Path, plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a watermark; it is the one that is left in the run's folder."""
    return sampled(run_dir, tmp_path_factory.mktemp("marked") / "release", STRENGTH)


def volumes(release: Path) -> list[np.ndarray]:
    return [np.asarray(nib.load(path).dataobj, np.float32) for path in sorted(release.rglob("nifti/**/*.nii.gz"))]


def test_the_release_says_so_everywhere_and_verify_finds_it(release: Path, plain: Path) -> None:
    found = examine(release)
    assert not [fault for check in found.checks if check.name == "watermark" for fault in check.faults]
    others = {fault.where for fault in found.faults} - {"NOT RELEASABLE"}
    assert others == set()
    assert read_json(release / "privacy_card.json")["watermark"]["strength"] == STRENGTH
    assert "invisible watermark" in (release / "privacy_card.md").read_text()
    sidecar = next(path for path in release.rglob("nifti/**/*.json") if "SyntheticPatientID" in path.read_text())
    assert read_json(sidecar)["Watermark"]["Strength"] == STRENGTH
    header = pydicom.dcmread(next(release.rglob("*.dcm")), stop_before_pixels=True)
    assert "invisible watermark" in header.DerivationDescription
    for name in ("privacy_card.md", "README.md"):
        assert "atermark" not in (plain / name).read_text()
    assert read_json(plain / "privacy_card.json")["watermark"] is None


def test_it_is_below_the_noise_and_whole_hounsfield_units_stay(release: Path, plain: Path) -> None:
    for after, before in zip(volumes(release), volumes(plain), strict=True):
        difference = after - before
        assert 0.3 < difference.std() < 5 and np.abs(difference).max() <= 12  # of 1,600 HU; the floor is 3.1 HU
        assert (after == np.rint(after)).all() and after.min() >= -1000 and after.max() <= 600
        assert p_as_made(residual(after)) < 1e-9 and p_as_made(residual(before)) > 1e-3


def test_the_same_seed_gives_the_same_bytes(release: Path, run_dir: Path, tmp_path: Path) -> None:
    again = sampled(run_dir, tmp_path / "release", STRENGTH)
    names = [name for name in list_files(release) if name.startswith(("nifti", "dicom"))]
    assert names and all((again / name).read_bytes() == (release / name).read_bytes() for name in names)


def test_verify_finds_images_without_it(release: Path, plain: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(release, tmp_path / "release"))
    assert list(watermark_faults(copy, facts_of(copy))) == []
    names = sorted(path.relative_to(release) for path in release.rglob("nifti/**/*.nii.gz"))
    shutil.copy(plain / names[1], copy / names[1])
    assert [fault.where for fault in watermark_faults(copy, facts_of(copy))] == ["watermark (nifti): SYN-000002"]
    for name in names:
        shutil.copy(plain / name, copy / name)
    assert [fault.where for fault in watermark_faults(copy, facts_of(copy))] == ["watermark (nifti)"]
    assert list(watermark_faults(plain, facts_of(plain))) == []  # the card speaks of none


def test_a_card_that_hides_it_does_not_verify(release: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(release, tmp_path / "release"))
    card = read_json(copy / "privacy_card.json")
    (copy / "privacy_card.json").write_text(json.dumps(card | {"watermark": None}))
    assert any("config.release.watermark" in fault.where for fault in examine(copy).faults)


def test_measurements_are_of_images_as_they_leave(release: Path, run_dir: Path) -> None:
    run = load_run(run_dir)
    assert run.config.release.watermark is None and watermark_of(run) == STRENGTH  # as its card says
    images = fresh_samples(run, 2, 0).x_NC
    (run_dir / "release").rename(run_dir / "put_away")
    try:
        assert watermark_of(run) is None
        before = fresh_samples(run, 2, 0).x_NC
    finally:
        (run_dir / "put_away").rename(run_dir / "release")
    np.testing.assert_array_equal(images[1, 0], marked(before[1, 0], STRENGTH))
    assert not np.array_equal(images, before)


def test_masks_are_left_alone() -> None:
    whole = np.random.default_rng(0).uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
    after = with_watermark(whole.copy(), 1.0)
    np.testing.assert_array_equal(after[:, 1:], whole[:, 1:])
    assert not np.array_equal(after[:, 0], whole[:, 0])


def test_every_mark_of_a_release_is_named(release: Path, plain: Path) -> None:
    for folder, said in ((release, True), (plain, False)):
        found = recognise(folder)
        marks = {one.kind: set(one.marks) for one in found.images}
        assert marks["NIfTI"] == {"NIfTI descrip", "sidecar"}
        assert "Synthetic Data (0008,001C) YES" in marks["DICOM"] and len(marks["DICOM"]) == 3
        assert found.recognised and (found.p < 1e-9) == said and len(found.images) == 6


def converted(volumes_: list[np.ndarray], kind: str, to: Path) -> Path:
    """Copies without headers and sidecars: planes as pictures of 8 bits, an archive of arrays, resampled NIfTI."""
    to.mkdir()
    for n, volume in enumerate(volumes_):
        if kind == "png":
            low, high = np.quantile(volume, [0.05, 0.95])
            for k in range(volume.shape[2]):
                plane = np.rint(255 * np.clip((volume[..., k] - low) / (high - low), 0, 1)).astype(np.uint8)
                (to / str(n)).mkdir(exist_ok=True)
                Image.fromarray(plane).save(to / str(n) / f"{k:03d}.png")
        elif kind == "nifti":
            array = ndimage.zoom(volume, 1.25, order=1, grid_mode=True, mode="nearest")
            nib.save(nib.Nifti1Image(array, np.eye(4)), to / f"{n}.nii")
    if kind == "npz":
        np.savez(to / "images.npz", images=np.stack([volume[4:, :-3, 2:] for volume in volumes_]))
    return to


@pytest.mark.parametrize("kind", ["png", "npz", "nifti"])
def test_the_watermark_outlives_conversion(release: Path, plain: Path, tmp_path: Path, kind: str) -> None:
    found = recognise(converted(volumes(release)[:2], kind, tmp_path / "marked"))
    assert not any(one.marks for one in found.images)
    assert found.recognised and found.p < 1e-6
    other = recognise(converted(volumes(plain)[:2], kind, tmp_path / "plain"))
    assert not other.recognised and other.p > 1e-3


def planted(alone: list[float | None], together: list[float]) -> Recognised:
    images = [
        Seen(f"{n}.png", "image", (), None if p is None else Found(p, "as made", ())) for n, p in enumerate(alone)
    ]
    groups = [Together("image", (64, 64), 9, False, Found(p, "as made", ())) for p in together]
    return Recognised("pictures", images, groups)


def test_every_search_of_a_folder_is_counted() -> None:
    """Of a hundred images one has p = 10⁻⁴ by chance, at one percent: the folder is not recognised by that."""
    many = planted([1e-4] + [0.5] * 99 + [None], [0.3])
    assert many.p == pytest.approx(2 * 100 * 1e-4) and not many.recognised and many.images[0].recognised
    assert planted([0.5] * 9, [1e-4, 1.0]).p == pytest.approx(2 * 2 * 1e-4)
    assert planted([1e-9], []).recognised and not planted([2e-3], []).recognised
    several = planted([0.5, 0.5], [])
    several.images[0] = dataclasses.replace(several.images[0], marks=("sidecar",))
    assert several.recognised and not several.images[1].recognised  # one mark in a folder is enough
    assert planted([None], []).p == 1 and planted([0.9], [0.9]).p == 1


def test_what_is_said_not_to_be_synthetic_is_no_mark(release: Path, tmp_path: Path) -> None:
    """The same attributes with another value, and those of a real derived image."""
    header = pydicom.dcmread(next(release.rglob("*.dcm")))
    header.SyntheticData = "NO"
    header.DerivationDescription = "Lossy compression"
    header.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue = "109103"
    header.save_as(tmp_path / "real.dcm")
    picture = np.random.default_rng(0).integers(0, 255, (8, 8)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text('{"SyntheticData": false}')
    found = recognise(tmp_path)
    assert {one.kind for one in found.images} == {"DICOM", "image"} and not any(one.marks for one in found.images)


def test_the_attribute_of_a_store_is_a_mark_where_it_is_true(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", minversion="3", reason="zarr 3 needs Python 3.11")
    store = zarr.open_group(str(tmp_path / "store.zarr"), mode="w")
    store.create_array("images", data=np.zeros((8, 8), np.uint8))
    for said, marks in ((False, ()), (True, ("Zarr attribute",))):
        store.attrs["imgsynth"] = {"synthetic": said}
        assert [one.marks for one in recognise(tmp_path / "store.zarr").images] == [marks]


def test_planes_in_one_folder_are_not_mixed_with_those_of_another_and_masks_are_not_searched(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for k in range(3):
            Image.fromarray(random.integers(0, 255, (32, 32)).astype(np.uint8)).save(tmp_path / name / f"{k}.png")
    nib.save(nib.Nifti1Image(random.random((32, 32, 32), np.float32), np.eye(4)), tmp_path / "x_dseg.nii.gz")
    found = recognise(tmp_path)
    assert [(group.n, group.planes) for group in found.groups] == [(3, False), (3, False)]
    assert [one.watermark for one in found.images if "dseg" in one.name] == [None]


def test_a_sidecar_beside_a_picture_is_a_mark(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8)).save(tmp_path / "a.png")
    assert not recognise(tmp_path / "a.png").recognised
    (tmp_path / "a.json").write_text('{"SyntheticData": true}')
    assert recognise(tmp_path / "a.png").images[0].marks == ("sidecar",)


def test_the_verb_says_it_in_words_and_json_and_by_its_exit_code(
    release: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = converted(volumes(plain)[:1], "nifti", tmp_path / "plain")
    pipeline.recognise([release])
    assert "Synthetic, by: " in capsys.readouterr().out
    with pytest.raises(CheckFailed) as caught:
        pipeline.recognise([release, copies], as_json=True)
    assert [fault.where for fault in caught.value.faults] == [str(copies)]
    said = json.loads(capsys.readouterr().out)
    assert [path["recognised"] for path in said["paths"]] == [True, False]
    assert all(0 <= image["watermark"]["p"] <= 1 for path in said["paths"] for image in path["images"])
    with pytest.raises(InputError) as wrong:
        pipeline.recognise([tmp_path / "nowhere", tmp_path / "empty"])
    assert len(wrong.value.faults) == 2


def test_files_that_are_broken_are_said_to_be_and_do_not_stop_the_rest(release: Path, tmp_path: Path) -> None:
    whole = next(release.rglob("nifti/**/*.nii.gz"))
    (tmp_path / "cut.nii.gz").write_bytes(whole.read_bytes()[:200])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "objects.npz").write_text("no archive")
    shutil.copy(whole, tmp_path / "whole.nii.gz")
    found = {Path(one.name).name: one for one in recognise(tmp_path).images}
    assert found["whole.nii.gz"].recognised and found["whole.nii.gz"].marks == ("NIfTI descrip",)
    assert all(found[name].note and not found[name].recognised for name in ("cut.nii.gz", "text.png", "objects.npz"))


@pytest.mark.parametrize(("overrides", "where"), [
    (["release.watermark=1.5"], "release.watermark"),
    (["release.watermark=0"], "release.watermark"),
    (["release.watermark=0.5", "preprocess.shape=[16,16,16]"], "release.watermark"),
])  # fmt: skip
def test_strengths_that_noise_does_not_hide_and_grids_that_are_too_small_are_refused(
    overrides: list[str], where: str
) -> None:
    with pytest.raises(InputError) as caught:
        from_overrides("train", ["experiment=demo", *overrides])
    assert where in [fault.where for fault in caught.value.faults]
