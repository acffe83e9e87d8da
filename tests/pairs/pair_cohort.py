"""Small cohorts of NIfTI images with masks beside them: what several files of tests share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from imgsynth.schema import Config, DataConfig, PreprocessConfig, PrivacyConfig, SampleConfig, TrainerConfig

MASKS = ["core", {"name": "rim", "value": 4, "code": ["SCT", "91723000", "Anatomical structure"]}]
VALUES = (1, 4)
AFFINE = np.array([[-2.0, 0, 0, 9], [0, 2, 0, -4], [0, 0, 2.5, 3], [0, 0, 0, 1]])


def write_pairs(root: Path, patients: int = 8, shape: tuple[int, ...] = (10, 12, 9)) -> Path:
    """imagesTr and labelsTr: a box at a place of its own in each image, brighter than noise, its lower half of value 1
    and its upper of value 4, each of its own brightness. Nothing about it is symmetric."""
    random = np.random.default_rng(7)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for case in range(patients):
        labels = np.zeros(shape, np.uint8)
        low = [int(random.integers(1, max(2, side // 3))) for side in shape]
        box = tuple(slice(start, start + max(1, side // 2)) for start, side in zip(low, shape, strict=True))
        labels[box] = 1
        upper = (slice(None), slice(low[1] + shape[1] // 4, None))
        labels[upper] = np.where(labels[upper] > 0, 4, 0)
        image = random.uniform(0, 50, shape) + 60 * (labels == 1) + 120 * (labels == 4)
        for folder, array in (("imagesTr", image.astype(np.float32)), ("labelsTr", labels)):
            nib.save(nib.Nifti1Image(array, AFFINE), root / folder / f"case_{case:03d}.nii.gz")
    return root


def pair_data(root: Path, **more: Any) -> DataConfig:
    return DataConfig(kind="nifti", root=str(root), modality="MR", masks=MASKS, **more)


def pair_preprocess(**more: Any) -> PreprocessConfig:
    given = {"shape": [8, 12, 8], "spacing": [2.0, 2.0, 2.5], "intensity": "window", "low": 0, "high": 170, **more}
    return PreprocessConfig(**given)


def pair_config(root: Path, folder: Path, model: dict[str, Any], **changes: dict[str, Any]) -> Config:
    """Three steps of ``model`` on the pairs in ``root``; its structures are told here, as the door would."""
    cfg = Config(
        output=str(folder / "run"),
        data=pair_data(root),
        preprocess=pair_preprocess(),
        model={**model, "structures": len(MASKS)},
        privacy=PrivacyConfig(delta=1e-3, batch_patients=2, ledger=str(folder / "ledger")),
        trainer=TrainerConfig(steps=3, checkpoint_every=2, sheet_every=3, device="cpu", threads=1),
        sample=SampleConfig(n=4),
    )
    return dataclasses.replace(cfg, **{k: dataclasses.replace(getattr(cfg, k), **v) for k, v in changes.items()})
