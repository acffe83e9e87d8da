"""Planted faults of masks move the quantities that they should; sound masks none; patients are the sample."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage

from imgsynth.evaluate import plausibility as module
from imgsynth.evaluate.metric import Comparison, NotDone
from imgsynth.evaluate.plausibility import beyond, plausibility, usual_range, weights_of
from imgsynth.measure.images import Images
from imgsynth.types import Grid, Structure

SPACING = (1.0, 1.5, 2.0)
GRID = Grid((26, 18, 16), SPACING, "RAS", "MR", "a.u.", 0.0, 1.0, (Structure("head", 1), Structure("tail", 2)))


def labels(seed: int) -> np.ndarray:
    """An ellipsoid of some size near the middle, cut in two halves that touch."""
    random = np.random.default_rng(seed)
    radii, at = random.uniform([6, 5, 8], [7.5, 6.5, 10]), random.uniform(-1, 1, 3)
    axes = [(np.arange(n) + 0.5 - n / 2) * s - o for n, s, o in zip(GRID.shape, SPACING, at, strict=True)]
    points = np.meshgrid(*axes, indexing="ij")
    inside = sum((p / r) ** 2 for p, r in zip(points, radii, strict=True)) <= 1
    return np.where(inside, np.where(points[2] < 0, 1, 2), 0).astype(np.uint8)


def images(maps: list[np.ndarray], each: int = 1, prefix: str = "p") -> Images:
    masks_NM = np.stack([[2.0 * (one == k) - 1 for k in (1, 2)] for one in maps]).astype(np.float32)
    n = len(maps)
    return Images(np.zeros((n, 1, *GRID.shape), np.float32), np.zeros(n, np.int64),
                  np.array([f"{prefix}{i // each:03d}" for i in range(n)]), masks_NM)  # fmt: skip


def compared(synthetic: list[np.ndarray], train_seed: int = 500) -> dict:
    n = len(synthetic)
    c = Comparison(
        train=images([labels(train_seed + i) for i in range(n)]), test=images([labels(900 + i) for i in range(40)]),
        synthetic=images(synthetic), encoder=None, grid=GRID, bootstrap=60, seed=0,
    )  # fmt: skip
    found = plausibility(c)
    json.dumps(found)
    return found


def outside(found: dict, structure: int = 0) -> dict[str, float]:
    return {row["name"]: row["outside"]["value"] for row in found["structures"][structure]["quantities"]}


def fragmented(one: np.ndarray) -> np.ndarray:
    """Two specks of the head, each of two by two voxels, in opposite corners: little volume, three components."""
    out = one.copy()
    out[0:2, 0:2, 0] = out[-2:, 0:2, 0] = 1
    return out


def dilated(one: np.ndarray) -> np.ndarray:
    return np.where((one == 0) & ndimage.binary_dilation(one == 1, iterations=2), 1, one)


def shifted(one: np.ndarray) -> np.ndarray:
    return ndimage.shift(one, (3, 0, 0), order=0)


def holed(one: np.ndarray) -> np.ndarray:
    at = np.round(np.argwhere(ndimage.binary_erosion(one == 1)).mean(0)).astype(int)
    out = one.copy()
    out[tuple(at)] = 0
    return out


def parted(one: np.ndarray) -> np.ndarray:
    """A gap between the halves: the head loses the layer that touches the tail."""
    return np.where((one == 1) & ndimage.binary_dilation(one == 2), 0, one)


@pytest.fixture(scope="module")
def sound() -> dict:
    return compared([labels(i) for i in range(30)])


def test_sound_masks_are_as_real_ones(sound):
    assert (sound["n_test_patients"], sound["n_train_patients"], sound["n_synthetic"]) == (40, 30, 30)
    assert [s["name"] for s in sound["structures"]] == ["head", "tail"]
    for structure in sound["structures"]:
        assert structure["present"] == {"synthetic": 1, "train": 1, "test": 1}
        for row in structure["quantities"]:
            for name in ("outside", "outside_floor", "distance", "distance_floor"):
                assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]
            assert row["outside"]["value"] <= 0.1
            low, high = row["range"]
            assert low <= row["mean"]["test"] <= high
            assert row["distance"]["value"] <= 3 * row["distance_floor"]["value"] + 1e-9 or row["name"] == "centroid k"
    (touching,) = sound["contacts"]
    assert touching["between"] == ["head", "tail"] and touching["outside"]["value"] <= 0.1
    assert touching["unit"] == "mm²" and touching["mean"]["test"] > 50


FAULTS = {  # what each moves in the head, and what it leaves
    "fragmented": (fragmented, {"components"}, {"holes"}),
    "dilated": (dilated, {"volume", "surface"}, {"components", "holes", "centroid i", "centroid j"}),
    "shifted": (shifted, {"centroid i"},
                {"volume", "surface", "sphericity", "length", "components", "holes", "centroid j", "centroid k"}),
    "holed": (holed, {"holes"}, {"volume", "length", "components", "centroid i", "centroid j", "centroid k"}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_moves_what_it_should_and_nothing_else(sound, fault):
    spoil, moved, kept = FAULTS[fault]
    found = compared([spoil(labels(i)) for i in range(30)])
    before, after = outside(sound), outside(found)
    assert {name for name in moved if after[name] >= 0.9} == moved, after
    assert {name for name in kept if after[name] <= before[name] + 0.04} == kept, after
    assert found["structures"][0]["outside"]["synthetic"]["value"] >= 0.9
    assert found["structures"][0]["outside"]["train"] == sound["structures"][0]["outside"]["train"]
    rows = {row["name"]: row for row in found["structures"][0]["quantities"]}
    assert all(rows[name]["distance"]["low"] > rows[name]["distance_floor"]["high"] for name in moved)
    if fault == "shifted":
        was = next(row for row in sound["structures"][0]["quantities"] if row["name"] == "centroid i")
        assert rows["centroid i"]["mean"]["synthetic"] - was["mean"]["synthetic"] == pytest.approx(3)
        assert abs(rows["centroid i"]["distance"]["value"] - 3) <= was["distance"]["value"] + 1e-9


def test_parts_that_no_longer_touch_are_seen_in_their_contact(sound):
    found = compared([parted(labels(i)) for i in range(30)])
    (touching,) = found["contacts"]
    assert touching["mean"]["synthetic"] == 0 and touching["outside"]["value"] == 1
    assert outside(found, 1) == outside(sound, 1)  # the tail is as it was


def test_a_structure_that_is_lost_has_a_volume_beyond_the_range_and_no_form():
    maps = [labels(i) for i in range(30)]
    for one in maps[:6]:
        one[one == 2] = 0
    tail = compared(maps)["structures"][1]
    assert tail["present"]["synthetic"] == pytest.approx(0.8)
    rows = {row["name"]: row for row in tail["quantities"]}
    assert rows["volume"]["outside"]["value"] >= 0.2 > rows["surface"]["outside"]["value"]
    assert tail["outside"]["synthetic"]["value"] >= 0.2
    gone = compared([np.where(one == 2, 0, one) for one in maps])["structures"][1]
    rows = {row["name"]: row for row in gone["quantities"]}
    assert rows["volume"]["outside"]["value"] == 1 and rows["surface"]["outside"] is None
    assert rows["surface"]["mean"]["synthetic"] is None and rows["surface"]["distance"] is None


def test_a_range_is_wider_than_what_was_seen_and_nan_is_nowhere():
    assert usual_range(np.linspace(10, 20, 1001)) == pytest.approx((10.05 - 0.99, 19.95 + 0.99))
    real = np.array([1.0, 1.0, np.nan, 1.0])
    np.testing.assert_array_equal(beyond(np.array([1.0, 2.0, 0.0, np.nan]), real), [False, True, True, False])


def test_patients_and_not_images_are_counted():
    made = images([labels(0)] * 4, each=3)  # three images of one patient, one of another
    np.testing.assert_allclose(weights_of(made, np.array([True, True, False, True])), [0.5, 0.5, 0, 1])
    c = Comparison(made, made, made, None, GRID, 50, 0)
    share = module._share(np.array([True, True, True, False]), np.ones(4), made, c)
    assert share["value"] == pytest.approx(0.5)
    assert (share["low"], share["high"]) == (0.0, 1.0)  # of two patients, both may be the same in a resample


def test_what_cannot_be_measured_is_said():
    few = images([labels(i) for i in range(4)])
    with pytest.raises(NotDone, match="4 test patients"):
        plausibility(Comparison(few, few, few, None, GRID, 10, 0))
    bare = Images(few.x_NC, few.y_N, few.patients_N)
    with pytest.raises(NotDone, match="no masks"):
        plausibility(Comparison(bare, few, few, None, GRID, 10, 0))
