"""No patient's images are prepared with what is known of others: nothing is fitted to the cohort."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.schema import DataConfig, PreprocessConfig


@pytest.mark.parametrize("intensity", ["window", "percentile", "minmax"])
def test_a_patients_images_do_not_depend_on_the_other_patients(intensity: str) -> None:
    """With and without one patient whose images are like nobody's (privacy contract, point 3)."""
    random = np.random.default_rng(0)
    images = random.integers(60, 120, (12, 8, 8)).astype(np.uint8)
    images[0] = np.where(np.arange(64).reshape(8, 8) % 2, 255, 0)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        np.savez(path, images=images, patient_ids=[f"p{i:02d}" for i in range(12)])
        manifest, _ = build_manifest(DataConfig(kind="npz", root=str(path), modality="DX"))
        everybody = tuple(dataclasses.replace(item, split="train") for item in manifest.items)
        outlier = everybody[0].patient
        without = tuple(item for item in everybody if item.patient != outlier)
        pre = PreprocessConfig(shape=[8, 8], spacing=None, fit="resize", intensity=intensity, low=0, high=255)
        made = [
            {patient: x_C for patient, x_C, _ in dataset_of(manifest, items, pre)} for items in (everybody, without)
        ]
    assert len(made[0]) == 12 and set(made[0]) - set(made[1]) == {outlier}
    for patient, x_C in made[1].items():
        assert torch.equal(x_C, made[0][patient])
    assert made[1][without[0].patient].abs().max() > 0


def dataset_of(manifest, items, pre):
    """Each patient's image as a batch has it."""
    dataset = PatientDataset(dataclasses.replace(manifest, items=items), "train", pre)
    for i in range(len(dataset)):
        batch = dataset.batch([i])
        yield dataset.patient(i), batch.x_PKC[0, 0], batch.y_PK
