"""The whole evaluation on arrays: controls of known quality, refusals with reasons, strict JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from brief import brief_trainings

from imgsynth.evaluate.metric import Comparison
from imgsynth.evaluate.run import CLASSIFIERS, METRICS, PARTS, evaluate
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.schema import EVALUATION_CLASSIFIERS, EVALUATION_PARTS, EvaluateConfig
from imgsynth.types import Grid

ONE = EvaluateConfig(classifier_seeds=1, shares=[])
GRID = Grid((16, 16), (1.0, 1.0), "PL", "CT", "HU", -1000.0, 1000.0)


def compare(digits: Images, x_NC: np.ndarray | None = None, n: int = 250) -> Comparison:
    train, test, third = (digits.select(np.arange(i * n, (i + 1) * n)) for i in range(3))
    synthetic = synthetic_images(third.x_NC if x_NC is None else x_NC, third.y_N)
    return Comparison(train, test, synthetic, get_encoder("random_conv", 2, 0), GRID, 60, 0)


def metrics(c: Comparison) -> dict[str, Any]:
    return {name: metric(c) for name, metric in METRICS.items()}


def test_a_perfect_generator_is_at_the_floor_and_shuffled_voxels_are_far_above(digits: Images) -> None:
    perfect = metrics(compare(digits))
    for name, m in perfect.items():
        assert m.low <= m.floor.high and m.floor.low <= m.high, name
    shuffled = np.random.default_rng(0).permuted(digits.x_NC[500:750].reshape(250, -1), axis=1).reshape(250, 1, 16, 16)
    broken = metrics(compare(digits, shuffled))
    for name in ("frechet_distance", "kernel_distance"):
        assert broken[name].low > 10 * perfect[name].floor.high, name
    assert broken["ms_ssim"].high < broken["ms_ssim"].floor.low
    assert broken["intensity_wasserstein"].value == pytest.approx(perfect["intensity_wasserstein"].value, abs=1e-6)


def test_a_near_miss_is_told_from_the_truth(digits: Images) -> None:
    """Noise of 15 % of the range, and an offset of 50 HU, are each seen by the metric whose business it is."""
    noisy = digits.x_NC[500:750] + 0.3 * np.random.default_rng(0).standard_normal((250, 1, 16, 16)).astype(np.float32)
    measured = metrics(compare(digits, noisy))
    for name in ("frechet_distance", "kernel_distance"):
        assert measured[name].low > measured[name].floor.high, name
    shifted = metrics(compare(digits, digits.x_NC[500:750] * 0.9 + 0.05))["intensity_wasserstein"]
    assert shifted.low > shifted.floor.high
    assert shifted.unit == "HU"


def test_copying_the_training_set_does_not_beat_fresh_patients(digits: Images) -> None:
    """The reference is patients never trained on: a generator of copies scores as the floor does, not 0."""
    copies = metrics(compare(digits, digits.x_NC[:250]))["frechet_distance"]
    assert copies.value == pytest.approx(copies.floor.value)
    assert copies.value > 0


def test_evaluation_is_repeatable_strict_json_with_named_encoders(digits: Images) -> None:
    with brief_trainings():
        first, second = (evaluate(compare(digits, n=120), [str(k) for k in range(10)], ONE) for _ in range(2))
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)
    assert first["encoder"] == "random_conv-2d-seed0"
    on_voxels = {"ms_ssim", "intensity_wasserstein", "noise_power_spectrum"}
    assert {m["name"]: m["encoder"] for m in first["metrics"]} == {
        name: None if name in on_voxels else first["encoder"] for name in METRICS
    }
    # of each class: what so few patients carry, and why the rest is not there
    assert set(first["per_class"]) == {str(k) for k in range(10)}
    for part in first["per_class"].values():
        done = {m["name"] for m in part["metrics"]}
        assert "intensity_wasserstein" in done and "frechet_distance" not in done
        assert done.isdisjoint(n["what"] for n in part["not_done"])
        assert all(m["n_real"] < 20 for m in part["metrics"])
    assert not first["not_done"]
    assert {(r["classifier"], r["seeds"]) for r in first["utility"]["results"]} == {
        ("logistic_regression", 1), ("gradient_boosting", 1), ("small_cnn", 1), ("resnet", 1),
    }  # fmt: skip


def test_parts_that_are_not_asked_for_are_not_done_and_named(digits: Images) -> None:
    names = [str(k) for k in range(10)]
    few = EvaluateConfig(parts=["utility"], classifiers=["logistic_regression"], shares=[])
    found = evaluate(compare(digits, n=120), names, few)
    asked = [(r["classifier"], r["trained_on"]) for r in found["utility"]["results"]]
    assert asked == [("logistic_regression", "synthetic"), ("logistic_regression", "real")]
    assert not found["metrics"] and not found["per_class"] and found["detectability"] is None
    assert {n["what"] for n in found["not_done"]} == {name for part, name in PARTS.items() if part != "utility"}
    few.parts += ["augmentation"]
    more = evaluate(compare(digits, n=120), names, few)["utility"]["results"]
    assert more[:2] == found["utility"]["results"] and more[2]["trained_on"] == "real + synthetic"


def test_every_part_and_classifier_of_the_settings_is_known() -> None:
    assert tuple(PARTS) == EVALUATION_PARTS and tuple(CLASSIFIERS) == EVALUATION_CLASSIFIERS


@pytest.mark.parametrize("n", [0, 1, 4, 9])
def test_a_handful_of_patients_is_not_done_with_reasons(digits: Images, n: int) -> None:
    c = compare(digits, n=n)
    found = evaluate(c, [str(k) for k in range(10)], ONE)
    done = {m["name"] for m in found["metrics"]}
    assert done | {entry["what"] for entry in found["not_done"]} >= set(METRICS)
    assert {"frechet_distance", "kernel_distance"}.isdisjoint(done)
    assert all(entry["why"] for entry in found["not_done"])
    json.dumps(found, allow_nan=False)
