"""Small real cohorts on disk, each in the layout of its kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from imgsynth.cohort.manifest import Item, Manifest
from imgsynth.cohort.phantom import make_phantoms
from imgsynth.schema import PhantomConfig

Write = Callable[..., Path]


@pytest.fixture
def write_nifti() -> Write:
    def write(path: Path, seed: int = 0, shape: tuple[int, ...] = (10, 12, 9), dtype: type = np.int16) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
        nib.save(nib.Nifti1Image(array, np.diag([-2.0, 2.0, 2.5, 1.0])), path)
        return path

    return write


@pytest.fixture
def decathlon(tmp_path: Path, write_nifti: Write) -> Path:
    """imagesTr with 8 cases, labelsTr, dataset.json, and a hidden file that macOS leaves behind."""
    root = tmp_path / "Task99"
    for case in range(8):
        write_nifti(root / "imagesTr" / f"case_{case:03d}.nii.gz", case)
        write_nifti(root / "labelsTr" / f"case_{case:03d}.nii.gz", 100 + case, dtype=np.uint8)
    (root / "imagesTr" / "._case_000.nii.gz").write_bytes(b"resource fork")
    (root / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}}))
    return root


@pytest.fixture
def bids(tmp_path: Path, write_nifti: Write) -> Path:
    """Six subjects, one of them with two sessions, a mask, a functional image, a derivative and participants.tsv."""
    root = tmp_path / "bids"
    for n in range(6):
        write_nifti(root / f"sub-{n:02d}" / "anat" / f"sub-{n:02d}_T1w.nii.gz", n)
    write_nifti(root / "sub-00" / "ses-02" / "anat" / "sub-00_ses-02_T1w.nii.gz", 50)
    write_nifti(root / "sub-01" / "anat" / "sub-01_mask.nii.gz", 60, dtype=np.uint8)
    write_nifti(root / "sub-01" / "func" / "sub-01_task-rest_bold.nii.gz", 61)
    described = {"Name": "a cohort", "BIDSVersion": "1.8.0"}
    (root / "dataset_description.json").write_text(json.dumps(described))
    prepared = root / "derivatives" / "prepared"
    for n in range(6):
        name = prepared / f"sub-{n:02d}" / "anat" / f"sub-{n:02d}_space-MNI152NLin2009cAsym"
        write_nifti(name.with_name(f"{name.name}_desc-preproc_T1w.nii.gz"), 70 + n)
        write_nifti(name.with_name(f"{name.name}_desc-brain_mask.nii.gz"), 80 + n, dtype=np.uint8)
    described |= {"DatasetType": "derivative", "GeneratedBy": [{"Name": "prepared"}]}
    (prepared / "dataset_description.json").write_text(json.dumps(described))
    rows = [f"sub-{n:02d}\t{25 + 13 * n}\t{'MF'[n % 2]}\t{'ill' if n < 3 else 'well'}" for n in range(6)]
    (root / "participants.tsv").write_text("participant_id\tage\tsex\tgroup\n" + "\n".join(rows) + "\n")
    return root


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """Twelve 16×16 images of six patients with labels, and a table with the same facts row by row."""
    random = np.random.default_rng(1)
    path = tmp_path / "images.npz"
    patients = np.repeat(np.arange(100, 106), 2)
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 1], dtype=np.uint8)
    np.savez(path, images=random.integers(0, 256, (12, 16, 16)).astype(np.uint8), patient_ids=patients, labels=labels)
    lines = [f"{p},{'sick' if y else 'fine'},{30 + p % 7 * 10},{'F' if p % 2 else 'M'}"
             for p, y in zip(patients, labels, strict=True)]  # fmt: skip
    (tmp_path / "table.csv").write_text("patient_id,finding,age,sex\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def medmnist(tmp_path: Path) -> Path:
    random = np.random.default_rng(2)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", 10), ("val", 4), ("test", 6)):
        arrays[f"{part}_images"] = random.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    path = tmp_path / "medmnist.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """normal/ and lesion/ with six PNG of three patients each, named p<patient>_<view>.png."""
    root, random = tmp_path / "pictures", np.random.default_rng(3)
    for offset, folder in ((0, "normal"), (3, "lesion")):
        (root / folder).mkdir(parents=True)
        for n in range(6):
            image = Image.fromarray(random.integers(0, 256, (20, 14)).astype(np.uint8))
            image.save(root / folder / f"p{offset + n // 2}_{n % 2}.png")
    return root


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PhantomConfig]:
    config = PhantomConfig(patients=10, size=8, extra_studies=0.5)
    return make_phantoms(tmp_path_factory.mktemp("phantom") / "cohort", config), config


@pytest.fixture
def make_item() -> Callable[..., Item]:
    def make(patient: str = "a", n: int = 0, label: str | None = None, **more: object) -> Item:
        return Item(patient, f"study{n}", f"series{n}", (f"{patient}/{n}.nii",), "MR", (4, 4, 4), (1.0, 1.0, 1.0),
                    f"{patient}-{n}-content", label=label, **more)  # type: ignore[arg-type]  # fmt: skip

    return make


@pytest.fixture
def cohort(make_item: Callable[..., Item]) -> Manifest:
    items = [
        make_item(f"p{n}", k, "ill" if n % 3 == 0 and k == 1 else "well") for n in range(6) for k in range(1 + n % 2)
    ]
    return Manifest("nifti", "/data", "patient", ("well", "ill"), tuple(items), ("a caveat",))
