"""Re-identification by an encoder that never saw these patients, and extraction from clusters of near-duplicates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from imgsynth.audit import reidentify as reidentify_module
from imgsynth.audit.copies import extraction
from imgsynth.audit.copies.extraction import patch_distance
from imgsynth.audit.reidentify import MIN_OTHERS, augmented, reidentify, train_encoder, verified
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.schema import AuditConfig

STEPS = 200


def people(n: int, shape: tuple[int, ...], seed: int, name: str, images: int = 1) -> Images:
    """Smooth random fields; a patient's further images are the first one with something else on top."""
    random = np.random.default_rng(seed)

    def smooth(count: int) -> np.ndarray:
        x = gaussian_filter(random.standard_normal((count, *shape)), (0, *(2,) * len(shape)))
        return x / x.std() / 3

    x = np.repeat(smooth(n), images, axis=0) + (0.15 * smooth(n * images) if images > 1 else 0)
    names = np.repeat([f"{name}{i:04d}" for i in range(n)], images)
    return Images(np.clip(x, -1, 1)[:, None].astype(np.float32), np.zeros(n * images, int), names)


def changed(images: Images, seed: int) -> np.ndarray:
    """Flipped, shifted, in other contrast, with noise: no voxelwise copy."""
    return augmented(torch.from_numpy(images.x_NC), torch.Generator().manual_seed(seed)).numpy()


@pytest.fixture(scope="module", params=[((24, 24), 1), ((24, 24), 2), ((14, 16, 14), 1)], ids=["2d", "several", "3d"])
def cohort(request: pytest.FixtureRequest) -> tuple[Images, Images, Images, Images]:
    """Others, train, holdout, and samples that are nobody."""
    shape, images = request.param
    return (people(100, shape, 0, "o", images), people(60, shape, 1, "t", images), people(40, shape, 2, "h", images),
            synthetic_images(people(100, shape, 3, "s").x_NC, np.zeros(100, int)))  # fmt: skip


