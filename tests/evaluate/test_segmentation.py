"""Segmentation utility: Dice by hand, a planted truth, and pairs that teach nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from imgsynth.evaluate import segmentation
from imgsynth.evaluate.metric import NotDone
from imgsynth.evaluate.segmentation import PairRivals, dice, labels_of, segmentation_utility
from imgsynth.evaluate.segmentation_groups import beside_few, dice_by_group, resampled
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.types import Structure

STRUCTURES = (Structure("a", 1), Structure("b", 2))


def pairs(n: int, seed: int, moved: int = 0) -> Images:
    """Two bright squares on noise, of different brightness; masks lie ``moved`` voxels beside them. Three images for
    each patient."""
    random = np.random.default_rng(seed)
    x_NC = random.normal(-0.8, 0.1, (n, 3, 18, 14)).astype(np.float32)
    x_NC[:, 1:] = -1
    for x_C in x_NC:
        for m, grey in enumerate((0.2, 0.8)):
            row, column = int(random.integers(0, 8)), 7 * m + int(random.integers(0, 2))
            x_C[0, row : row + 5, column : column + 5] = grey
            x_C[1 + m, row + moved : row + 5 + moved, column : column + 5] = 1
    made = synthetic_images(x_NC, np.zeros(n, np.int64))
    return Images(made.x_NC, made.y_N, np.array([f"p{i // 3}" for i in range(n)]), made.masks_NM)


def test_dice_by_hand() -> None:
    true = np.array([[0, 1, 1, 2], [0, 0, 0, 0]])
    found = np.array([[1, 1, 0, 2], [0, 0, 0, 2]])
    np.testing.assert_allclose(dice(found, true, 2), [[2 * 1 / 4, 1.0], [1.0, 0.0]])


def test_sound_pairs_teach_and_shifted_masks_teach_the_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation, "STEPS", 80)
    train, test = pairs(30, 0), pairs(18, 1)
    good = segmentation_utility(train, test, pairs(30, 2), STRUCTURES, 100, 1, 0)
    off = segmentation_utility(train, test, pairs(30, 2, moved=3), STRUCTURES, 100, 1, 0)
    assert [side["trained_on"] for side in good["results"]] == ["synthetic", "real", "real + synthetic"]
    assert [side["n_train"] for side in good["results"]] == [30, 30, 60] and good["n_test_patients"] == 6
    made = good["results"][0]
    for side in good["results"]:
        for row in side["structures"]:
            assert row["dice"]["low"] <= row["dice"]["value"] <= row["dice"]["high"] and row["dice"]["value"] > 0.8
    for row, same in zip(off["results"][0]["structures"], off["results"][1]["structures"], strict=True):
        assert row["dice"]["value"] < 0.6 and row["gap_to_real"]["low"] > 0.1 and same["gap_to_real"] is None
    assert [row["name"] for row in made["structures"]] == ["a", "b"]
    for row, beside in zip(good["shows_its_mask"], off["shows_its_mask"], strict=True):
        assert row["dice"]["low"] <= row["dice"]["value"] <= row["dice"]["high"]
        assert row["dice"]["value"] > 0.8 and beside["dice"]["value"] < 0.6


def test_the_real_trained_network_is_kept_and_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(segmentation, "STEPS", 12)
    sides = pairs(15, 0), pairs(18, 1), pairs(15, 2)
    alone = segmentation_utility(*sides, STRUCTURES, 20, 1, 0, both=False)
    first = segmentation_utility(*sides, STRUCTURES, 20, 1, 0, both=False, shared=tmp_path)
    assert first == alone and [side["trained_on"] for side in alone["results"]] == ["synthetic", "real"]
    assert len(list(tmp_path.iterdir())) == 1
    trained: list[int] = []
    monkeypatch.setattr(segmentation, "_train", lambda network, x, y: trained.append(len(x)))
    again = segmentation_utility(*sides, STRUCTURES, 20, 1, 0, both=False, shared=tmp_path)
    assert len(trained) == 1 and again["results"][1] == first["results"][1]
    assert again["shows_its_mask"] == first["shows_its_mask"]
    segmentation_utility(pairs(15, 3), *sides[1:], STRUCTURES, 20, 1, 0, both=False, shared=tmp_path)
    assert len(trained) == 3 and len(list(tmp_path.iterdir())) == 2  # other patients: trained anew


def test_patients_are_the_sample_and_not_images() -> None:
    """Of a patient with one image and one with two, each counts alike."""
    test = Images(np.zeros((3, 1, 4, 4), np.float32), np.zeros(3, np.int64), np.array(["p", "q", "q"]))
    true_N = np.zeros((3, 4, 4), np.uint8)
    true_N[:, 0, 0] = 1
    found_N = true_N * np.array([1, 0, 0])[:, None, None]  # found in the patient with one image
    patient_PM = segmentation._Bench(test, true_N, 1, range(1), None).patients(found_N)
    means = resampled(patient_PM, np.array([[2.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(means[:, 0], [0.5, 1.0, 0.5])


def test_what_cannot_be_measured_is_said() -> None:
    sound = pairs(18, 0)
    alone = Images(sound.x_NC, sound.y_N, sound.patients_N)
    for sides, why in (((sound, alone, sound), "no masks"), ((sound, pairs(6, 1), sound), "2 test patients")):
        with pytest.raises(NotDone, match=why):
            segmentation_utility(*sides, STRUCTURES, 10, 1, 0)


def test_pairs_that_do_not_beat_the_trivial_ones_are_said_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation, "STEPS", 80)
    train, test = pairs(30, 0), pairs(18, 1)
    empty = np.zeros((2, 18, 18, 14), np.uint8)
    said = {}
    for beside, found in ((3, np.stack([labels_of(test)] * 2)), (0, empty)):
        rivals = PairRivals(pairs(30, 4, moved=beside), partial(lambda found, asked: found, found), 77)
        one = segmentation_utility(train, test, pairs(30, 2), STRUCTURES, 100, 1, 0, both=False, rivals=rivals)
        rows = {side["trained_on"]: side for side in one["results"]}
        assert list(rows) == ["synthetic", "real", "trivial generator", "real (DP-SGD)", "noised mean mask"]
        names = ("synthetic", "trivial generator", "real (DP-SGD)", "noised mean mask")
        for a, b, c, d in zip(*(rows[on]["structures"] for on in names), strict=True):
            better = max(b["dice"]["value"], d["dice"]["value"])
            assert a["over_trivial"]["value"] == pytest.approx(a["dice"]["value"] - better)
            assert b["over_trivial"] is None and c["over_trivial"] is None
            assert c["dice"]["value"] == (1.0 if beside else 0.0) and len(c["by_seed"]) == 2
        assert rows["real (DP-SGD)"]["seeds"] == 2 and rows["real (DP-SGD)"]["n_train"] == 77
        said[beside] = one["sentences"]
    for k, name in enumerate("ab"):
        assert said[3][k].startswith(f"{name}: synthetic pairs beat noised class means")
        assert said[0][k].startswith(f"{name}: synthetic pairs do not beat noised class means")
        assert "DP-SGD on the patients at the same ε has Dice 1.000, trained on synthetic pairs 0." in said[3][2 + k]


def test_empty_masks_teach_to_find_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation, "STEPS", 3)
    sound = pairs(18, 0)
    empty = Images(sound.x_NC, sound.y_N, sound.patients_N, np.full_like(sound.masks_NM, -1.0))
    found = segmentation_utility(sound, sound, empty, STRUCTURES, 10, 1, 0, both=False)
    assert [row["dice"] for row in found["results"][0]["structures"]] == [{"value": 0, "low": 0, "high": 0}] * 2
    assert segmentation_utility(sound, empty, empty, STRUCTURES, 10, 1, 0, both=False)["results"][0]["structures"][0][
        "dice"] == {"value": 1, "low": 1, "high": 1}  # fmt: skip


def test_a_difference_from_the_trivial_pairs_is_on_the_same_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pairs on both sides differ by nothing in any resample."""
    monkeypatch.setattr(segmentation, "STEPS", 80)
    made, test = pairs(18, 2), pairs(18, 1)
    rivals = PairRivals(made, lambda asked: np.stack([labels_of(test)]), 1)
    found = segmentation_utility(pairs(18, 0), test, made, STRUCTURES, 50, 1, 0, both=False, rivals=rivals)
    for row in found["results"][0]["structures"]:
        assert (row["over_trivial"]["low"], row["over_trivial"]["high"]) == (0, 0)
        assert row["dice"]["low"] < row["dice"]["high"]


