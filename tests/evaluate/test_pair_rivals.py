"""Rivals of pairs of image and mask: one bounded release of both, a U-Net by DP-SGD, at the run's ε and kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pair_cohort import pair_config, pair_data, pair_preprocess, write_pairs

from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.masks import label_map
from imgsynth.evaluate import dp_classifier, rivals, segmentation
from imgsynth.evaluate.dp_classifier import classifier_plan, own_seed
from imgsynth.evaluate.dp_segmenter import PairLosses, segment_privately
from imgsynth.evaluate.run import evaluate_run
from imgsynth.evaluate.segmentation import dice, found, labels_of
from imgsynth.evaluate.trivial import COUNT_SHARE, PIXEL_NOISE, ClassMeans, class_means, one_release, patient_vector
from imgsynth.measure.images import synthetic_images
from imgsynth.privacy.engines import get_engine
from imgsynth.privacy.plan import PrivacyPlan, make_plan
from imgsynth.schema import EncoderConfig, EvaluateConfig, PrivacyConfig
from imgsynth.training.loop import train
from imgsynth.training.run import load_run, model_factory
from imgsynth.types import PatientBatch


def plan_of(mode: str, epsilon: float = 3.0, n: int = 28) -> PrivacyPlan:
    privacy = PrivacyConfig(mode=mode, epsilon=epsilon if mode == "dp" else None, delta=1e-3, batch_patients=7)
    return make_plan(privacy, n=n, steps=20, images_per_patient=1, unit="patient")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("many") / "source", patients=40)


@pytest.fixture(scope="module")
def sides(source: Path) -> tuple[PatientDataset, PatientDataset]:
    manifest, _ = build_manifest(pair_data(source))
    train_side, test_side = (PatientDataset(manifest, s, pair_preprocess(), 1, "memory") for s in ("train", "test"))
    return train_side, test_side


def test_a_patient_with_masks_adds_no_more_than_length_one() -> None:
    random = np.random.default_rng(0)
    x_KC = random.choice([-1.0, 1.0], (3, 3, 4, 5))
    assert np.linalg.norm(patient_vector(x_KC, np.array([0, 1, 1]), 2)) <= 1 + 1e-12
    assert np.linalg.norm(patient_vector(x_KC[:1], np.array([0]), 2)) == pytest.approx(1.0)


def test_trivial_pairs_are_the_mean_image_with_noise_and_the_smoothed_mean_mask() -> None:
    """A disc in all 60 patients and a single voxel in most: the disc is the mask, the voxel is smoothed away."""
    random = np.random.default_rng(1)
    i, j = np.mgrid[:20, :20]
    disc = (i - 8) ** 2 + (j - 11) ** 2 < 20
    x_NC = np.full((60, 2, 20, 20), -1.0)
    x_NC[:, 0] = random.uniform(-1, 1, (60, 20, 20))
    x_NC[:, 1][:, disc] = 1
    x_NC[:45, 1, 2, 2] = 1  # in most of them
    patients = [(x_C[None], np.array([0])) for x_C in x_NC]
    means = class_means(patients, (2, 20, 20), 1, 0.0, random)
    np.testing.assert_allclose(means.mean_KC[0], x_NC.mean(0), atol=1e-6)
    made = synthetic_images(means.sample(np.zeros(400, int), random), np.zeros(400, int))
    assert made.x_NC.shape == (400, 1, 20, 20) and made.masks_NM is not None
    np.testing.assert_allclose(made.x_NC.mean(0), x_NC[:, :1].mean(0), atol=0.06)
    assert made.x_NC.std(0).mean() == pytest.approx(PIXEL_NOISE, rel=0.1)
    assert np.array_equal(made.masks_NM[0], made.masks_NM[-1])
    assert dice(labels_of(made)[:1], disc[None].astype(np.uint8), 1) > 0.9 and labels_of(made)[0, 2, 2] == 0


def test_noise_leaves_background_background() -> None:
    """Two structures in noise twice as wide as the way from outside to inside. Cut off at ±1 before it is smoothed,
    noise would draw background towards one half, and two structures together above it."""
    x_C = np.full((3, 24, 24, 24), -1.0)
    x_C[1, 4:12, 8:16, 8:16], x_C[2, 12:20, 8:16, 8:16] = 1, 1
    n, voxels = 100, x_C.size
    sigma = 4.0 * n * np.sqrt(1 - COUNT_SHARE**2) / np.sqrt(voxels)
    means = class_means(((x_C[None], np.array([0])) for _ in range(n)), x_C.shape, 1, sigma, np.random.default_rng(0))
    labels = labels_of(synthetic_images(means.sample(np.zeros(1, int), np.random.default_rng(0)), np.zeros(1, int)))
    assert (labels[0][label_map(x_C[1:]) == 0] > 0).mean() < 0.25
    assert dice(labels, label_map(x_C[1:])[None], 2).min() > 0.2


def test_a_class_that_its_noise_hides_has_no_mask() -> None:
    x_KC = np.ones((1, 3, 4, 4))
    patients = [(x_KC, np.array([0]))] * 400 + [(x_KC, np.array([1]))]
    means = class_means(patients, (3, 4, 4), 2, 2.0, np.random.default_rng(0))
    labels = labels_of(synthetic_images(means.sample(np.array([0, 1]), np.random.default_rng(0)), np.array([0, 1])))
    assert labels[0].all() and not labels[1].any()


def test_without_a_finite_epsilon_there_is_no_noise() -> None:
    plan = dataclasses.replace(plan_of("dp"), noise_multiplier=0.0)
    assert one_release(plan) == 0 and classifier_plan(plan, 28).noise_multiplier == 0


def test_without_a_seed_every_network_begins_elsewhere() -> None:
    began = []
    for seed in (None, None, 3, 3):
        with own_seed(seed):
            began.append(float(torch.rand(())))
    assert began[0] != began[1] and began[2] == began[3]


def test_who_is_sampled_are_the_patients_that_there_are(sides: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where n is declared, at twice the patients."""
    monkeypatch.setattr(dp_classifier, "STEPS", 2)
    patients, asked = sides[0], []
    real = patients.batch

    def batch(drawn: list[int]) -> PatientBatch:
        asked.append(drawn)
        return real(drawn)

    monkeypatch.setattr(patients, "batch", batch)
    plan = classifier_plan(plan_of("none", n=2 * len(patients)), len(patients), 0)
    segment_privately(patients, 2, dataclasses.replace(plan, sampling_rate=1.0), seed=0)
    assert asked == [list(range(len(patients)))] * 2


