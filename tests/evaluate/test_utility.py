"""Train on synthetic, test on real: weighted scores against scikit-learn, and generators of known use."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from imgsynth.evaluate.classifiers import ConvolutionalNetwork, LinearProbe
from imgsynth.evaluate.metric import NotDone
from imgsynth.evaluate.utility import balanced_accuracy, macro_auc, utility
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
    found = utility(train, test, good, classifiers, ["three", "eight"], 100, 0)
    rows = {(r["classifier"], r["trained_on"]): r for r in found["results"]}
    assert len(rows) == 4
    for (name, trained_on), row in rows.items():
        assert row["auc"]["value"] > 0.9, (name, trained_on)
        assert row["auc"]["low"] <= row["auc"]["value"] <= row["auc"]["high"] <= 1.0
    assert all(
        abs(rows[name, "synthetic"]["gap_to_real"]["value"]) < 0.1 for name in ("logistic_regression", "small_cnn")
    )
    assert len(rows["small_cnn", "synthetic"]["auc"]["by_seed"]) == 3
    swapped = Images(good.x_NC, 1 - good.y_N, good.patients_N)
    bad = utility(train, test, swapped, classifiers[:1], ["three", "eight"], 50, 0)["results"][0]
    assert bad["auc"]["high"] < 0.3
    assert bad["gap_to_real"]["low"] > 0.5


def test_interval_resamples_patients(two_digits) -> None:  # type: ignore[no-untyped-def]
    """The same test set four times over under the same patients must not look four times as sure."""
    train, test, good = two_digits
    noisy = test.with_images(test.x_NC + np.random.default_rng(0).standard_normal(test.x_NC.shape).astype(np.float32))
    probe = [LinearProbe(get_encoder("random_conv", 2, 0))]
    once = utility(train, noisy, good, probe, ["a", "b"], 200, 0)["results"][0]["auc"]
    often = utility(train, noisy.select(np.repeat(np.arange(len(noisy)), 4)), good, probe, ["a", "b"], 200, 0)
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
    found = utility(train, test, good, probe, ["zero", "one", "two", "three"], 20, 0)
    assert found["classes"] == ["one", "two", "three"]
    assert found["classes_left_out"] == ["zero"]
    assert found["results"][0]["auc"]["value"] > 0.9


def test_network_in_three_dimensions_learns_and_leaves_the_global_random_state_alone() -> None:
    import torch

    random = np.random.default_rng(0)
    y_N = np.arange(40) % 2
    x_NC = random.uniform(-1, 1, (40, 1, 8, 70, 9)).astype(np.float32) * 0.2
    x_NC[y_N == 1, :, 2:6, 20:60, 3:7] += 0.8
    before = torch.random.get_rng_state()
    network = ConvolutionalNetwork(2)
    scores = network.scores(x_NC[:20], y_N[:20], x_NC[20:], 2, seed=0)
    assert not np.array_equal(scores, network.scores(x_NC[:20], y_N[:20], x_NC[20:], 2, seed=1))
    assert (scores.argmax(1) == y_N[20:]).mean() > 0.9
    assert torch.equal(before, torch.random.get_rng_state())
