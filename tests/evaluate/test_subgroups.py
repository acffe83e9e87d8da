"""Subgroups: the one that the generator lost is found, small ones are suppressed, scores are of the group alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, recall_score, roc_auc_score

from imgsynth.evaluate.metric import Comparison
from imgsynth.evaluate.subgroups import SMALLEST, coverage_by_group, scores_by_group
from imgsynth.evaluate.utility import REAL, SYNTHETIC, Trained
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, synthetic_images
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
    n = 80
    y_N = random.integers(0, 2, n)
    test = Images(np.zeros((n, 1, 2, 2)), y_N, np.array([f"p{i:02d}" for i in range(n)]))
    site = {p: "A" if i < 40 else "B" if i < 80 - SMALLEST + 1 else "C" for i, p in enumerate(test.patients_N)}
    good = np.clip(y_N + random.normal(0, 0.3, n), 0, 1)
    bad = np.where(np.arange(n) < 40, good, random.uniform(size=n))  # trained on synthetic: no use at site B
    rows = {r["value"]: r for r in scores_by_group(two(good, bad, y_N), test, {"site": site}, ["no", "yes"], 200, 0)}
    for value, mask in (("A", np.arange(n) < 40), ("B", (np.arange(n) >= 40) & (np.arange(n) < 71))):
        by_score = {one["score"]: one for one in rows[value]["results"]}
        assert list(by_score) == ["auc", "balanced_accuracy", "brier", "calibration_error"]
        for side, p in (("real", good), ("synthetic", bad)):
            values = {name: one[side]["value"] for name, one in by_score.items()}
            assert values["auc"] == pytest.approx(roc_auc_score(y_N[mask], p[mask]))
            assert values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y_N[mask], p[mask] > 0.5))
            assert values["brier"] == pytest.approx(2 * brier_score_loss(y_N[mask], p[mask]))
        assert rows[value]["n_patients"] == mask.sum()
    assert rows["B"]["results"][0]["gap"]["low"] > 0 == rows["A"]["results"][0]["gap"]["high"]
    assert rows["C"]["n_patients"] is None and not rows["C"]["results"] and "fewer" in rows["C"]["why_not"]


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
def test_a_group_without_all_classes_has_what_it_can_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten patients of one class, of whom one of the resamples has none."""
    n = 40
    y_N = np.r_[np.ones(10, int), np.arange(n - 10) % 2]
    weights_RP = np.ones((3, n))
    weights_RP[1, :10] = 0
    monkeypatch.setattr("imgsynth.evaluate.subgroups.bootstrap_weights", lambda *_: weights_RP)
    test = Images(np.zeros((n, 1, 2, 2)), y_N, np.array([f"p{i:02d}" for i in range(n)]))
    sex = {"sex": {p: "F" if i < 10 else "M" for i, p in enumerate(test.patients_N)}}
    p_N = np.full(n, 0.7)
    few = scores_by_group(two(p_N, p_N, y_N), test, sex, ["no", "yes"], 3, 0)[0]
    assert (few["value"], few["n_patients"], few["why_not"]) == ("F", 10, "not all classes are in it")
    assert [one["score"] for one in few["results"]] == ["brier", "calibration_error"]
    assert few["results"][0]["real"] == pytest.approx({"value": 0.18, "low": 0.18, "high": 0.18})


def two(real: np.ndarray, synthetic: np.ndarray, y_N: np.ndarray) -> list[Trained]:
    """The probabilities of class 1 by a classifier trained on real and one trained on synthetic images."""
    return [
        Trained("cnn", None, on, 10, np.stack([1 - p, p], axis=1)[None], y_N)
        for on, p in ((REAL, real), (SYNTHETIC, synthetic))
    ]