def test_changed_copies_are_recognised_and_strangers_are_not(cohort: tuple[Images, Images, Images, Images]) -> None:
    others, train, holdout, nobody = cohort
    x_NC = nobody.x_NC.copy()
    x_NC[:60] = changed(train, 0)[:: len(train) // 60]
    encode = train_encoder(others, STEPS, 0)
    caught, honest = (
        verified(encode, samples, train, holdout, np.random.default_rng(0))
        for samples in (nobody.with_images(x_NC), nobody)
    )
    assert caught["recognised"] > 0.3
    assert caught["excess"] > 0.15 and caught["auc_low"] > 0.5
    assert caught["low"] < caught["excess"] < caught["high"]
    assert honest["low"] < 0 < honest["high"]
    assert honest["auc_low"] < 0.5 < honest["auc_high"]
    assert caught["underpowered"] == (caught["n_pairs"] < 10_000) and caught["fpr"] * caught["n_pairs"] >= 10 - 1e-9


def test_the_threshold_is_that_of_real_different_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that are real strangers are called a patient in as few pairs as the rate says."""
    others, train, holdout = (people(n, (24, 24), i, "oth"[i]) for i, n in enumerate((100, 120, 100)))
    strangers = people(100, (24, 24), 7, "x")
    monkeypatch.setattr(reidentify_module, "STEPS", 60)
    found = reidentify(synthetic_images(strangers.x_NC, strangers.y_N), train, holdout, others, AuditConfig())
    assert (found["pairs"], found["trained_on"]) == ("two views of one image", 100)
    assert not found["underpowered"] and found["fpr"] == 0.001
    assert found["holdout"] < 100 * 3 * found["fpr"]  # a hundred samples for each patient


def test_the_encoder_is_kept_for_the_same_others_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    others, images = people(20, (16, 16), 0, "o"), torch.from_numpy(people(5, (16, 16), 1, "t").x_NC)
    alone = train_encoder(others, 5, 0)(images)
    assert np.array_equal(train_encoder(others, 5, 0, tmp_path)(images), alone)
    monkeypatch.setattr(reidentify_module, "_train", lambda *_: None)
    assert np.array_equal(train_encoder(others, 5, 0, tmp_path)(images), alone)
    for other in (train_encoder(people(20, (16, 16), 2, "o"), 5, 0, tmp_path), train_encoder(others, 5, 1, tmp_path)):
        assert not np.allclose(other(images), alone)
    assert len(list(tmp_path.iterdir())) == 3


def test_too_few_others_are_said() -> None:
    few = people(MIN_OTHERS - 1, (16, 16), 0, "o")
    samples = synthetic_images(few.x_NC, few.y_N)
    assert f"takes {MIN_OTHERS}" in reidentify(samples, few, few, few, AuditConfig())["not_done"]
    assert "0 patients" in reidentify(samples, few, few, None, AuditConfig())["not_done"]
    enough = people(MIN_OTHERS, (16, 16), 0, "o")
    three = people(3, (16, 16), 1, "t")
    assert "3 patients on one side" in reidentify(samples, three, few, enough, AuditConfig())["not_done"]


# --- extraction ------------------------------------------------------------------------------------------------------


def repeated(source: Images, who: list[int], times: int, seed: int) -> Images:
    """300 samples: nobody, but ``times`` noisy copies of each of ``who``."""
    x_NC = people(300, source.x_NC.shape[2:], seed, "s").x_NC
    copies = np.repeat(source.x_NC[who], times, axis=0)
    x_NC[: len(copies)] = copies + 0.02 * np.random.default_rng(seed).standard_normal(copies.shape)
    return synthetic_images(x_NC.astype(np.float32), np.zeros(300, int))


@pytest.mark.parametrize("shape", [(24, 24), (14, 16, 14)], ids=["2d", "3d"])
def test_what_is_said_again_and_again_is_extracted(shape: tuple[int, ...]) -> None:
    train, holdout = people(60, shape, 1, "t"), people(40, shape, 2, "h")
    random = np.random.default_rng(0)
    who = list(range(8))
    all_train = train.of_patients(train.names_P[:40])  # so that drawing 40 of them leaves none out
    found = extraction(repeated(train, who, 6, 3), all_train, holdout, random)
    assert found["clusters"] == 8 and found["samples_in_clusters"] == 48 and found["largest"] == 6
    assert found["extracted"]["train"] == 8 and found["extracted"]["holdout"] == 0
    assert found["extracted"]["p_value"] == pytest.approx(2**-8)
    assert all(c["train_distance"] < 0.5 * c["holdout_distance"] for c in found["largest_clusters"])
    of_holdout = extraction(repeated(holdout, who, 6, 3), all_train, holdout, random)
    assert of_holdout["extracted"]["train"] == 0 and of_holdout["extracted"]["p_value"] == 1
    assert extraction(repeated(train, [], 6, 3), all_train, holdout, random)["clusters"] == 0


def test_a_generator_of_one_mode_that_is_nobody_extracts_nobody() -> None:
    train, holdout = people(40, (24, 24), 1, "t"), people(40, (24, 24), 2, "h")
    mode = np.repeat(people(1, (24, 24), 9, "m").x_NC, 50, axis=0)
    found = extraction(synthetic_images(mode, np.zeros(50, int)), train, holdout, np.random.default_rng(0))
    assert (found["clusters"], found["largest"]) == (1, 50)
    assert found["extracted"] == {"train": 0, "holdout": 0, "p_value": 1.0}


def test_patch_distance_is_the_largest_over_patches() -> None:
    random = np.random.default_rng(4)
    x, y = (torch.from_numpy(random.standard_normal((3, 1, 10, 8)).astype(np.float32)) for _ in range(2))
    expected = np.zeros((3, 3))
    for i, j in np.ndindex(3, 3):
        rows = np.array_split(np.arange(10), 4)
        columns = np.array_split(np.arange(8), 4)
        expected[i, j] = max(
            np.sqrt(((x[i, 0] - y[j, 0]).numpy()[np.ix_(r, c)] ** 2).mean()) for r in rows for c in columns
        )
    np.testing.assert_allclose(patch_distance(x, y), expected, rtol=1e-3)
    assert "3 patients" in extraction(*(people(3, (16, 16), i, "p") for i in range(3)), random)["not_done"]
