"""A cohort of handwritten digits, each its own patient, and generators that leak as much as they are told to."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from imgsynth.measure.images import Images, synthetic_images
from imgsynth.schema import (
    Config,
    DataConfig,
    EncoderConfig,
    PreprocessConfig,
    PrivacyConfig,
    SplitsConfig,
    TrainerConfig,
)
from imgsynth.training.loop import train
from imgsynth.training.run import model_factory

Trial = Callable[..., tuple[Images, Images, Images]]


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 digits [N, 1, 8, 8] in [-1, 1] and their classes."""
    x, y = load_digits(return_X_y=True)
    return (x.reshape(-1, 1, 8, 8) / 8.0 - 1.0).astype(np.float32), y


@pytest.fixture(scope="session")
def trial(digits: tuple[np.ndarray, np.ndarray]) -> Trial:
    """(copy_share, seed, members, nonmembers, samples, noise) -> members, non-members and synthetic images.

    The honest part of the generator jitters digits of third persons, that are neither members nor non-members.
    """
    x, y = digits

    def make(
        copy_share: float, seed: int, members: int = 200, nonmembers: int = 200, samples: int = 2000, noise: float = 0.1
    ) -> tuple[Images, Images, Images]:
        random = np.random.default_rng(seed)
        order = random.permutation(len(y))
        inside, outside, others = np.split(order, [members, members + nonmembers])
        source = random.choice(others, samples)
        copied = random.random(samples) < copy_share
        source[copied] = random.choice(inside, int(copied.sum()))
        x_NC = x[source] + noise * random.standard_normal((samples, 1, 8, 8)).astype(np.float32)

        def people(index: np.ndarray) -> Images:
            return Images(x[index], y[index], np.array([f"p{i:05d}" for i in index]))

        return people(inside), people(outside), synthetic_images(x_NC, y[source])

    return make


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``small_run("vae")``: the folder of a finished run of a few steps on 26 patients of 8×8, some with two images;
    with a ``seed``, one that repeats."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("small")
    patients = [f"p{i:03d}" for i in range(26) for _ in range(2 if i % 5 == 0 else 1)]
    labels = np.array([int(p[1:]) % 2 for p in patients])
    images = random.normal(100, 20, (len(patients), 8, 8))
    images[labels == 1, :, :4] += 80
    np.savez(folder / "x.npz", images=images.clip(0, 255).astype(np.uint8), patient_ids=patients, labels=labels)
    models = {
        "vae": {"_target_": "imgsynth.models.VAE", "latent": 2, "channels": 2, "widest": 4},
        "gan": {"_target_": "imgsynth.models.GAN", "latent": 2, "channels": 2, "widest": 4},
    }
    models["asking"] = {**models["vae"], "prior": "fitted"}

    @functools.cache
    def make(model: str, seed: int | None = None) -> Path:
        data = DataConfig(kind="npz", root=str(folder / "x.npz"), modality="DX", classes=["0", "1"])
        cfg = Config(
            data=dataclasses.replace(data, splits=SplitsConfig(holdout=0.25, test=0.25)),
            preprocess=PreprocessConfig(shape=[8, 8], fit="resize", low=0, high=255),
            model=models[model],
            privacy=PrivacyConfig(
                epsilon=None, noise_multiplier=1.5, delta=1e-2, batch_patients=6, seed=seed,
                ledger=str(folder / "ledger"), query_noise_multiplier=1.5 if model == "asking" else None,
            ),
            trainer=TrainerConfig(steps=6, checkpoint_every=6, sheet_every=6, device="cpu", threads=1),
            encoder=EncoderConfig("random_conv"),
        )  # fmt: skip
        return train(cfg, folder / f"{model}-{seed}", model_factory(cfg.model))

    return make