def test_a_mean_mask_that_is_right_for_everybody_is_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks at one place: the trivial pairs teach nothing in three steps, their mask itself says all."""
    monkeypatch.setattr(segmentation, "STEPS", 3)
    one = pairs(1, 0)

    def alike(n: int) -> Images:
        assert one.masks_NM is not None
        return Images(
            one.x_NC.repeat(n, 0), np.zeros(n, int), np.array([f"p{i}" for i in range(n)]), one.masks_NM.repeat(n, 0)
        )

    rivals = PairRivals(alike(6), lambda asked: np.zeros((1, 18, 18, 14), np.uint8), 9)
    found = segmentation_utility(alike(18), alike(18), alike(9), STRUCTURES, 20, 1, 0, both=False, rivals=rivals)
    rows = {side["trained_on"]: side for side in found["results"]}
    names = ("synthetic", "noised mean mask", "trivial generator")
    for made, atlas, trivial in zip(*(rows[on]["structures"] for on in names), strict=True):
        assert atlas["dice"] == {"value": 1, "low": 1, "high": 1} and trivial["dice"]["value"] < 0.9
        assert made["over_trivial"]["value"] == pytest.approx(made["dice"]["value"] - 1)
    assert rows["noised mean mask"]["n_train"] == 9


def test_beside_few_real_pairs_synthetic_ones_help_and_beside_all_of_them_it_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(segmentation, "STEPS", 60)
    train, test, made = pairs(60, 0), pairs(18, 1), pairs(40, 2)
    found = segmentation_utility(train, test, made, STRUCTURES, 50, 1, 0, shares=[0.05, 1.0])
    few, everybody = found["curve"]
    assert [row["n_patients"] for row in found["curve"]] == [5, 20]  # never fewer than it takes
    assert few["gain"]["value"] == pytest.approx(few["real_and_synthetic"]["value"] - few["real"]["value"])
    rows = {side["trained_on"]: side["structures"] for side in found["results"]}
    for on, name in (("real", "real"), ("real + synthetic", "real_and_synthetic")):
        assert everybody[name]["value"] == pytest.approx(np.mean([row["dice"]["value"] for row in rows[on]]))


def test_a_share_is_of_patients_and_the_same_for_both_sides() -> None:
    train, asked = pairs(60, 0), []

    def dice_of(keep_N: np.ndarray, both: bool) -> np.ndarray:
        asked.append((both, keep_N))
        return np.full((4, 2), 0.5 + 0.1 * both)

    (row,) = beside_few(train, [0.5], 5, 0, dice_of)
    assert [both for both, _ in asked] == [False, True] and np.array_equal(asked[0][1], asked[1][1])
    assert len(np.unique(train.patients_N[asked[0][1]])) == row["n_patients"] == 10 and asked[0][1].sum() == 30
    assert row["gain"]["value"] == pytest.approx(0.1) and row["real"]["value"] == 0.5


def test_whom_synthetic_pairs_serve_worse_is_seen_and_small_groups_are_not_shown() -> None:
    """Dice by patient, by hand: of 12 women 0.8 and 0.4, of 12 men 0.8 and 0.8; of 6 and 5 others nothing is said."""
    names = np.array([f"p{i:02d}" for i in range(35)])
    test = Images(np.zeros((35, 1, 4, 4), np.float32), np.zeros(35, int), names)
    sex: dict[str, str | None] = dict(zip(names, "F" * 12 + "M" * 12 + "O" * 6 + "U" * 5, strict=True))
    real_PM = np.full((35, 2), 0.8)
    made_PM = np.where(np.arange(35)[:, None] < 12, 0.4, 0.8) * np.ones((1, 2))
    made_PM[0] = 0.6
    weights = np.random.default_rng(0).multinomial(35, np.full(35, 1 / 35), 200).astype(float)
    rows = dice_by_group(real_PM, made_PM, test, {"sex": sex}, STRUCTURES, weights)
    by = {row["value"]: row for row in rows}
    for few in (by["O"], by["U"]):
        assert few["n_patients"] is None and few["results"] == [] and "fewer than 10" in few["why_not"]
    assert (by["F"]["n_patients"], by["M"]["n_patients"]) == (12, 12)
    for worse, same in zip(by["F"]["results"], by["M"]["results"], strict=True):
        assert worse["real"]["value"] == pytest.approx(0.8) and worse["synthetic"]["value"] == pytest.approx(5 / 12)
        assert worse["gap"]["value"] == pytest.approx(0.8 - 5 / 12) and worse["gap"]["low"] > 0.3
        assert same["gap"]["value"] == pytest.approx(0) and same["gap"]["high"] == pytest.approx(0)
