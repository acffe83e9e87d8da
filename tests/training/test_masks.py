"""A run on images with masks: trained, opened again, sampled, audited with canaries; one patient's data as ever."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from pair_cohort import MASKS, pair_config, pair_data, pair_preprocess, write_pairs

from imgsynth.audit.canaries.twin import Twin, beside_empty_masks
from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.masks import label_map
from imgsynth.measure.source import fresh_samples, real_images
from imgsynth.models import VAE
from imgsynth.privacy.ledger import Ledger
from imgsynth.training.loop import train
from imgsynth.training.run import load_run, model_factory
from imgsynth.types import InputError

TINY = {
    "vae": {"_target_": "imgsynth.models.VAE", "latent": 2, "channels": 2, "widest": 4},
    "gan": {"_target_": "imgsynth.models.GAN", "latent": 2, "channels": 2, "widest": 4},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "source")


@pytest.fixture(scope="module", params=TINY)
def run_dir(request: pytest.FixtureRequest, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    cfg = pair_config(pairs, folder, TINY[request.param])
    return train(cfg, folder / "run", model_factory(cfg.model))


def test_a_run_makes_pairs_and_is_opened_again(run_dir: Path) -> None:
    run = load_run(run_dir)
    assert [s.name for s in run.grid.structures] == ["core", "rim"] and run.model.image_channels == 3
    assert run.model.sample(torch.tensor([0, 0]), torch.Generator().manual_seed(0)).shape == (2, 3, 8, 12, 8)
    assert (run_dir / "samples" / "step-000003.png").is_file()


def test_measurements_have_the_image_and_beside_it_the_mask(run_dir: Path) -> None:
    run = load_run(run_dir)
    real, made = real_images(run, "train", 9, 0), fresh_samples(run, 5, 0)
    for images in (real, made):
        assert images.x_NC.shape[1:] == (1, 8, 12, 8) and images.masks_NM is not None
        assert images.masks_NM.shape == (len(images), 2, 8, 12, 8)
        part = images.select(np.array([1]))
        assert np.array_equal(part.whole_NC[0, 1:], images.masks_NM[1])
    assert set(np.unique(real.masks_NM)) == {-1.0, 1.0}


def test_masks_are_the_patients_data_like_the_image_and_change_no_account(run_dir: Path, pairs: Path) -> None:
    """With masks and without: the same plan, the same cohort in the ledger, one budget."""
    run = load_run(run_dir)
    folder = run_dir.parent
    cfg = pair_config(pairs, folder, TINY["vae"])
    alone = dataclasses.replace(
        cfg, output=str(folder / "alone"), model=TINY["vae"], data=dataclasses.replace(cfg.data, masks=None)
    )
    other = load_run(train(alone, folder / "alone", model_factory(alone.model)))
    assert other.plan == run.plan and other.model.image_channels == 1
    entries = Ledger(cfg.privacy.ledger).entries(run.manifest.fingerprint)
    assert len(entries) == 2 and other.manifest.fingerprint == run.manifest.fingerprint


def test_a_model_that_was_not_told_of_masks_does_not_train(pairs: Path, tmp_path: Path) -> None:
    cfg = pair_config(pairs, tmp_path, TINY["vae"])
    cfg.model.pop("structures")
    with pytest.raises(InputError, match=r"model\.structures: got 0; expected 2"):
        train(cfg, tmp_path / "run", model_factory(cfg.model))
    assert not Ledger(cfg.privacy.ledger).folder.exists() or not list(Ledger(cfg.privacy.ledger).folder.glob("*.json*"))


@pytest.mark.parametrize("kind", ["weights", "input"])
def test_canaries_have_empty_masks(pairs: Path, tmp_path: Path, kind: str) -> None:
    cfg = pair_config(pairs, tmp_path, TINY["vae"])
    run = load_run(train(cfg, tmp_path / "run", model_factory(cfg.model)))
    patients = PatientDataset(run.manifest, "train", cfg.preprocess)
    plan = dataclasses.replace(run.plan, seeded=True)
    twin = Twin(model_factory(cfg.model)((8, 12, 8), 1), kind, np.ones(20, bool), plan, cfg.trainer, patients,
                torch.device("cpu"), seed=0)  # fmt: skip
    batch = twin._data.batch([0, len(patients), len(patients) + 1])
    assert batch.x_PKC.shape == (3, 1, 3, 8, 12, 8)
    assert (batch.x_PKC[1:, :, 1:] == -1).all()
    assert torch.equal(batch.x_PKC[0], patients.batch([0]).x_PKC[0])


def test_empty_masks_are_put_beside_an_image_only_where_there_are_structures() -> None:
    image_MC = torch.rand(2, 1, 4, 4)
    assert torch.equal(beside_empty_masks(image_MC, 0), image_MC)
    assert torch.equal(beside_empty_masks(image_MC, 2)[:, :1], image_MC)


def test_masks_are_learnt_where_they_are(pairs: Path) -> None:
    """The boxes lie in one corner: after some steps without noise, so do the masks that the model makes."""
    manifest, _ = build_manifest(pair_data(pairs))
    x_BC = torch.stack([x for _, x, _ in PatientDataset(manifest, "train", pair_preprocess()).all_images()])
    y_B = torch.zeros(len(x_BC), dtype=torch.long)
    torch.manual_seed(0)
    model = VAE((8, 12, 8), 1, latent=2, channels=8, widest=16, structures=len(MASKS))
    (objective,) = model.objectives()
    adam, random = torch.optim.Adam(model.parameters(), 2e-2), torch.Generator().manual_seed(0)
    for _ in range(200):
        loss = objective.module(x_BC, y_B, *objective.aux(len(x_BC), random)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    made = np.stack([label_map(x_C[1:].numpy()) for x_C in model.sample(torch.zeros(16, dtype=torch.long), random)])
    real = np.stack([label_map(x_C[1:].numpy()) for x_C in x_BC])
    for k in (1, 2):
        share, expected = (made == k).mean(0), (real == k).mean(0)
        assert 0.5 < share.sum() / expected.sum() < 1.5
        assert np.corrcoef(share.ravel(), expected.ravel())[0, 1] > 0.6
