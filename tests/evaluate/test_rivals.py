"""The rivals at the run's ε: bounded contributions and the right noise, DP-SGD by the plan, nothing of it stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.evaluate.dp_classifier import STEPS, classifier_plan, train_privately
from imgsynth.evaluate.trivial import COUNT_SHARE, PIXEL_NOISE, class_means, one_release, patient_vector
from imgsynth.measure.small_cnn import shrunk
from imgsynth.privacy.accounting import epsilon
from imgsynth.privacy.events import training_event
from imgsynth.privacy.plan import PrivacyPlan, make_plan
from imgsynth.schema import DataConfig, PreprocessConfig, PrivacyConfig


def plan_of(epsilon: float = 3.0, n: int = 300, mode: str = "dp") -> PrivacyPlan:
    privacy = PrivacyConfig(mode=mode, epsilon=epsilon if mode == "dp" else None, delta=1e-4, batch_patients=32)
    return make_plan(privacy, n=n, steps=20, images_per_patient=2, unit="patient")


def test_no_patient_adds_more_than_length_one() -> None:
    random = np.random.default_rng(0)
    for images in (1, 2, 5):
        x_KC, y_K = random.choice([-1.0, 1.0], (images, 1, 4, 5)), random.integers(0, 3, images)
        assert np.linalg.norm(patient_vector(x_KC, y_K, 3)) <= 1 + 1e-12
        assert np.linalg.norm(patient_vector(100 * x_KC, y_K, 3)) <= 1 + 1e-12  # whatever an image holds
    assert np.linalg.norm(patient_vector(np.ones((1, 1, 4, 5)), np.array([1]), 3)) == pytest.approx(1.0)


def test_without_noise_means_are_means_of_patients() -> None:
    random = np.random.default_rng(1)
    patients = [(random.uniform(-1, 1, (k, 1, 3, 4)), random.integers(0, 2, k)) for k in (1, 2, 3, 1, 2, 2)]
    found = class_means(patients, (1, 3, 4), 2, 0.0, random).mean_KC
    for k in (0, 1):
        weight = sum((y == k).sum() / len(y) for _, y in patients)
        mean = sum(x[y == k].sum(0) / len(y) for x, y in patients) / weight
        np.testing.assert_allclose(found[k], mean, atol=1e-6)


def test_the_noise_is_that_of_one_release_at_the_whole_epsilon() -> None:
    plan = plan_of()
    sigma = one_release(plan)
    assert epsilon(training_event(1.0, sigma, 1), 1e-4) <= plan.epsilon + 1e-6
    assert epsilon(training_event(1.0, sigma * 0.95, 1), 1e-4) > plan.epsilon
    assert one_release(plan_of(mode="none")) == 0.0
    # voxels of the released mean: standard deviation σ √V / a / n
    n, voxels = 4000, 64
    x = np.zeros((1, 1, 8, 8))
    noised = class_means(((x, np.array([0])) for _ in range(n)), (1, 8, 8), 1, 20.0, np.random.default_rng(2)).mean_KC
    expected = 20.0 * np.sqrt(voxels) / np.sqrt(1 - COUNT_SHARE**2) / n
    assert expected * 0.75 < noised.std() < expected * 1.3  # 64 draws: 2σ/3 and 3σ/2 are outside


def test_a_class_that_its_noise_hides_is_grey_and_samples_are_around_the_mean() -> None:
    x = np.full((1, 1, 8, 8), 0.5)
    many = [(x, np.array([0]))] * 400 + [(x, np.array([1]))] * 3
    means = class_means(many, (1, 8, 8), 2, 2.0, np.random.default_rng(0))
    assert not means.mean_KC[1].any() and means.mean_KC[0].mean() == pytest.approx(0.5, abs=0.05)
    samples = means.sample(np.zeros(200, int), np.random.default_rng(0))
    assert samples.mean() == pytest.approx(means.mean_KC[0].mean(), abs=0.01)
    assert samples.std() == pytest.approx(PIXEL_NOISE, rel=0.1)
    assert np.abs(samples).max() <= 1


def test_dp_sgd_is_at_the_epsilon_of_the_run() -> None:
    plan = classifier_plan(plan_of(3.0), 300)
    assert (plan.steps, plan.images_per_patient, plan.n, plan.delta, plan.mode) == (STEPS, 2, 300, 1e-4, "dp")
    assert 2.9 < epsilon(training_event(plan.sampling_rate, plan.noise_multiplier, STEPS), 1e-4) <= 3.0 + 1e-6
    assert not plan.seeded
    assert classifier_plan(plan_of(mode="none"), 300).noise_multiplier == 0.0


def test_a_network_learns_by_the_plan_and_takes_all_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two classes of squares: learned without noise; with the noise of ε = 0.01 not."""
    random = np.random.default_rng(0)
    y = np.arange(240) % 2
    x = random.normal(110, 20, (240, 12, 12))
    x[y == 1, 3:9, 3:9] += 90
    path = tmp_path / "squares.npz"
    np.savez(
        path, images=x.clip(0, 255).astype(np.uint8), labels=y, patients=np.array([f"p{i:03d}" for i in range(240)])
    )
    data = DataConfig(kind="npz", root=str(path), patient="patients", label="labels", classes=["0", "1"], modality="DX")
    preprocess = PreprocessConfig(shape=[12, 12], fit="resize", low=0, high=255)
    manifest, _ = build_manifest(data)
    patients, test = (PatientDataset(manifest, split, preprocess, 2, "memory") for split in ("train", "test"))
    monkeypatch.setattr("imgsynth.evaluate.dp_classifier.STEPS", 40)
    x_NC, y_N = zip(*[(image, label) for _, image, label in test.all_images()], strict=True)

    def accuracy(plan: PrivacyPlan) -> float:
        network = train_privately(patients, 2, classifier_plan(plan, len(patients), 0), seed=0)
        with torch.inference_mode():
            return float((network(shrunk(np.stack(x_NC))).argmax(1).numpy() == np.array(y_N)).mean())

    assert accuracy(plan_of(mode="none", n=168)) > 0.9
    assert accuracy(plan_of(0.01, n=168)) < 0.8
