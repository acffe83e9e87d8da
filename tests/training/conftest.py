"""A tiny 2D cohort with several images for some patients, and configurations that train on it in a second."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgsynth.schema import Config, DataConfig, PreprocessConfig, PrivacyConfig, SampleConfig, TrainerConfig
from imgsynth.training.run import model_factory

PATIENTS = 36
MODELS = {
    "vae": {"_target_": "imgsynth.models.VAE", "latent": 2, "channels": 2, "widest": 4},
    "gan": {"_target_": "imgsynth.models.GAN", "latent": 2, "channels": 2, "widest": 4, "every": 2},
    "merf": {"_target_": "imgsynth.models.MERF", "latent": 2, "channels": 2, "frequencies": 30, "images": 8},
    "diffusion": {
        "_target_": "imgsynth.models.Diffusion",
        "channels": 2,
        "widest": 2,
        "sampler_steps": 2,
        "warm_up": ["means"],
    },
    "pategan": {
        "_target_": "imgsynth.models.PATEGAN",
        "latent": 2,
        "channels": 2,
        "widest": 4,
        "teachers": 5,
        "teacher_channels": 2,
        "teacher_batch": 3,
        "images": 6,
        "student_steps": 2,
        "student_batch": 12,
        "remembered": 3,
    },
}
# What a model needs that learns from one noised mean.
SUMMARY: dict[str, dict[str, Any]] = {
    "privacy": {"batch_patients": None, "sampling_rate": 1.0},
    "trainer": {"optimizer": "summary", "learning_rate": 1.0, "steps": 1, "steps_after": 8},
}
VOTES: dict[str, dict[str, Any]] = {"privacy": {"batch_patients": None, "sampling_rate": 1.0}}
WARM_UP: dict[str, dict[str, Any]] = {
    "privacy": {"query_noise_multiplier": 0.7},
    "trainer": {"steps_before": 5},
    "data": {"augmentation_multiplicity": 2},
}
NEEDS = {"merf": SUMMARY, "pategan": VOTES, "diffusion": WARM_UP}


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8×8 radiographs: class 1 is bright on one half. Every third patient has two images."""
    random = np.random.default_rng(0)
    patients = [f"p{i:03d}" for i in range(PATIENTS) for _ in range(2 if i % 3 == 0 else 1)]
    labels = np.array([int(p[1:]) % 2 for p in patients])
    images = random.normal(100, 20, (len(patients), 8, 8))
    images[labels == 1, :, :4] += 80
    path = tmp_path_factory.mktemp("cohort") / "images.npz"
    np.savez(path, images=images.clip(0, 255).astype(np.uint8), patient_ids=patients, labels=labels)
    return path


@pytest.fixture(scope="session")
def make_config(cohort: Path) -> Callable[..., Config]:
    """``make_config("gan", trainer={"steps": 9}, …)``: seeded."""

    def make(model: str = "gan", **changes: dict[str, Any]) -> Config:
        cfg = Config(
            data=DataConfig(kind="npz", root=str(cohort), modality="DX", classes=["0", "1"], cache="memory"),
            preprocess=PreprocessConfig(shape=[8, 8], fit="resize", intensity="window", low=0, high=255),
            model=MODELS[model],
            privacy=PrivacyConfig(epsilon=None, noise_multiplier=1.5, delta=1e-2, batch_patients=8, seed=1),
            trainer=TrainerConfig(steps=9, checkpoint_every=4, sheet_every=6, device="cpu", threads=1),
            sample=SampleConfig(),
        )  # fmt: skip
        needs = NEEDS.get(model, {})
        changes = {**changes, **{name: {**values, **changes.get(name, {})} for name, values in needs.items()}}
        return dataclasses.replace(
            cfg, **{name: dataclasses.replace(getattr(cfg, name), **values) for name, values in changes.items()}
        )

    return make


@pytest.fixture
def configure(make_config: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """``make_config`` with the test's own ledger."""

    def make(model: str = "gan", privacy: dict[str, Any] | None = None, **changes: dict[str, Any]) -> Config:
        return make_config(model, privacy={"ledger": str(tmp_path / "ledger"), **(privacy or {})}, **changes)

    return make


@pytest.fixture
def train_run(tmp_path: Path) -> Callable[..., Path]:
    from imgsynth.training.loop import train

    def go(cfg: Config, name: str = "run") -> Path:
        return train(cfg, tmp_path / name, model_factory(cfg.model))

    return go
