"""A real run, trained for two steps on digits with several images a person, measured and attacked from its folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from brief import brief_trainings
from sklearn.datasets import load_digits

from imgsynth import __version__
from imgsynth.audit.run import audit_run
from imgsynth.evaluate.run import evaluate_run
from imgsynth.measure.source import MIN_PATIENTS, class_mix, fresh_samples, real_images
from imgsynth.release.audit_record import state_of
from imgsynth.schema import (
    AuditConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    PreprocessConfig,
    PrivacyConfig,
    TrainerConfig,
)
from imgsynth.training.loop import train
from imgsynth.training.run import Run, load_run, model_factory
from imgsynth.types import InputError


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """180 images of 90 persons: each person wrote one digit twice, 3 or 8."""
    folder = tmp_path_factory.mktemp("digits")
    x, y = load_digits(return_X_y=True)
    keep = np.concatenate([np.flatnonzero(y == k)[:90] for k in (3, 8)])
    images = (x[keep].reshape(-1, 8, 8) * 15).repeat(2, 1).repeat(2, 2).astype(np.uint8)
    people = np.array([f"person{i // 2:03d}" for i in range(180)])
    np.savez(folder / "digits.npz", images=images, patient=people, label=np.repeat(["three", "eight"], 90))
    return Config(
        output=str(folder / "run"),
        data=DataConfig(kind="npz", root=str(folder / "digits.npz"), patient="patient", label="label",
                        classes=["three", "eight"], modality="DX"),
        preprocess=PreprocessConfig(shape=[16, 16], fit="resize", intensity="window", low=0.0, high=255.0),
        model={"_target_": "imgsynth.models.VAE"},
        privacy=PrivacyConfig(batch_patients=10, delta=1e-3, ledger=str(folder / "ledger")),
        trainer=TrainerConfig(steps=2, checkpoint_every=2, sheet_every=2, device="cpu"),
        evaluate=EvaluateConfig(n=64, bootstrap=30, classifier_seeds=1),
        audit=AuditConfig(n=64, bootstrap=30, extraction_samples=64, ocr_pictures=1),
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(config: Config) -> Run:
    train(config, Path(str(config.output)), model_factory(config.model))
    return load_run(Path(str(config.output)))


def test_images_come_by_whole_patients_of_their_split(run: Run) -> None:
    sides = {split: real_images(run, split, 40, 0) for split in ("train", "holdout", "test")}
    for split, images in sides.items():
        assert set(images.patients_N) <= set(run.manifest.patients(split))  # type: ignore[arg-type]
        assert (np.bincount(images.owner_N) == 2).all()
        assert images.x_NC.dtype == np.float32
        assert -1.0 <= images.x_NC.min() < images.x_NC.max() <= 1.0
    assert len(sides["train"]) == 40
    few = real_images(run, "train", 1, 0)  # however small n is, there are patients to speak of
    assert few.n_patients == min(MIN_PATIENTS, len(run.manifest.patients("train"))) and set(few.names_P) <= set(
        real_images(run, "train", 400, 0).names_P
    )
    assert set(real_images(run, "train", 40, 1).names_P) != set(sides["train"].names_P)
    with pytest.raises(ValueError, match="extra transforms"):
        real_images(run, "train", 40, 0, extra_transforms=[abs])


def test_samples_have_the_class_mix_of_the_training_patients_and_are_repeatable(run: Run) -> None:
    assert np.bincount(class_mix([30, 10, 0, 1], 82, np.random.default_rng(0))).tolist() == [60, 20, 0, 2]
    assert len(class_mix([1, 1, 1], 8, np.random.default_rng(0))) == 8
    first, second = fresh_samples(run, 30, 5), fresh_samples(run, 30, 5)
    np.testing.assert_array_equal(first.x_NC, second.x_NC)
    counts = np.array(run.manifest.class_counts("train"))
    np.testing.assert_allclose(np.bincount(first.y_N, minlength=2), counts / counts.sum() * 30, atol=1)


def test_evaluation_is_written_whole_and_says_that_it_is_local(run: Run, config: Config) -> None:
    with brief_trainings():
        found = evaluate_run(run.root, config)
    assert json.loads((run.root / "evaluation.json").read_text()) == found
    assert found["scope"].startswith("local")
    assert found["n_real_patients"] == {"train": 32, "test": len(run.manifest.patients("test"))}
    assert {m["name"] for m in found["metrics"]} >= {"kernel_distance", "ms_ssim", "intensity_wasserstein"}
    trained_on = {r["trained_on"] for r in found["utility"]["results"]}
    assert trained_on == {"synthetic", "real", "real + synthetic", "trivial generator", "real (DP-SGD)"}
    assert not any(name in json.dumps(found) for name in run.manifest.patients())


def test_audit_is_written_whole_with_its_sheet_under_local(run: Run, config: Config) -> None:
    found = audit_run(run.root, config)
    assert json.loads((run.root / "audit.json").read_text()) == found
    assert found["scope"] == "local"
    assert (run.root / found["copies"]["sheet"]).parent == run.root / "local"
    assert found["proven_epsilon"] == run.plan.epsilon
    assert found["attacks"][0]["n_nonmembers"] == real_images(run, "holdout", 64, 0).n_patients
    assert not any(name in json.dumps(found) for name in run.manifest.patients())
    assert found["of"] == state_of(run.root) | {"step": run.plan.steps, "imgsynth": __version__, "release": None}


def test_a_half_trained_run_is_not_audited(run: Run, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are going to be others, of which the audit would say nothing."""
    half = dataclasses.replace(run, step=run.plan.steps - 1)
    monkeypatch.setattr("imgsynth.audit.run.load_run", lambda _: half)
    with pytest.raises(InputError, match="trained to its end"):
        audit_run(run.root, config)
