"""A release of pairs: masks beside their images in both formats, listed, repeatable, and checked by verify."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pair_cohort import pair_config, pair_preprocess, write_pairs
from PIL import Image

from imgsynth.cohort.masks import label_map
from imgsynth.files import read_json
from imgsynth.release.folder import CHECKSUMS, write_checksums
from imgsynth.release.images import release_mask
from imgsynth.release.sample import sample_release
from imgsynth.release.verify import checked, examine, verify_release
from imgsynth.schema import DataConfig, PreprocessConfig
from imgsynth.training.loop import train
from imgsynth.training.run import load_run, model_factory
from imgsynth.types import CheckFailed, Grid, InputError, Structure
from imgsynth.volumes.dicom_seg import read_segmentation

VAE = {"_target_": "imgsynth.models.VAE", "latent": 2, "channels": 4, "widest": 8}
TRAINED = {"steps": 60, "learning_rate": 2e-2, "ema": 0.9, "sheet_every": 1000}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MR volumes, so BIDS; stored from right to left, so that the release turns its slices round."""
    folder = tmp_path_factory.mktemp("pairs")
    cfg = pair_config(write_pairs(folder / "source"), folder, VAE, trainer=TRAINED,
                      privacy={"mode": "none", "epsilon": None}, sample={"n": 3, "seed": 5})  # fmt: skip
    cfg = replace(cfg, preprocess=pair_preprocess(orientation="LAS"))
    return train(cfg, folder / "run", model_factory(cfg.model))


@pytest.fixture(scope="module")
def release(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = sample_release(run_dir, load_run(run_dir).config)
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("released") / "release"))


@pytest.fixture
def tampered(release: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(release, tmp_path / "release"))


def seal(folder: Path) -> None:
    """New checksums, so that what is found is not the checksum."""
    (folder / CHECKSUMS).unlink()
    write_checksums(folder)


def faults(folder: Path) -> list[str]:
    seal(folder)
    with pytest.raises(CheckFailed) as caught:
        verify_release(folder)
    return [str(fault) for fault in caught.value.faults if "NOT RELEASABLE" not in str(fault)]


def only_not_releasable(folder: Path) -> bool:
    """The run was made without privacy, so that its labels mean something: verify says that, and nothing else."""
    with pytest.raises(CheckFailed) as caught:
        verify_release(folder)
    assert [f for f in caught.value.faults if f.where != "NOT RELEASABLE"] == []
    return True


def cohort(folder: Path) -> dict:
    return json.loads((folder / "synthetic_cohort.json").read_text())


def test_both_formats_hold_the_same_labels_on_their_image(release: Path) -> None:
    seen: set[int] = set()
    for patient in cohort(release)["patients"]:
        dicom, nifti = patient["masks"]
        labels, affine = read_segmentation(release / dicom)
        mask, image = nib.load(release / nifti), nib.load(release / patient["nifti"][0])
        assert mask.get_data_dtype() == np.uint8 and np.array_equal(np.asarray(mask.dataobj), labels)
        np.testing.assert_allclose(mask.affine, image.affine)
        np.testing.assert_allclose(affine, image.affine, atol=1e-4)
        seen |= set(np.unique(labels).tolist())
    assert seen == {0, 1, 2}


def test_the_labels_are_those_that_the_model_made(run_dir: Path) -> None:
    run = load_run(run_dir)
    x_C = np.random.default_rng(0).uniform(-1, 1, (3, 8, 12, 8)).astype(np.float32)
    mask = release_mask(x_C[1:], run.grid)
    assert np.linalg.det(mask.affine[:3, :3]) > 0  # turned round, as LAS is left-handed
    assert np.array_equal(mask.array, label_map(x_C[1:])[:, :, ::-1])


def test_tables_list_the_masks_and_say_what_their_values_are(release: Path) -> None:
    rows = list(csv.DictReader((release / "synthetic_cohort.csv").open()))
    assert rows[0]["masks"] == "dicom/SYN-000001/SEG;nifti/sub-syn0001/anat/sub-syn0001_desc-synthetic_dseg.nii.gz"
    table = (release / "nifti" / "desc-synthetic_dseg.tsv").read_text()
    assert table == "index\tname\n0\tbackground\n1\tcore\n2\trim\n"
    assert cohort(release)["grid"]["structures"][1] == {
        "name": "rim", "value": 4, "code": ["SCT", "91723000", "Anatomical structure"],
    }  # fmt: skip


def test_bids_validator_finds_no_error(release: Path) -> None:
    validator = shutil.which("bids-validator-deno")
    if validator is None:
        pytest.skip("bids-validator-deno is not installed (pip install bids-validator-deno)")
    found = subprocess.run([validator, str(release / "nifti"), "--json"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-2000:]


def test_a_seed_gives_the_same_bytes_again(run_dir: Path, release: Path) -> None:
    again = sample_release(run_dir, load_run(run_dir).config)
    assert (again / CHECKSUMS).read_bytes() == (release / CHECKSUMS).read_bytes()


def test_verify_finds_the_masks_sound(release: Path) -> None:
    assert only_not_releasable(release)
    said = checked(examine(release))
    masks = [name for patient in read_json(release / "synthetic_cohort.json")["patients"] for name in patient["masks"]]
    assert any(line.split()[:2] == ["masks", str(len(masks))] for line in said)


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], shift: float = 0.0) -> None:
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += shift
    header = image.header.copy()
    new = nib.Nifti1Image(change(np.asarray(image.dataobj).copy()), affine, header)
    new.set_qform(affine, 1)
    new.set_sform(affine, 1)
    path.write_bytes(b"")
    nib.save(new, path)


def put(array: np.ndarray, value: int) -> np.ndarray:
    array[0, 0, 0] = value
    return array


