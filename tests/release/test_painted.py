"""Releases of images painted onto masks: supplied ones, whose origin is declared, and edited ones, before and after."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pair_cohort import AFFINE, VALUES, pair_config, write_pairs

from imgsynth import config
from imgsynth.files import read_json
from imgsynth.models import VAE
from imgsynth.release.card import fresh_card
from imgsynth.release.edit_masks import edited
from imgsynth.release.folder import CHECKSUMS, write_checksums
from imgsynth.release.paint import painter_of
from imgsynth.release.sample import sample_release
from imgsynth.release.verify import verify_release
from imgsynth.training.loop import train
from imgsynth.training.run import load_run, model_factory
from imgsynth.types import CheckFailed, InputError

PIX2PIX = {"_target_": "imgsynth.models.Pix2Pix", "latent": 2, "mask_latent": 2, "channels": 4, "widest": 8}
EDITS: list[Any] = [{"structure": "core", "add": {"radius": 5.0, "at": [0.0, 3.0, -2.5]}},
                    {"structure": "core", "move": [2.0, 0.0, 0.0]}]  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painted")
    cfg = pair_config(write_pairs(folder / "source"), folder, PIX2PIX, sample={"n": 4, "seed": 5, "formats": ["nifti"]})
    return train(cfg, folder / "run", model_factory(cfg.model))


@pytest.fixture
def supplied(tmp_path: Path) -> Path:
    """Two masks on another grid than the run's, of the source's values: one all core in its lower half, one empty."""
    folder = tmp_path / "masks"
    folder.mkdir()
    labels = np.zeros((16, 24, 20), np.uint8)
    labels[3:12, 4:20, :10] = VALUES[0]
    labels[3:12, 4:20, 10:12] = VALUES[1]
    affine = np.diag([-1.0, 1.0, 1.25, 1.0])
    nib.save(nib.Nifti1Image(labels, affine), folder / "a.nii.gz")
    nib.save(nib.Nifti1Image(0 * labels, affine), folder / "b.nii.gz")
    return folder


def sampled(run_dir: Path, **settings: Any) -> Path:
    cfg = load_run(run_dir).config
    return sample_release(run_dir, dataclasses.replace(cfg, sample=dataclasses.replace(cfg.sample, **settings)))


def volumes(release: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images and masks in the order of patients."""
    patients = read_json(release / "synthetic_cohort.json")["patients"]
    masks = [name for p in patients for name in p["masks"] if name.endswith(".nii.gz")]
    images = [name for p in patients for name in p["nifti"]]
    return tuple([nib.load(release / name).get_fdata() for name in names] for names in (images, masks))


def faults(release: Path) -> str:
    (release / CHECKSUMS).unlink()
    write_checksums(release)
    with pytest.raises(CheckFailed) as caught:
        verify_release(release)
    return "\n".join(map(str, caught.value.faults))


def test_each_sample_comes_before_and_after_its_mask_was_edited(run_dir: Path) -> None:
    release = sampled(run_dir, edits=EDITS, formats=["dicom", "nifti"])
    verify_release(release)
    (before, after, third, _), masks = volumes(release)
    patients = read_json(release / "synthetic_cohort.json")["patients"]
    assert [p["edited_from"] for p in patients] == [None, "SYN-000001", None, "SYN-000003"]
    with (release / "synthetic_cohort.csv").open(newline="") as handle:
        assert [row["edited_from"] for row in csv.DictReader(handle)] == ["", "SYN-000001", "", "SYN-000003"]
    grid = load_run(run_dir).grid
    for k in (0, 2):
        np.testing.assert_array_equal(masks[k + 1], edited(masks[k].astype(np.uint8), EDITS, grid))
        assert (masks[k + 1] != masks[k]).any()
    assert np.abs(before - after).max() > 1e-4 < np.abs(before - third).max()
    said = (release / "README.md").read_text() + (release / "datasheet.md").read_text()
    assert said.count("LABELS WERE EDITED") == 2 and "core moved by (2, 0, 0) mm" in said
    assert "Keep a synthetic patient and the one that it is edited from on one side" in said


def test_edited_samples_are_the_same_again_and_those_before_are_as_without_edits(run_dir: Path, tmp_path: Path) -> None:
    first = shutil.copytree(sampled(run_dir, edits=EDITS), tmp_path / "first")
    again = sampled(run_dir, edits=EDITS)
    assert (first / CHECKSUMS).read_text() == (again / CHECKSUMS).read_text()
    nothing_done = sampled(run_dir, edits=[{"structure": "core", "move": [0.0, 0.0, 0.0]}])
    images, masks = volumes(nothing_done)
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(images[0], volumes(first)[0][0])


def test_what_is_said_of_edits_is_verified(run_dir: Path, tmp_path: Path) -> None:
    release = Path(shutil.copytree(sampled(run_dir, edits=EDITS), tmp_path / "release"))
    path = release / "synthetic_cohort.json"
    cohort = read_json(path)
    cohort["patients"][1]["edited_from"] = None
    path.write_text(json.dumps(cohort))
    assert "config.sample.edits" in faults(release)


