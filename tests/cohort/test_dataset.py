from __future__ import annotations

import dataclasses
import stat
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Flip, RandFlip, RandGaussianNoise

from imgsynth.cohort import cache as module
from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.load import load_volume
from imgsynth.cohort.manifest import Manifest
from imgsynth.cohort.transforms import build_transforms
from imgsynth.schema import DataConfig, PreprocessConfig
from imgsynth.types import InputError

RADIOGRAPH = PreprocessConfig(shape=[16, 16], fit="resize", low=0.0, high=255.0)
MR = PreprocessConfig(shape=[8, 8, 8], fit="resize", intensity="percentile", low=0.0, high=1000.0)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Patients p0, p1, … with 1, 2, 3, 4, 5, 1, 2, … images; every pixel of an image is its row number."""
    counts = [1 + n % 5 for n in range(12)]
    patients = np.repeat([f"p{n:02d}" for n in range(12)], counts)
    rows = np.arange(len(patients), dtype=np.uint8)
    images = np.tile(rows[:, None, None], (1, 16, 16))
    path = tmp_path / "counted.npz"
    np.savez(path, images=images, patient_ids=patients, labels=rows % 2)
    return build_manifest(DataConfig(kind="npz", root=str(path), modality="DX", classes=["even", "odd"]))[0]


def row_of(x: torch.Tensor) -> int:
    return round(float((x.flatten()[0] + 1) / 2 * 255))


def test_an_item_is_a_patient_with_weights_that_sum_to_one(manifest: Manifest) -> None:
    data = PatientDataset(manifest, "train", RADIOGRAPH, images_per_patient=3)
    assert len(data) == len(manifest.patients("train"))
    for index in range(len(data)):
        own = manifest.by_patient[data.patient(index)]
        x, y, w = data[index]
        assert (x.shape, y.shape, w.shape) == ((3, 1, 16, 16), (3,), (3,))
        assert (x.dtype, y.dtype, w.dtype) == (torch.float32, torch.long, torch.float32)
        used = min(3, len(own))
        assert w.tolist() == pytest.approx([1 / used] * used + [0.0] * (3 - used))
        drawn = [row_of(image) for image in x[:used]]
        assert len(set(drawn)) == used
        assert set(drawn) <= {item.row for item in own}
        assert y[:used].tolist() == [row % 2 for row in drawn]
        assert not x[used:].any()


def test_every_subset_is_drawn_equally_often(manifest: Manifest) -> None:
    data = PatientDataset(manifest, "train", RADIOGRAPH, images_per_patient=2)
    index = next(i for i in range(len(data)) if len(manifest.by_patient[data.patient(i)]) == 4)
    seen = Counter(frozenset(row_of(x) for x in data[index][0]) for _ in range(600))
    assert len(seen) == 6
    assert sum((count - 100) ** 2 / 100 for count in seen.values()) < 30  # chi², 5 degrees of freedom: p = 1e-5


def test_a_generator_makes_the_draw_repeatable(manifest: Manifest) -> None:
    def draws(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        data = PatientDataset(manifest, "train", RADIOGRAPH, images_per_patient=2, generator=generator)
        return [[row_of(x) for x in data[i][0]] for i in range(len(data))]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


def test_batches(manifest: Manifest) -> None:
    data = PatientDataset(manifest, "train", RADIOGRAPH, images_per_patient=5)
    batch = data.batch([2, 0, 2])
    assert (batch.x_PKC.shape, batch.y_PK.shape, batch.w_PK.shape) == ((3, 5, 1, 16, 16), (3, 5), (3, 5))
    torch.testing.assert_close(batch.x_PKC[0], data[2][0])
    torch.testing.assert_close(batch.w_PK.sum(1), torch.ones(3))
    empty = data.batch([])
    assert len(empty) == 0
    assert (empty.x_PKC.shape, empty.y_PK.shape, empty.w_PK.shape) == ((0, 5, 1, 16, 16), (0, 5), (0, 5))
    assert empty.y_PK.dtype == torch.long


def test_splits_share_no_patient_and_all_images_come_once(manifest: Manifest) -> None:
    seen: list[int] = []
    for split in ("train", "holdout", "test"):
        data = PatientDataset(manifest, split, RADIOGRAPH)  # type: ignore[arg-type]
        triples = list(data.all_images())
        assert {patient for patient, _, _ in triples} == set(manifest.patients(split))  # type: ignore[arg-type]
        for patient, x, y in triples:
            row = row_of(x)
            assert row in {item.row for item in manifest.by_patient[patient]}
            assert y == row % 2
            seen.append(row)
    assert sorted(seen) == list(range(len(manifest.items)))


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_every_cache_gives_what_loading_and_transforming_gives(decathlon: Path, tmp_path: Path, cache: str) -> None:
    manifest, _ = build_manifest(DataConfig(kind="nifti", root=str(decathlon)))
    for _ in range(2):
        data = PatientDataset(manifest, "train", MR, cache=cache, cache_dir=tmp_path / "cache")
        transform = build_transforms(MR, data.grid)
        for patient, x, _ in data.all_images():
            expected = transform(load_volume(manifest, manifest.by_patient[patient][0]))
            torch.testing.assert_close(x, expected)
            assert type(x) is torch.Tensor


def test_worker_processes_give_the_same(decathlon: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, _ = build_manifest(DataConfig(kind="nifti", root=str(decathlon)))
    alone = [x for _, x, _ in PatientDataset(manifest, "train", MR).all_images()]
    monkeypatch.setattr(module, "PARALLEL_FROM", 1)
    together = [x for _, x, _ in PatientDataset(manifest, "train", MR).all_images()]
    torch.testing.assert_close(together, alone)


def test_the_disk_cache_is_never_stale_and_for_its_owner_alone(decathlon: Path, tmp_path: Path) -> None:
    data = DataConfig(kind="nifti", root=str(decathlon))
    manifest, _ = build_manifest(data)
    folder = tmp_path / "cache"

    def first(manifest: Manifest, config: PreprocessConfig) -> torch.Tensor:
        return next(PatientDataset(manifest, "train", config, cache="disk", cache_dir=folder).all_images())[1]

    before = first(manifest, MR)
    other = first(manifest, dataclasses.replace(MR, intensity="minmax"))
    assert not torch.equal(before, other)
    assert len(list(folder.iterdir())) == 2
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in folder.iterdir())
    path = Path(manifest.root) / manifest.by_patient[manifest.patients("train")[0]][0].files[0]
    nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj)[::-1].copy(), nib.load(path).affine), path)
    changed, _ = build_manifest(data)
    assert not torch.equal(first(changed, MR), before)


def test_the_disk_cache_survives_a_file_that_was_cut_short(decathlon: Path, tmp_path: Path) -> None:
    manifest, _ = build_manifest(DataConfig(kind="nifti", root=str(decathlon)))
    whole = [
        x for _, x, _ in PatientDataset(manifest, "train", MR, cache="disk", cache_dir=tmp_path / "c").all_images()
    ]
    for path in (tmp_path / "c").rglob("*.pt"):
        path.write_bytes(path.read_bytes()[:700])
    again = [
        x for _, x, _ in PatientDataset(manifest, "train", MR, cache="disk", cache_dir=tmp_path / "c").all_images()
    ]
    torch.testing.assert_close(again, whole)


@pytest.mark.parametrize("parallel_from", [1, 1000])
@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_all_faults_of_loading_come_together(
    decathlon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallel_from: int, cache: str
) -> None:
    manifest, _ = build_manifest(DataConfig(kind="nifti", root=str(decathlon)))
    first, second = (manifest.by_patient[p][0].files[0] for p in manifest.patients("train")[:2])
    (decathlon / first).unlink()
    (decathlon / second).write_bytes(b"nothing")
    monkeypatch.setattr(module, "PARALLEL_FROM", parallel_from)
    with pytest.raises(InputError) as caught:
        PatientDataset(manifest, "train", MR, cache=cache, cache_dir=tmp_path / "c")
    assert sorted(Path(fault.where).name for fault in caught.value.faults) == sorted(
        Path(n).name for n in (first, second)
    )


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_random_extras_are_drawn_at_each_access(decathlon: Path, tmp_path: Path, cache: str) -> None:
    manifest, _ = build_manifest(DataConfig(kind="nifti", root=str(decathlon)))
    flip = RandFlip(prob=0.5, spatial_axis=0)
    flip.set_random_state(0)
    data = PatientDataset(manifest, "train", MR, cache=cache, cache_dir=tmp_path / "c", extra=[flip])
    plain = PatientDataset(manifest, "train", MR)[0][0]
    seen = {bool(torch.equal(data[0][0], plain)) for _ in range(20)}
    assert seen == {True, False}
    assert type(data.batch([0]).x_PKC) is torch.Tensor
    always = RandFlip(prob=1.0, spatial_axis=0)  # applied once, not once for the cache and once for each access
    flipped = PatientDataset(manifest, "train", MR, cache=cache, cache_dir=tmp_path / "once", extra=[always])
    torch.testing.assert_close(flipped[0][0], plain.flip(2))


def test_volumes_for_a_flat_grid_are_refused_at_once(decathlon: Path) -> None:
    manifest, _ = build_manifest(DataConfig(kind="nifti", root=str(decathlon)))
    with pytest.raises(InputError, match="three numbers") as caught:
        PatientDataset(manifest, "train", PreprocessConfig(shape=[8, 8], fit="resize"))
    assert len(caught.value.faults) == len(manifest.patients("train"))


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_copies_of_an_image_draw_their_own_random_transforms_and_share_its_weight(
    manifest: Manifest, tmp_path: Path, cache: str
) -> None:
    extra = [RandGaussianNoise(prob=1.0, std=0.01)]
    data = PatientDataset(
        manifest, "train", RADIOGRAPH, images_per_patient=2, cache=cache, cache_dir=tmp_path, extra=extra, copies=3
    )
    for index in range(len(data)):
        x, y, w = data[index]
        used = min(2, len(manifest.by_patient[data.patient(index)]))
        assert (x.shape, y.shape, w.shape) == ((6, 1, 16, 16), (6,), (6,))
        assert w.tolist() == pytest.approx([1 / (3 * used)] * (3 * used) + [0.0] * (6 - 3 * used))
        rows = [round(float((image.mean() + 1) / 2 * 255)) for image in x[: 3 * used]]
        assert rows == [row for row in rows[::3] for _ in range(3)] and len(set(rows)) == used
        assert y[: 3 * used].tolist() == [row % 2 for row in rows]
        assert len({float(image.std()) for image in x[: 3 * used]}) == 3 * used  # no copy is like another
    assert data.batch([0, 1]).x_PKC.shape == (2, 6, 1, 16, 16) and data.batch([]).w_PK.shape == (0, 6)


class Brighter:
    """A transform of a user's own, with a setting."""

    def __init__(self, by: float):
        self.by = by

    def __call__(self, x_C: torch.Tensor) -> torch.Tensor:
        return x_C + self.by


