"""Subgroups: the one that the generator lost is found, small ones are suppressed, scores are of the group alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

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
    trained = [
        Trained("cnn", None, on, 10, np.stack([1 - p, p], axis=1)[None], y_N)
        for on, p in ((REAL, good), (SYNTHETIC, bad))
    ]
    rows = {r["value"]: r for r in scores_by_group(trained, test, {"site": site}, 200, 0)}
    for value, mask in (("A", np.arange(n) < 40), ("B", (np.arange(n) >= 40) & (np.arange(n) < 71))):
        (row,) = rows[value]["results"]
        assert row["real"]["value"] == pytest.approx(roc_auc_score(y_N[mask], good[mask]))
        assert row["synthetic"]["value"] == pytest.approx(roc_auc_score(y_N[mask], bad[mask]))
        assert rows[value]["n_patients"] == mask.sum()
    assert rows["B"]["results"][0]["gap"]["low"] > 0 == rows["A"]["results"][0]["gap"]["high"]
    assert rows["C"]["n_patients"] is None and not rows["C"]["results"] and "fewer" in rows["C"]["why_not"]
