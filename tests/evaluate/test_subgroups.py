"""Subgroups: the one that the generator lost is found, small ones are suppressed, scores are of the group alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, recall_score, roc_auc_score

from imgsynth.evaluate.metric import Comparison
from imgsynth.evaluate.run import evaluate
from imgsynth.evaluate.subgroups import SMALLEST, coverage_by_group, hidden, scores_by_group
from imgsynth.evaluate.utility import REAL, SYNTHETIC, Trained
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.schema import EvaluateConfig
from imgsynth.types import Grid

GRID = Grid((16, 16), (1.0, 1.0), "PL", "CT", "HU", -1000.0, 1000.0)


def test_a_subgroup_without_samples_is_lost_and_the_others_are_not(digits: Images) -> None:
    """ "Women" are zeros and sixes, of which the generator makes none."""
    train, test, third = (digits.select(np.arange(i * 500, (i + 1) * 500)) for i in range(3))
    women = {p: "F" if y in (0, 6) else "M" for p, y in zip(digits.patients_N, digits.y_N, strict=True)}
    sex = {"sex": women}
    made = third.select(~np.isin(third.y_N, (0, 6)))
    c = Comparison(train, test, synthetic_images(made.x_NC, made.y_N), get_encoder("random_conv", 2, 0), GRID, 100, 0)
    rows = {(r["attribute"], r["value"]): r for r in coverage_by_group(c, sex, [str(k) for k in range(10)])}
    assert rows["sex", "F"]["lost"] and not rows["sex", "M"]["lost"]
    assert {value for (name, value), row in rows.items() if name == "label" and row["lost"]} == {"0", "6"}
    assert rows["sex", "F"]["floor"]["value"] > 0.8 > 0.4 > rows["sex", "F"]["coverage"]["value"]
    json.dumps(list(rows.values()), allow_nan=False)


def test_scores_are_of_the_group_alone_and_small_groups_say_nothing() -> None:
    random = np.random.default_rng(0)
    n = 320
    y_N = random.integers(0, 2, n)
    test = Images(np.zeros((n, 1, 2, 2)), y_N, np.array([f"p{i:03d}" for i in range(n)]))
    of_group = np.repeat(list("ABCD"), [150, 100, 61, SMALLEST - 1])
    site = dict(zip(test.patients_N, of_group, strict=True))
    good = np.clip(y_N + random.normal(0, 0.3, n), 0, 1)
    bad = np.where(of_group == "A", good, random.uniform(size=n))  # trained on synthetic: no use at site B
    rows = {r["value"]: r for r in scores_by_group(two(good, bad, y_N), test, {"site": site}, ["no", "yes"], 200, 0)}
    for value in "AB":
        mask = of_group == value
        by_score = {one["score"]: one for one in rows[value]["results"]}
        assert list(by_score) == ["auc", "balanced_accuracy", "brier", "calibration_error"]
        for side, p in (("real", good), ("synthetic", bad)):
            values = {name: one[side]["value"] for name, one in by_score.items()}
            assert values["auc"] == pytest.approx(roc_auc_score(y_N[mask], p[mask]))
            assert values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y_N[mask], p[mask] > 0.5))
            assert values["brier"] == pytest.approx(2 * brier_score_loss(y_N[mask], p[mask]))
        assert rows[value]["n_patients"] == mask.sum()
    assert rows["B"]["results"][0]["gap"]["low"] > 0 == rows["A"]["results"][0]["gap"]["high"]
    for value, why_not in (("C", "would follow"), ("D", "fewer than 10")):  # D is the whole less A, B and C
        assert rows[value]["n_patients"] is None and not rows[value]["results"] and why_not in rows[value]["why_not"]


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [
        ([40, 30, 10], [0, 1, 2]),  # none is small
        ([40, 30, 9], [0]),  # the next smallest goes with it
        ([40, 9], []),
        ([40, 30, 6, 4], [0, 1]),  # two that are ten together cannot be told apart
        ([40, 30, 20, 5, 4], [0, 1]),  # nine together: one more
        ([9], []),
    ],
)
def test_what_is_hidden_does_not_follow_from_what_is_shown(sizes: list[int], shown: list[int]) -> None:
    assert [i for i in range(len(sizes)) if i not in hidden(sizes)] == shown
    left_out = [sizes[i] for i in hidden(sizes)]
    assert not left_out or len(sizes) == 1 or (len(left_out) > 1 and sum(left_out) >= SMALLEST)


def test_the_label_that_synthetic_images_teach_worse_is_seen_by_its_sensitivity() -> None:
    random = np.random.default_rng(1)
    y_N = np.arange(60) % 2
    test = Images(np.zeros((60, 1, 2, 2)), y_N, np.array([f"p{i:02d}" for i in range(60)]))
    good = np.clip(y_N * 0.6 + random.uniform(0, 0.45, 60), 0, 1)
    bad = np.where(y_N == 1, random.uniform(0.3, 0.6, 60), good)  # misses most of "yes"
    rows = scores_by_group(two(good, bad, y_N), test, {}, ["no", "yes"], 200, 0)
    assert [(row["attribute"], row["value"], row["n_patients"]) for row in rows] == [
        ("label", "no", 30), ("label", "yes", 30),
    ]  # fmt: skip
    for k, row in enumerate(rows):
        (one,) = row["results"]
        assert one["score"] == "sensitivity"
        for side, p in (("real", good), ("synthetic", bad)):
            expected = recall_score(y_N, p > 0.5, pos_label=k)
            assert one[side]["value"] == pytest.approx(expected)
            assert one[side]["low"] <= expected <= one[side]["high"]
    assert rows[1]["results"][0]["gap"]["low"] > 0.1 > rows[0]["results"][0]["gap"]["high"] - 1e-9


@pytest.mark.filterwarnings("error")
def test_a_group_with_few_of_a_class_has_what_it_can_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve patients, four of one class, of whom one of the resamples has none."""
    n = 40
    y_N = np.r_[np.ones(8, int), np.zeros(4, int), np.arange(n - 12) % 2]
    test = Images(np.zeros((n, 1, 2, 2)), y_N, np.array([f"p{i:02d}" for i in range(n)]))
    sex = {"sex": {p: "F" if i < 12 else "M" for i, p in enumerate(test.patients_N)}}
    weights_RP = np.ones((3, n))
    weights_RP[1, :12] = 0
    monkeypatch.setattr("imgsynth.evaluate.subgroups.bootstrap_weights", lambda *_: weights_RP)
    p_N = np.where(y_N == 1, 0.7, 0.3)
    few, many = scores_by_group(two(p_N, p_N, y_N), test, sex, ["no", "yes"], 3, 0)[:2]
    assert (few["value"], few["n_patients"]) == ("F", 12) and "fewer than 5 patients of some class" in few["why_not"]
    assert [one["score"] for one in few["results"]] == ["brier"]  # 12 images say nothing of calibration
    assert few["results"][0]["real"] == pytest.approx({"value": 0.18, "low": 0.18, "high": 0.18})
    assert "why_not" not in many and [one["score"] for one in many["results"]] == ["auc", "balanced_accuracy", "brier"]


