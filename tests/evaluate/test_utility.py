"""Train on synthetic, test on real: weighted scores against scikit-learn, and generators of known use."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from imgsynth.evaluate.classifiers import ConvolutionalNetwork, LinearProbe
from imgsynth.evaluate.metric import NotDone
from imgsynth.evaluate.scores import balanced_accuracy, brier, calibration_error, macro_auc
from imgsynth.evaluate.utility import BOTH, DP_SGD, REAL, SYNTHETIC, TRIVIAL, Rivals, utility
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, synthetic_images


def test_weighted_scores_agree_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    for classes in (2, 4):
        y_N = np.concatenate([np.arange(classes), random.integers(0, classes, 60)])
        scores_NK = random.dirichlet(np.ones(classes), len(y_N)).round(1)
        scores_NK /= scores_NK.sum(1, keepdims=True)
        w_N = random.integers(0, 4, len(y_N)).astype(float)
        one_versus_rest = range(1 if classes == 2 else 0, classes)
        aucs = [roc_auc_score(y_N == k, scores_NK[:, k], sample_weight=w_N) for k in one_versus_rest]
        assert macro_auc(scores_NK, y_N, w_N[None])[0] == pytest.approx(np.mean(aucs))
        expected = balanced_accuracy_score(y_N, scores_NK.argmax(1), sample_weight=w_N)
        assert balanced_accuracy(scores_NK, y_N, w_N[None])[0] == pytest.approx(expected)
        squares = ((scores_NK - np.eye(classes)[y_N]) ** 2).sum(1)
        assert brier(scores_NK, y_N, w_N[None])[0] == pytest.approx(np.average(squares, weights=w_N))
        # images that count several times are images that are there several times
        often = np.repeat(np.arange(len(y_N)), w_N.astype(int))
        jittered = np.clip(scores_NK * 0.98 + 0.003, 0, 1)  # off the edges of bins, where conventions differ
        expected = multiclass_calibration_error(
            torch.from_numpy(jittered[often]), torch.from_numpy(y_N[often]), classes, n_bins=10, norm="l1"
        ).item()
        assert calibration_error(jittered, y_N, w_N[None])[0] == pytest.approx(expected, abs=1e-6)


def test_a_resample_without_a_class_has_no_score() -> None:
    y_N, scores_NK = np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    assert np.isnan(macro_auc(scores_NK, y_N, np.array([[1.0, 1.0, 0.0]]))[0])
    assert np.isnan(balanced_accuracy(scores_NK, y_N, np.array([[1.0, 1.0, 0.0]]))[0])


@pytest.fixture(scope="module")
def two_digits(digits: Images) -> tuple[Images, Images, Images]:
    """Threes and eights: train, test, and third persons' as a good generator's samples."""
    images = digits.select(np.isin(digits.y_N, [3, 8]))
    images = Images(images.x_NC, (images.y_N == 8).astype(int), images.patients_N)
    parts = [images.select(part) for part in np.split(np.arange(330), [110, 210])]
    return parts[0], parts[1], synthetic_images(parts[2].x_NC, parts[2].y_N)


def test_good_samples_reach_the_ceiling_and_mislabelled_ones_are_worse_than_chance(two_digits) -> None:  # type: ignore[no-untyped-def]
    train, test, good = two_digits
    classifiers = [LinearProbe(get_encoder("random_conv", 2, 0)), ConvolutionalNetwork(seeds=3)]
    found, _, _ = utility(train, test, good, classifiers, ["three", "eight"], 100, 0)
    rows = {(r["classifier"], r["trained_on"]): r for r in found["results"]}
    assert {on for _, on in rows} == {SYNTHETIC, REAL, BOTH} and len(rows) == 6
    for (name, trained_on), row in rows.items():
        assert row["auc"]["value"] > 0.9, (name, trained_on)
        assert row["auc"]["low"] <= row["auc"]["value"] <= row["auc"]["high"] <= 1.0
    assert all(
        abs(rows[name, "synthetic"]["gap_to_real"]["value"]) < 0.1 for name in ("logistic_regression", "small_cnn")
    )
    assert len(rows["small_cnn", "synthetic"]["auc_by_seed"]) == 3
    swapped = Images(good.x_NC, 1 - good.y_N, good.patients_N)
    bad = utility(train, test, swapped, classifiers[:1], ["three", "eight"], 50, 0)[0]["results"][0]
    assert bad["auc"]["high"] < 0.3
    assert bad["gap_to_real"]["low"] > 0.5


def test_interval_resamples_patients(two_digits) -> None:  # type: ignore[no-untyped-def]
    """The same test set four times over under the same patients must not look four times as sure."""
    train, test, good = two_digits
    noisy = test.with_images(test.x_NC + np.random.default_rng(0).standard_normal(test.x_NC.shape).astype(np.float32))
    probe = [LinearProbe(get_encoder("random_conv", 2, 0))]
    once = utility(train, noisy, good, probe, ["a", "b"], 200, 0)[0]["results"][0]["auc"]
    often, _, _ = utility(train, noisy.select(np.repeat(np.arange(len(noisy)), 4)), good, probe, ["a", "b"], 200, 0)
    assert often["n_test_patients"] == len(noisy)
    again = often["results"][0]["auc"]
    assert (once["value"], once["low"], once["high"]) == pytest.approx((again["value"], again["low"], again["high"]))


def test_single_or_rare_classes_are_not_done_with_the_reason(two_digits) -> None:  # type: ignore[no-untyped-def]
    train, test, good = two_digits
    with pytest.raises(NotDone, match="single class"):
        utility(train, test.select(test.y_N == 0), good, [], ["a", "b"], 10, 0)
    few = np.concatenate([np.flatnonzero(test.y_N == 0), np.flatnonzero(test.y_N == 1)[:4]])
    with pytest.raises(NotDone, match="1 class"):
        utility(train, test.select(few), good, [], ["a", "b"], 10, 0)


def test_a_class_that_is_too_rare_is_left_out_by_name(digits: Images) -> None:
    keep = np.flatnonzero((digits.y_N != 0) & (digits.y_N < 4))
    train, test, good = (digits.select(part) for part in np.split(keep[:450], [150, 300]))
    probe = [LinearProbe(get_encoder("random_conv", 2, 0))]
    found, _, _ = utility(train, test, good, probe, ["zero", "one", "two", "three"], 20, 0)
    assert found["classes"] == ["one", "two", "three"]
    assert found["classes_left_out"] == ["zero"]
    assert found["results"][0]["auc"]["value"] > 0.9


def test_network_in_three_dimensions_learns_and_leaves_the_global_random_state_alone() -> None:
    random = np.random.default_rng(0)
    y_N = np.arange(40) % 2
    x_NC = random.uniform(-1, 1, (40, 1, 8, 70, 9)).astype(np.float32) * 0.2
    x_NC[y_N == 1, :, 2:6, 20:60, 3:7] += 0.8
    before = torch.random.get_rng_state()
    network = ConvolutionalNetwork(2)
    seen = network.seen(x_NC)
    assert seen.shape == (40, 1, 8, 64, 9)
    scores = network.scores(seen[:20], y_N[:20], seen[20:], 2, seed=0)
    assert not np.array_equal(scores, network.scores(seen[:20], y_N[:20], seen[20:], 2, seed=1))
    assert (scores.argmax(1) == y_N[20:]).mean() > 0.9
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_does_not_beat_noised_class_means_is_said_not_to(two_digits) -> None:  # type: ignore[no-untyped-def]
    train, test, good = two_digits
    probe = [LinearProbe(get_encoder("random_conv", 2, 0))]
    noise = np.random.default_rng(0).uniform(-1, 1, good.x_NC.shape).astype(np.float32)
    better = Rivals(good.with_images(noise))
    found, _, _ = utility(train, test, good, probe, ["a", "b"], 200, 0, better)
    row = next(r for r in found["results"] if r["trained_on"] == SYNTHETIC)
    assert row["over_trivial"]["low"] > 0 and row["over_trivial"]["p"] < 0.02
    assert any("beats noised class means" in said for said in found["sentences"])
    found, _, _ = utility(train, test, good.with_images(noise), probe, ["a", "b"], 200, 0, Rivals(good))
    row = next(r for r in found["results"] if r["trained_on"] == SYNTHETIC)
    assert row["over_trivial"]["high"] < 0
    assert any("does not beat noised class means" in said for said in found["sentences"])
    # against itself: no difference at all, and p = 1
    found, _, _ = utility(train, test, good, probe, ["a", "b"], 200, 0, Rivals(good))
    row = next(r for r in found["results"] if r["trained_on"] == SYNTHETIC)
    assert row["over_trivial"] == {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    assert {r["trained_on"] for r in found["results"]} == {SYNTHETIC, REAL, BOTH, TRIVIAL}


def test_the_classifier_trained_by_dp_sgd_is_scored_on_the_same_images(two_digits) -> None:  # type: ignore[no-untyped-def]
    train, test, good = two_digits

    def oracle(images: Images) -> np.ndarray:  # probabilities of three classes, of which the first is not in the test
        return np.stack([np.eye(3)[images.y_N + 1] * 0.8 + 0.1 * (images.y_N == images.y_N)[:, None]] * 2)[
            :, :, [1, 2, 0]
        ]

    found, _, _ = utility(train, test, good, [], ["a", "b", "never"], 50, 0, Rivals(dp_sgd=oracle, n_train=77))
    (row,) = found["results"]
    assert row["trained_on"] == DP_SGD and row["seeds"] == 2 and row["auc"]["value"] == 1.0
    assert row["n_train"] == 77


def test_the_curve_takes_shares_of_patients_and_says_what_samples_add(two_digits) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(0)
    train, test, good = (
        side.with_images(side.x_NC + random.standard_normal(side.x_NC.shape).astype(np.float32)) for side in two_digits
    )
    probe = [LinearProbe(get_encoder("random_conv", 2, 0))]
    found, _, _ = utility(train, test, good, probe, ["a", "b"], 200, 0, None, (0.1, 1.0))
    few, all_ = found["curve"]
    assert few["n_patients"] < 0.15 * train.n_patients and all_["n_patients"] == train.n_patients
    assert few["gain"]["value"] == pytest.approx(few["real_and_synthetic"]["value"] - few["real"]["value"])
    assert few["gain"]["low"] > 0 and "10%" in found["sentences"][-1]  # a hundred good samples beside eleven patients
    assert all_["real"]["value"] == next(r for r in found["results"] if r["trained_on"] == REAL)["auc"]["value"]
    rare = train.select(np.concatenate([np.flatnonzero(train.y_N == 0), np.flatnonzero(train.y_N == 1)[:5]]))
    assert (
        utility(rare, test, good, probe, ["a", "b"], 20, 0, None, (0.1,))[0]["curve"][0]["n_patients"]
        == round(0.1 * (train.y_N == 0).sum()) + 5
    )
