"""Masks: declared in public, checked with the cohort, and moved as their images are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import RandAdjustContrast, RandFlip, RandGaussianNoise, RandRotate90
from pair_cohort import AFFINE, MASKS, VALUES, pair_data, pair_preprocess, write_pairs
from PIL import Image

from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.manifest import Manifest
from imgsynth.cohort.masks import declaration_faults, label_map, structures_of
from imgsynth.schema import DataConfig, PreprocessConfig
from imgsynth.types import InputError, Structure


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs")


def mask_of(root: Path, patient: str) -> Path:
    return root / "labelsTr" / f"{patient}.nii.gz"


def rewrite(path: Path, array: np.ndarray | None = None, affine: np.ndarray | None = None) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) if array is None else array,
                             image.affine if affine is None else affine), path)  # fmt: skip


def labels_of(x_C: torch.Tensor) -> np.ndarray:
    return np.array([0, *VALUES])[label_map(x_C[1:].numpy())]


def looked_up(array: np.ndarray, shape: tuple[int, ...], spacing: np.ndarray, inside: float) -> np.ndarray:
    """The mask at the centre of each voxel of a grid in RAS, by plain arithmetic: -1 where a voxel's centre lies within
    ``inside`` voxels of the border of the source, which the oracle says nothing about."""
    source_mm = np.abs(np.diag(AFFINE)[:3])
    array = array[::-1]  # the source runs to the left
    out = np.zeros(shape, int)
    for index in np.ndindex(shape):
        at = (np.array(index) - (np.array(shape) - 1) / 2) * spacing / source_mm + (np.array(array.shape) - 1) / 2
        if (np.abs(at + 0.5 - np.clip(at + 0.5, 0, array.shape)) > inside).any():
            continue  # beyond the field of view: background
        near = np.rint(at).astype(int)
        edge = np.minimum(at + 0.5, np.array(array.shape) - at - 0.5).min() < inside
        out[index] = -1 if edge else array[tuple(near)]
    return out


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.5), (1.3, 1.7, 2.9), (3.1, 2.3, 1.9)])
def test_a_mask_is_looked_up_where_its_image_is(pairs: Path, spacing: tuple[float, ...]) -> None:
    manifest, _ = build_manifest(pair_data(pairs))
    data = PatientDataset(manifest, "train", pair_preprocess(shape=[10, 14, 9], spacing=list(spacing)))
    for patient, x_C, _ in data.all_images():
        assert x_C.shape == (3, 10, 14, 9) and set(x_C[1:].unique().tolist()) <= {-1.0, 1.0}
        expected = looked_up(np.asarray(nib.load(mask_of(pairs, patient)).dataobj), (10, 14, 9), np.array(spacing), 1.0)
        sure = expected >= 0
        assert (labels_of(x_C)[sure] == expected[sure]).all() and (expected > 0).sum() > 20
        if spacing == (2.0, 2.0, 2.5):  # no resampling: a structure is where its brightness is
            grey = (x_C[0].numpy() + 1) / 2 * 170
            assert (grey[labels_of(x_C) == 4] > 115).all() and (grey[labels_of(x_C) == 0] < 55).all()


def test_the_image_is_what_it_is_without_its_mask(pairs: Path) -> None:
    for more in ({}, {"fit": "resize", "spacing": None}, {"spacing": [3.1, 2.3, 1.9]}):
        config = pair_preprocess(**more)
        alone, beside = (
            [x[:1] for _, x, _ in PatientDataset(build_manifest(data)[0], "train", config).all_images()]
            for data in (dataclasses.replace(pair_data(pairs), masks=None), pair_data(pairs))
        )
        assert all(torch.equal(a, b) for a, b in zip(alone, beside, strict=True))


def test_random_transforms_move_image_and_mask_together(pairs: Path) -> None:
    manifest, _ = build_manifest(pair_data(pairs))
    config = pair_preprocess(shape=[8, 8, 8])
    extra = [RandFlip(0.5, 0), RandFlip(0.5, 1), RandRotate90(0.5)]
    data = PatientDataset(manifest, "train", config, extra=extra)
    plain = {patient: x_C for patient, x_C, _ in PatientDataset(manifest, "train", config).all_images()}
    moved = 0
    for _ in range(3):
        for patient, x_C, _ in data.all_images():
            grey = (x_C[0].numpy() + 1) / 2 * 170
            assert (labels_of(x_C) == np.where(grey > 115, 4, np.where(grey > 55, 1, 0))).all()
            moved += not torch.equal(x_C, plain[patient])
    assert moved > 5


def test_intensity_transforms_leave_the_mask(pairs: Path) -> None:
    manifest, _ = build_manifest(pair_data(pairs))
    extra = [RandGaussianNoise(1.0, std=0.8), RandAdjustContrast(1.0, (3.0, 4.0))]
    plain = PatientDataset(manifest, "train", pair_preprocess())
    first, second = ([x for _, x, _ in data.all_images()] for data in
                     [PatientDataset(manifest, "train", pair_preprocess(), extra=extra)] * 2)  # fmt: skip
    for (_, x_C, _), noisy, again in zip(plain.all_images(), first, second, strict=True):
        assert torch.equal(noisy[1:], x_C[1:])
        assert not torch.equal(noisy[:1], x_C[:1]) and not torch.equal(noisy[:1], again[:1])  # drawn anew


def test_a_transform_that_a_mask_cannot_follow_is_refused(pairs: Path) -> None:
    class Invert:
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return -x

    manifest, _ = build_manifest(pair_data(pairs))
    with pytest.raises(InputError, match=r"Invert, with data\.masks"):
        PatientDataset(manifest, "train", pair_preprocess(), extra=[Invert()])


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_batches_have_a_channel_for_each_structure_in_every_cache(pairs: Path, tmp_path: Path, cache: str) -> None:
    manifest, _ = build_manifest(pair_data(pairs))
    expected = [x for _, x, _ in PatientDataset(manifest, "train", pair_preprocess()).all_images()]
    for _ in range(2):
        data = PatientDataset(manifest, "train", pair_preprocess(), cache=cache, cache_dir=tmp_path / "cache")
        batch = data.batch([0, 2])
        assert batch.x_PKC.shape == (2, 1, 3, 8, 12, 8)
        torch.testing.assert_close(batch.x_PKC[:, 0], torch.stack([expected[0], expected[2]]))
        assert data.batch([]).x_PKC.shape == (0, 1, 3, 8, 12, 8)


def test_the_disk_cache_follows_a_mask_that_was_redrawn_and_another_declaration(pairs: Path, tmp_path: Path) -> None:
    def first(masks: list) -> torch.Tensor:
        manifest, _ = build_manifest(dataclasses.replace(pair_data(pairs), masks=masks))
        data = PatientDataset(manifest, "train", pair_preprocess(), cache="disk", cache_dir=tmp_path / "cache")
        return next(data.all_images())[1]

    before = first(MASKS)
    swapped = first([MASKS[1], {"name": "core", "value": 1}])
    assert torch.equal(swapped[[0, 2, 1]], before) and not torch.equal(swapped, before)
    for path in (pairs / "labelsTr").iterdir():
        rewrite(path, np.asarray(nib.load(path).dataobj)[::-1].copy())
    assert not torch.equal(first(MASKS)[1:], before[1:])


def test_every_unfit_mask_is_named_at_once(pairs: Path) -> None:
    bad = np.asarray(nib.load(mask_of(pairs, "case_001")).dataobj).copy()
    bad[0, 0, 0] = 3
    rewrite(mask_of(pairs, "case_001"), bad)
    rewrite(mask_of(pairs, "case_006"), bad)
    with pytest.raises(InputError, match=r"3 \(in 2\) masks, labelsTr/case_001.nii.gz, labelsTr/case_006.nii.gz"):
        build_manifest(pair_data(pairs))
    moved = AFFINE.copy()
    moved[0, 3] += 0.5
    rewrite(mask_of(pairs, "case_002"), affine=moved)
    rewrite(mask_of(pairs, "case_003"), bad[:-1])
    mask_of(pairs, "case_004").write_bytes(b"no NIfTI")
    mask_of(pairs, "case_005").unlink()
    with pytest.raises(InputError) as caught:
        build_manifest(pair_data(pairs))
    said = {Path(f.where).name: str(f) for f in caught.value.faults}
    assert set(said) == {"case_002.nii.gz", "case_003.nii.gz", "case_004.nii.gz", "data.masks"}
    assert "no fit mask beside 4 of 8 images: imagesTr/case_002" in said["data.masks"]


def test_fractional_values_are_no_labels(pairs: Path) -> None:
    path = mask_of(pairs, "case_001")
    rewrite(path, np.asarray(nib.load(path).dataobj).astype(np.float32) * 0.25)
    with pytest.raises(InputError, match=r"0.25 \(in 1\)"):
        build_manifest(pair_data(pairs))


def test_a_source_without_masks_is_refused(npz: Path) -> None:
    data = DataConfig(kind="npz", root=str(npz), modality="DX", classes=["0", "1"], masks=["a"])
    with pytest.raises(InputError, match="no fit mask beside 12 of 12 images"):
        build_manifest(data)


def test_pictures_have_masks_too(tmp_path: Path) -> None:
    """2D, as nnU-Net lays it out: PNG images and PNG masks."""
    for case in range(4):
        labels = np.zeros((12, 10), np.uint8)
        labels[3 + case : 7 + case, 2:5], labels[3 + case : 7 + case, 5:6] = 1, 4
        for folder, array in (("imagesTr", 50 * labels), ("labelsTr", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / f"case_{case}.png")
    manifest, _ = build_manifest(DataConfig(kind="nifti", root=str(tmp_path), modality="DX", masks=MASKS))
    data = PatientDataset(manifest, "train", PreprocessConfig(shape=[12, 10], fit="resize", low=0, high=255))
    for patient, x_C, _ in data.all_images():
        written = np.asarray(Image.open(tmp_path / "labelsTr" / f"{patient}.png"))
        assert x_C.shape == (3, 12, 10) and (labels_of(x_C) == written).all()
        np.testing.assert_allclose((x_C[0].numpy() + 1) / 2 * 255, 50 * written, atol=0.01)


def test_a_mask_that_changed_since_is_refused(pairs: Path) -> None:
    manifest, _ = build_manifest(pair_data(pairs))
    patients = manifest.patients("train")
    rewrite(mask_of(pairs, patients[0]), np.zeros((10, 12, 9), np.uint8))
    mask_of(pairs, patients[1]).unlink()
    with pytest.raises(InputError) as caught:
        PatientDataset(manifest, "train", pair_preprocess())
    assert {Path(fault.where).name for fault in caught.value.faults} == {f"{p}.nii.gz" for p in patients[:2]}


def test_with_masks_and_without_it_is_the_same_cohort_of_the_ledger(pairs: Path, tmp_path: Path) -> None:
    without, _ = build_manifest(dataclasses.replace(pair_data(pairs), masks=None))
    manifest, _ = build_manifest(pair_data(pairs))
    assert manifest.fingerprint == without.fingerprint and without.structures == ()
    assert [item.split for item in manifest.items] == [item.split for item in without.items]
    again = Manifest.load(manifest.hashed(bytes(32)).save(tmp_path / "manifest.json"))
    assert again == manifest.hashed(bytes(32)) and again.structures == structures_of(MASKS)
    value = json.loads((tmp_path / "manifest.json").read_text())
    del value["structures"]  # a manifest of before
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    assert Manifest.load(tmp_path / "manifest.json").structures == ()


def test_declarations() -> None:
    assert structures_of(None) == ()
    assert structures_of(["a", {"name": "b"}, {"name": "c", "value": 17, "code": ["SCT", 10200004, "Liver"]}]) == (
        Structure("a", 1), Structure("b", 2), Structure("c", 17, ("SCT", "10200004", "Liver")),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ([], "0 structures"),
        (["a", "a"], "names"),
        (["a", {"name": "b", "value": 1}], "values"),
        ([""], "name"),
        (["niño"], "name"),
        (["x" * 65], "name"),
        ([{"name": "a", "value": 0}], "value"),
        ([{"name": "a", "value": True}], "value"),
        ([{"name": "a", "valeu": 2}], "valeu"),
        ([{"name": "a", "code": ["SCT", "1"]}], "code"),
        ([3], "3"),
        ([f"s{i}" for i in range(256)], "256 structures"),
    ],
)
def test_what_is_no_declaration_is_said(masks: list, said: str) -> None:
    faults = list(declaration_faults(masks))
    assert faults and any(said in str(fault) for fault in faults)
    assert not list(declaration_faults(None)) and not list(declaration_faults(MASKS))


def test_the_most_probable_wins_the_background_included() -> None:
    p_MV = np.array([[0.6, 0.2, 0.35, 0.5, 0.0], [0.1, 0.7, 0.4, 0.5, 0.0]])
    assert label_map(2 * p_MV - 1).tolist() == [1, 2, 2, 1, 0]
    assert label_map(2 * np.array([[0.4, 0.5, 0.51]]) - 1).tolist() == [0, 0, 1]
    assert label_map(np.full((2, 3), -1.0)).dtype == np.uint8