def test_means_without_masks_have_none() -> None:
    assert ClassMeans(np.zeros((2, 1, 4, 4), np.float32)).sample(np.array([0, 1]), np.random.default_rng(0)).shape == (
        2, 1, 4, 4)  # fmt: skip


def test_each_pair_has_the_loss_of_the_formula_whatever_is_beside_it() -> None:
    """5 × 6 pixels, so that both sides are padded; two structures, of which one voxel is claimed by both."""
    torch.manual_seed(0)
    network = segmentation.small_unet(2, 2).eval()
    x_BC = torch.rand(4, 3, 5, 6) * 2 - 1
    x_BC[:, 1:] = torch.where(x_BC[:, 1:] > 0.3, 1.0, -1.0)
    x_BC[0, 1:, 2, 2] = 1
    losses = PairLosses(network)(x_BC, torch.zeros(4, dtype=torch.long))
    for x_C, loss in zip(x_BC, losses, strict=True):
        padded = torch.full((1, 1, 8, 8), -1.0)
        padded[0, 0, :5, :6] = x_C[0]
        y = np.zeros((8, 8), int)
        y[:5, :6] = label_map(x_C[1:].numpy())
        p = network(padded)[0].softmax(0).detach().numpy().astype(float)
        entropy = -np.mean([np.log(p[y[i, j], i, j]) for i in range(8) for j in range(8)])
        soft = [(2 * (p[k] * (y == k)).sum() + 1) / (p[k].sum() + (y == k).sum() + 1) for k in (1, 2)]
        assert float(loss.detach()) == pytest.approx(entropy + 1 - np.mean(soft), rel=1e-5)
        alone = PairLosses(network)(x_C[None], torch.zeros(1, dtype=torch.long))
        assert float(alone.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_the_engine_clips_the_unet_by_patient_as_a_loop_does() -> None:
    torch.manual_seed(1)
    losses = PairLosses(segmentation.small_unet(2, 1))
    x_PKC = torch.rand(3, 2, 2, 8, 8) * 2 - 1
    batch = PatientBatch(x_PKC, torch.zeros(3, 2, dtype=torch.long), torch.tensor([[1.0, 0], [0.5, 0.5], [0.5, 0.5]]))
    own = []
    for engine in ("ghost", "loop"):
        got = get_engine(engine, "float32").clipped_sum(losses, batch, (), 0.05, 2)
        own.append(torch.cat([g.flatten() for g in got.sums.values()]))
        assert bool((got.norms_P > 0.05).all())  # so that clipping is seen
    torch.testing.assert_close(own[0], own[1], rtol=1e-3, atol=1e-6)


def test_a_unet_learns_by_the_plan_and_takes_all_of_its_steps(
    sides: tuple[PatientDataset, PatientDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dp_classifier, "STEPS", 60)
    patients, test = sides
    x_NC = np.stack([np.asarray(x) for _, x, _ in test.all_images()])
    true_N = np.stack([label_map(x_C[1:]) for x_C in x_NC])

    def mean_dice(plan: PrivacyPlan) -> float:
        network = segment_privately(patients, 2, classifier_plan(plan, len(patients), 0), seed=0)
        return float(dice(found(network, x_NC[:, :1]), true_N, 2).mean())

    assert mean_dice(plan_of("none")) > 0.7
    assert mean_dice(plan_of("dp", 0.01)) < 0.3


def test_classes_with_masks_have_the_rivals_of_images_too(sides: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the noised means nor the classifier by DP-SGD look at masks."""
    patients = sides[0]
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(dp_classifier, "STEPS", 2)
    monkeypatch.setattr(rivals, "PatientDataset", lambda *a, **k: patients)
    monkeypatch.setattr(dp_classifier, "shrunk", lambda x: seen.append(x.shape) or torch.from_numpy(x))
    names = [f"p{i}" for i in range(len(patients))]
    manifest = SimpleNamespace(
        classes=("a", "b"), fingerprint="f", structures=(), items=(), patients=lambda split: names
    )
    config = SimpleNamespace(privacy=PrivacyConfig(epsilon=3.0, delta=1e-3), preprocess=pair_preprocess())
    run: Any = SimpleNamespace(
        manifest=manifest, config=config, plan=plan_of("dp", n=len(patients)), grid=patients.grid
    )
    y_N = np.array([0, 1, 0])
    c: Any = SimpleNamespace(synthetic=SimpleNamespace(y_N=y_N))
    sigmas: list[float] = []
    made_of = rivals.class_means
    monkeypatch.setattr(rivals, "class_means", lambda *a: sigmas.append(a[3]) or made_of(*a))
    of_images = rivals.rivals_of(run, c, EvaluateConfig(classifier_seeds=1), ())
    assert of_images is not None and of_images.trivial is not None and of_images.dp_sgd is not None
    assert of_images.trivial.masks_NM is None and of_images.trivial.x_NC.shape == (3, 1, 8, 12, 8)
    test = synthetic_images(np.zeros((4, 1, 8, 12, 8), np.float32), np.zeros(4, int))
    assert of_images.dp_sgd(test).shape == (1, 4, 2) and {shape[1] for shape in seen} == {1}
    of_pairs = rivals.pair_rivals_of(run, c, EvaluateConfig(classifier_seeds=1), ())
    assert of_pairs is not None and of_pairs.trivial.masks_NM is not None
    assert of_pairs.trivial.masks_NM.shape == (3, 2, 8, 12, 8) and np.array_equal(of_pairs.trivial.y_N, y_N)
    assert of_pairs.dp_sgd(test).shape == (1, 4, 8, 12, 8)
    assert of_pairs.n_train == of_images.n_train == len(patients)
    assert sigmas == [one_release(run.plan)] * 2 and sigmas[0] > 0.5  # each at the run's own ε


def test_a_run_with_masks_is_held_against_both_and_what_saw_nothing_synthetic_is_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dp_classifier, "STEPS", 3)
    monkeypatch.setattr(segmentation, "STEPS", 3)
    tiny = {"_target_": "imgsynth.models.VAE", "latent": 2, "channels": 2, "widest": 4}
    cfg = pair_config(source, tmp_path, tiny)
    train(cfg, tmp_path / "run", model_factory(cfg.model))
    settings = EvaluateConfig(
        n=20, bootstrap=20, classifier_seeds=1, parts=["segmentation"], shared=str(tmp_path / "s")
    )
    cfg = dataclasses.replace(cfg, evaluate=settings, encoder=EncoderConfig(name="random_conv"))
    masks = torch.ones(1, 2, 8, 12, 8)  # an untrained decoder says nothing of masks
    sample = type(load_run(tmp_path / "run").model).sample
    monkeypatch.setattr("imgsynth.models.VAE.sample", lambda self, y, random: torch.cat(
        [sample(self, y, random)[:, :1], masks.expand(len(y), -1, -1, -1, -1)], dim=1))  # fmt: skip
    first = evaluate_run(tmp_path / "run", cfg)["segmentation"]
    rows = {one["trained_on"]: one for one in first["results"]}
    assert list(rows) == ["synthetic", "real", "trivial generator", "real (DP-SGD)", "noised mean mask"]
    n = load_run(tmp_path / "run").plan.n
    assert rows["real (DP-SGD)"]["n_train"] == n > rows["real"]["n_train"] == 20
    assert len(first["sentences"]) == 4
    for name in ("train_privately", "segment_privately", "class_means", "PatientDataset"):
        monkeypatch.setattr(rivals, name, lambda *a, **k: pytest.fail("made again"))
    learned: list[int] = []
    monkeypatch.setattr(segmentation, "_train", lambda network, x, y: learned.append(len(x)))
    again = evaluate_run(tmp_path / "run", cfg)["segmentation"]
    assert again["results"][1:] == first["results"][1:] and len(learned) == 1  # on synthetic pairs
    cohort = load_run(tmp_path / "run").manifest
    other = dataclasses.replace(cohort.items[0], mask_digest="another", split="train")
    assert rivals._content(cohort) != rivals._content(dataclasses.replace(cohort, items=(other, *cohort.items[1:])))
    alone = dataclasses.replace(cfg, evaluate=dataclasses.replace(settings, rivals=False, shared=None))
    assert len(evaluate_run(tmp_path / "run", alone)["segmentation"]["results"]) == 2