def test_the_whole_evaluation_names_labels_rightly_where_the_first_class_is_left_out(digits: Images) -> None:
    three = digits.select(digits.y_N < 3)
    train, test, made = (three.select(part) for part in np.split(np.arange(360), [120, 240]))
    few = np.flatnonzero(test.y_N == 0)[:3]  # of 0: too few to be tested
    test = test.select(np.sort(np.r_[few, np.flatnonzero(test.y_N > 0)]))
    c = Comparison(train, test, synthetic_images(made.x_NC, made.y_N), get_encoder("random_conv", 2, 0), GRID, 20, 0)
    sex = {"sex": {p: "FM"[i % 2] for i, p in enumerate(test.patients_N)}}
    settings = EvaluateConfig(classifier_seeds=1, shares=[], parts=["utility"], classifiers=["logistic_regression"])
    found = evaluate(c, ["zero", "one", "two"], settings, attributes=sex)["subgroups"]["utility"]
    labels = {row["value"]: row["n_patients"] for row in found if row["attribute"] == "label"}
    assert labels == {name: int((test.y_N == k).sum()) for k, name in ((1, "one"), (2, "two"))}
    sexes = [row for row in found if row["attribute"] == "sex"]
    assert sum(row["n_patients"] for row in sexes) == (test.y_N > 0).sum()
    assert all("why_not" not in row and row["results"][0]["score"] == "auc" for row in sexes)


def two(real: np.ndarray, synthetic: np.ndarray, y_N: np.ndarray) -> list[Trained]:
    """The probabilities of class 1 by a classifier trained on real and one trained on synthetic images."""
    return [
        Trained("cnn", None, on, 10, np.stack([1 - p, p], axis=1)[None], y_N)
        for on, p in ((REAL, real), (SYNTHETIC, synthetic))
    ]