def redicom(path: Path, change: Callable[[pydicom.Dataset], object]) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def rename(dataset: pydicom.Dataset) -> None:
    dataset.SegmentSequence[0].SegmentLabel = "another"


def refer(dataset: pydicom.Dataset) -> None:
    dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = "2.25.1"


def move(dataset: pydicom.Dataset) -> None:
    for group in dataset.PerFrameFunctionalGroupsSequence:
        at = group.PlanePositionSequence[0]
        at.ImagePositionPatient = [float(v) + 1 for v in at.ImagePositionPatient]


def flip_bits(dataset: pydicom.Dataset) -> None:
    dataset.PixelData = bytes([dataset.PixelData[0] ^ 1]) + dataset.PixelData[1:]


NIFTI = {
    "a value beyond the declared": (lambda p: rewrite(p, lambda a: put(a, 3)), "values [3.0]"),
    "other voxels than in DICOM": (lambda p: rewrite(p, lambda a: put(a, 1 - int(a[0, 0, 0] > 0))), "other voxels"),
    "another place": (lambda p: rewrite(p, lambda a: a, 1.0), "the image's"),
    "another shape": (lambda p: rewrite(p, lambda a: a[:-1]), "voxels; expected"),
}
DICOM = {
    "another label": (rename, "SegmentSequence"),
    "another series": (refer, "ReferencedSeriesSequence"),
    "another place ": (move, "the image's"),
    "another voxel": (flip_bits, "other voxels"),
    "not marked synthetic": (lambda d: setattr(d, "SyntheticData", "NO"), "SyntheticData"),
    "another frame of reference": (lambda d: setattr(d, "FrameOfReferenceUID", "2.25.3"), "FrameOfReferenceUID"),
    "a name of a person": (lambda d: setattr(d, "OperatorsName", "Doe^J"), "OperatorsName"),
    "a private element": (lambda d: d.add_new(0x00091001, "LO", "x"), "private"),
    "a date": (lambda d: setattr(d, "ContentDate", "20260101"), "ContentDate"),
    "another patient": (lambda d: setattr(d, "PatientID", "SYN-000002"), "PatientID"),
}


@pytest.mark.parametrize("what", NIFTI)
def test_verify_catches_in_a_nifti_mask(tampered: Path, what: str) -> None:
    change, said = NIFTI[what]
    change(tampered / cohort(tampered)["patients"][0]["masks"][1])
    found = faults(tampered)
    assert any(said in fault for fault in found), found


@pytest.mark.parametrize("what", DICOM)
def test_verify_catches_in_a_segmentation(tampered: Path, what: str) -> None:
    change, said = DICOM[what]
    redicom(tampered / cohort(tampered)["patients"][0]["masks"][0], change)
    found = faults(tampered)
    assert any(said in fault for fault in found), found


def test_verify_catches_a_mask_that_is_not_listed_or_not_there(tampered: Path) -> None:
    path = tampered / "synthetic_cohort.json"
    value = json.loads(path.read_text())
    name, value["patients"][0]["masks"] = value["patients"][0]["masks"][0], []
    path.write_text(json.dumps(value))
    found = faults(tampered)
    assert any("SYN-000001: masks" in fault for fault in found)
    assert any(name in fault and "no synthetic patient" in fault for fault in found)


def test_verify_catches_a_table_that_says_otherwise(tampered: Path) -> None:
    table = tampered / "nifti" / "desc-synthetic_dseg.tsv"
    table.write_text(table.read_text().replace("core", "edge"))
    assert any("desc-synthetic_dseg.tsv" in fault for fault in faults(tampered))
    table.unlink()
    assert any("desc-synthetic_dseg.tsv" in fault for fault in faults(tampered))


def test_verify_catches_one_segmentation_twice(tampered: Path) -> None:
    first, second = (p["masks"][0] for p in cohort(tampered)["patients"][:2])
    shutil.copy(tampered / first, tampered / second)
    assert any("more than once" in fault for fault in faults(tampered))


def test_radiographs_have_masks_too(tmp_path: Path) -> None:
    for case in range(6):
        labels = np.zeros((16, 16), np.uint8)
        labels[4 + case : 9 + case, 2:7], labels[4 + case : 9 + case, 7:9] = 1, 4
        for folder, array in (("imagesTr", 50 * labels), ("labelsTr", labels)):
            (tmp_path / "source" / folder).mkdir(exist_ok=True, parents=True)
            Image.fromarray(array).save(tmp_path / "source" / folder / f"case_{case}.png")
    cfg = pair_config(tmp_path / "source", tmp_path, VAE, sample={"n": 2})
    data = DataConfig(kind="nifti", root=str(tmp_path / "source"), modality="DX", masks=cfg.data.masks)
    cfg = replace(cfg, data=data, preprocess=PreprocessConfig(shape=[16, 16], fit="resize", low=0, high=255))
    made = sample_release(train(cfg, tmp_path / "run", model_factory(cfg.model)), cfg)
    found = verify_release(made)
    assert found["masks"] == 4 and (made / "nifti" / "dseg.tsv").is_file()
    assert (made / "nifti" / "SYN-000001_dseg.nii.gz").is_file()


def test_without_the_package_that_writes_them_nothing_is_begun(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgsynth.volumes.dicom_seg.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install imgsynth\[package\]"):
        sample_release(run_dir, load_run(run_dir).config)


def test_a_mask_of_a_single_image_is_on_its_plane() -> None:
    grid = Grid((4, 6), (1.0, 1.0), "IL", "DX", "a.u.", 0, 1, (Structure("a", 1),))
    mask = release_mask(np.ones((1, 4, 6), np.float32), grid)
    assert mask.array.shape == (4, 6, 1) and mask.array.all() and mask.array.dtype == np.uint8