def test_images_are_painted_onto_supplied_masks_and_the_card_says_whose(run_dir: Path, supplied: Path) -> None:
    release = sampled(run_dir, masks=str(supplied), masks_origin="synthetic")
    verify_release(release)
    images, masks = volumes(release)
    for k in (0, 2):
        np.testing.assert_array_equal(masks[k], masks[0])
        assert not masks[k + 1].any()
    core, rim = ((masks[0] == value).sum() * 2 * 2 * 2.5 for value in (1, 2))
    assert core == pytest.approx(9 * 16 * 10 * 1.25, rel=0.15) and 0 < rim < core
    at = np.argwhere(masks[0] == 1).mean(0)
    assert at[2] < 3.5  # feet first, as in the file
    assert np.abs(images[0] - images[2]).max() > 0  # one mask, two codes
    card = read_json(release / "privacy_card.json")
    assert card["supplied_masks"]["origin"] == "synthetic" and card["supplied_masks"]["masks"] == 2
    note = card["supplied_masks"]["note"]
    assert "DOES NOT COVER THE MASKS" in note and note in card["not_covered"]
    assert note in (release / "privacy_card.md").read_text() and note in (release / "datasheet.md").read_text()
    assert "supplied by whoever made this release" in (release / "README.md").read_text()
    assert fresh_card(load_run(run_dir))["supplied_masks"] == card["supplied_masks"]
    assert str(supplied) not in "".join(p.read_text(errors="ignore") for p in release.rglob("*") if p.is_file())


def test_a_card_that_keeps_quiet_of_supplied_masks_is_found(run_dir: Path, supplied: Path, tmp_path: Path) -> None:
    made = sampled(run_dir, masks=str(supplied), masks_origin="public")
    release = Path(shutil.copytree(made, tmp_path / "release"))
    path = release / "privacy_card.json"
    card = read_json(path)
    card["supplied_masks"] = None
    path.write_text(json.dumps(card))
    assert "config.sample.masks_origin" in faults(release)


def test_masks_that_cannot_be_painted_onto_are_all_named(run_dir: Path, supplied: Path) -> None:
    root = Path(load_run(run_dir).manifest.root)
    shutil.copy(next((root / "labelsTr").iterdir()), supplied / "c.nii.gz")
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 7, np.uint8), AFFINE), supplied / "d.nii.gz")
    with pytest.raises(InputError) as caught:
        sampled(run_dir, masks=str(supplied), masks_origin="synthetic")
    assert [Path(fault.where).name for fault in caught.value.faults] == ["c.nii.gz", "d.nii.gz"]
    assert "run's own cohort" in caught.value.faults[0].got and "values 7" in caught.value.faults[1].got
    with pytest.raises(InputError, match=r"4 masks .* sample\.n=6"):
        sampled(run_dir, masks=str(supplied), masks_origin="synthetic", n=6)


def test_settings_that_do_not_fit_are_refused_at_the_door(tmp_path: Path) -> None:
    pairs = ["data=nifti", "data.modality=MR", f"data.root={tmp_path}", "preprocess=mr", "preprocess.shape=[16,16,16]",
             "preprocess.spacing=[1,1,1]", "model=pix2pix", "data.masks=[lesion]"]  # fmt: skip

    def found(*more: str) -> dict[str, str]:
        with pytest.raises(InputError) as caught:
            config.from_overrides("run", [*pairs, *more])
        return {fault.where: str(fault) for fault in caught.value.faults}

    masks = f"sample.masks={tmp_path}"
    assert "no ε covers it" in found(masks)["sample.masks_origin"]
    assert "no ε covers it" in found(masks, "sample.masks_origin=patients")["sample.masks_origin"]
    assert "sample.masks" in found("sample.masks_origin=public")
    assert "existing" not in found(f"{masks}/none", "sample.masks_origin=public")["sample.masks"]
    edit = "sample.edits=[{structure: lesion, scale: 2}]"
    both = found(masks, "sample.masks_origin=public", edit, "sample.n=3", "sample.metadata=[sex]")
    assert {"sample.edits", "sample.n", "sample.metadata"} <= set(both)
    assert "data.masks: lesion" in found("sample.edits=[{structure: bone, scale: 2}]")["sample.edits[0].structure"]
    assert "VAE" in found("model=vae", edit)["sample.masks, sample.edits"]
    assert config.from_overrides("run", [*pairs, edit]).sample.edits == [{"structure": "lesion", "scale": 2}]


def test_a_model_that_paints_nothing_is_refused_and_a_plain_release_says_nothing_of_it(run_dir: Path) -> None:
    with pytest.raises(InputError, match="VAE"):
        painter_of(VAE((8, 8), 1, structures=1))
    release = sampled(run_dir)
    verify_release(release)
    assert "beside each image, made with it" in (release / "README.md").read_text()
    assert "edited_from" not in (release / "synthetic_cohort.csv").read_text()
