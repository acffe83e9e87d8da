"""A run of tiny radiographs with sentinels for ids and folders, evaluated and audited for real."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from brief import brief_trainings

from imgsynth.audit.run import audit_run
from imgsynth.evaluate.run import evaluate_run
from imgsynth.release.sample import sample_release
from imgsynth.release.update import update_card
from imgsynth.schema import (
    AuditConfig,
    Config,
    DataConfig,
    EncoderConfig,
    EvaluateConfig,
    PreprocessConfig,
    PrivacyConfig,
    SampleConfig,
    TrainerConfig,
)
from imgsynth.training.loop import train
from imgsynth.training.run import model_factory

SENTINEL = "ZQXJSENTINEL"


def configure(folder: Path, mode: str = "dp") -> Config:
    random = np.random.default_rng(3)
    path = folder / SENTINEL / "images.npz"
    path.parent.mkdir(parents=True)
    labels = np.arange(97) % 2
    images = random.integers(0, 120, (97, 16, 16)) + 100 * labels[:, None, None]
    ids = [f"{SENTINEL}{i:03d}" for i in range(97)]
    np.savez(path, images=images.astype(np.uint8), labels=labels, patient_ids=ids)
    return Config(
        output=str(folder / "run"),
        data=DataConfig(kind="npz", root=str(path), modality="DX", label="labels", classes=["clear", "opaque"]),
        preprocess=PreprocessConfig([16, 16], fit="resize", low=0, high=255),
        model={"_target_": "imgsynth.models.VAE", "latent": 2, "channels": 2, "widest": 4},
        privacy=PrivacyConfig(
            mode=mode, delta=1e-3, batch_patients=8, budget_epsilon=None, ledger=str(folder / "ledger")
        ),
        trainer=TrainerConfig(steps=3, checkpoint_every=2, sheet_every=3, device="cpu", threads=1),
        sample=SampleConfig(n=10),
        encoder=EncoderConfig("random_conv"),
        evaluate=EvaluateConfig(n=60, bootstrap=20, classifier_seeds=1),
        audit=AuditConfig(n=60, bootstrap=20, extraction_samples=60, ocr_pictures=1),
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    cfg = configure(tmp_path_factory.mktemp("trained"))
    return train(cfg, Path(str(cfg.output)), model_factory(cfg.model)), cfg


@pytest.fixture(scope="session")
def complete(trained: tuple[Path, Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage before the report is done."""
    run_dir, cfg = trained
    copy = Path(shutil.copytree(run_dir, tmp_path_factory.mktemp("complete") / "run"))
    sample_release(copy, cfg)
    with brief_trainings():
        evaluate_run(copy, cfg)
    audit_run(copy, cfg)
    update_card(copy)
    return copy