def test_the_disk_cache_knows_transforms_by_their_code_and_settings(
    decathlon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = build_manifest(DataConfig(kind="nifti", root=str(decathlon)))

    def folder(*extra: object) -> Path | None:
        return module.cache_folder(manifest, MR, extra, tmp_path)

    folders = [folder(), folder(Brighter(0.1)), folder(Brighter(0.2)), folder(Flip(0)), folder(Flip(0), Flip(1))]
    assert len(set(folders)) == 5
    assert folder(Brighter(0.2)) == folders[2] and folder(Flip(0)) == folders[3]
    monkeypatch.setattr(module, "_source", lambda: "another state of the code")
    assert folder() not in folders


def test_frames_of_one_file_are_different_images(manifest: Manifest) -> None:
    item = manifest.items[0]
    stacks = [dataclasses.replace(item, frames=frames) for frames in ((0, 1), (2, 3))]
    assert len({module._key(one) for one in (item, *stacks)}) == 3
    assert module._key(dataclasses.replace(item, label="odd", split="test")) == module._key(item)


@pytest.mark.parametrize("copies", [1, 2])
def test_a_buffer_is_used_and_what_was_in_it_is_gone(manifest: Manifest, copies: int) -> None:
    """Padding too: whatever the buffer held, a batch in it is the batch without it."""
    data = PatientDataset(manifest, "train", RADIOGRAPH, images_per_patient=5, copies=copies)
    buffer = torch.full((200, 1, 16, 16), float("nan"))
    for indices in ([3, 1], [], list(range(len(data)))):
        given, fresh = data.batch(indices, buffer), data.batch(indices)
        torch.testing.assert_close(given.w_PK, fresh.w_PK)
        assert given.x_PKC.shape == fresh.x_PKC.shape == (len(indices), 5 * copies, 1, 16, 16)
        assert given.x_PKC.data_ptr() == buffer.data_ptr() or not indices
        assert not given.x_PKC[given.w_PK == 0].any() and given.x_PKC.isfinite().all()
        rows = [
            [row_of(x) for x, w in zip(*own, strict=True) if w] for own in zip(given.x_PKC, given.w_PK, strict=True)
        ]
        expected = [[i.row for i in manifest.by_patient[data.patient(p)] for _ in range(copies)] for p in indices]
        assert rows == expected
        assert [[r % 2 for r in own] for own in rows] == [
            y[w > 0].tolist() for y, w in zip(given.y_PK, given.w_PK, strict=True)
        ]


def test_parts_are_every_patient_once(manifest: Manifest) -> None:
    whole = PatientDataset(manifest, "train", RADIOGRAPH)
    parts = [PatientDataset(manifest, "train", RADIOGRAPH, part=(rank, 3)) for rank in range(3)]
    names = [[part.patient(i) for i in range(len(part))] for part in parts]
    assert [names[i % 3][i // 3] for i in range(len(whole))] == [whole.patient(i) for i in range(len(whole))]
    assert sum(len(list(part.all_images())) for part in parts) == len(list(whole.all_images()))
