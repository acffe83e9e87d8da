"""Copies that are flipped and shifted: caught by the invariant check, missed by the plain one, in 2D and 3D."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from imgsynth.audit.copies import find_copies
from imgsynth.audit.copies.invariant import SIDE, invariant_nearness, largest_shift
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.schema import AuditConfig

SETTINGS = AuditConfig(bootstrap=200)
SHAPES = {"2d": (28, 24), "3d": (18, 20, 18)}


def people(n: int, shape: tuple[int, ...], random: np.random.Generator, name: str = "p", sigma: float = 2.0) -> Images:
    """Patients who are smooth random fields: as different from each other as patients can be."""
    x = gaussian_filter(random.standard_normal((n, *shape)), (0, *(sigma,) * len(shape)))
    x = np.clip(x / x.std() / 3, -1, 1)[:, None].astype(np.float32)
    return Images(x, np.zeros(n, int), np.array([f"{name}{i:04d}" for i in range(n)]))


def flipped_and_shifted(x_NC: np.ndarray, voxels: int, random: np.random.Generator) -> np.ndarray:
    """Every image reversed along a random subset of axes (at least one), then shifted by ``voxels`` along all."""
    axes = range(1, x_NC.ndim - 1)
    subsets = [s for size in axes for s in itertools.combinations(axes, size)]
    found = []
    for x in x_NC:
        found.append(np.roll(np.flip(x, subsets[random.integers(len(subsets))]),
                             random.choice([-voxels, voxels], x.ndim - 1), axis=tuple(axes)))  # fmt: skip
    return np.stack(found)


def leaking(train: Images, share: float, n: int, how: str, random: np.random.Generator) -> Images:
    """``n`` samples, of which ``share`` are copies of train patients, changed by ``how``; the rest are nobody."""
    x_NC = people(n, train.x_NC.shape[2:], random).x_NC
    copied = np.flatnonzero(random.random(n) < share)
    copies = train.x_NC[random.integers(len(train), size=len(copied))]
    if how == "flipped":
        copies = flipped_and_shifted(copies, 2, random)
    x_NC[copied] = copies + (0.1 if how == "noisy" else 0.02) * random.standard_normal(copies.shape)
    return synthetic_images(x_NC.astype(np.float32), np.zeros(n, int))


@pytest.mark.parametrize("dims", ["2d", "3d"])
def test_flipped_and_shifted_copies_escape_the_plain_check_only(dims: str) -> None:
    random = np.random.default_rng(1)
    train, holdout = people(60, SHAPES[dims], random, "t"), people(50, SHAPES[dims], random, "h")
    found = find_copies(leaking(train, 0.2, 200, "flipped", random), train, holdout, SETTINGS)
    assert not found["caught"]
    assert found["chance"]["low"] < found["share"] < found["chance"]["high"]
    assert found["invariant"]["caught"]
    assert found["invariant"]["too_near"]["train"] > 2 * found["invariant"]["too_near"]["holdout"] + 10
    assert found["memorised"]["low"] < 0
    assert found["invariant"]["memorised"]["low"] > 0.1
    assert found["invariant"]["memorised"]["holdout"] < 0.3


@pytest.mark.parametrize("dims", ["2d", "3d"])
def test_noisy_copies_are_caught_by_both(dims: str) -> None:
    random = np.random.default_rng(2)
    train, holdout = people(50, SHAPES[dims], random, "t"), people(50, SHAPES[dims], random, "h")
    found = find_copies(leaking(train, 0.2, 200, "noisy", random), train, holdout, SETTINGS)
    assert found["caught"] and found["invariant"]["caught"]


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_nothing_is_found_where_nothing_or_only_the_holdout_is_copied(seed: int) -> None:
    random = np.random.default_rng(seed)
    train, holdout = people(60, SHAPES["2d"], random, "t"), people(50, SHAPES["2d"], random, "h")
    honest = find_copies(leaking(train, 0.0, 200, "noisy", random), train, holdout, SETTINGS)
    assert not honest["caught"] and not honest["invariant"]["caught"]
    assert honest["invariant"]["memorised"]["low"] < 0 < honest["invariant"]["memorised"]["high"]
    of_holdout = find_copies(leaking(holdout, 0.2, 200, "flipped", random), train, holdout, SETTINGS)
    assert not of_holdout["caught"] and not of_holdout["invariant"]["caught"]
    assert of_holdout["invariant"]["memorised"]["high"] < 0


@pytest.fixture(scope="module")
def unequal() -> list[dict]:
    """Nothing is copied, 150 patients are trained on and 20 are not: by seed."""
    found = []
    for seed in range(12):
        random = np.random.default_rng(100 + seed)
        train, holdout = people(150, (16, 16), random, "t"), people(20, (16, 16), random, "h")
        found.append(find_copies(leaking(train, 0.0, 150, "noisy", random), train, holdout, SETTINGS))
    return found


def test_unequal_sides_are_no_finding_and_hide_none(unequal: list[dict]) -> None:
    """A sample is looked at closely beside its nearest patients alone: these must not be sought on each side."""
    share = np.array([one["invariant"]["share"] for one in unequal])
    p = np.array([one["invariant"]["chance"]["p"] for one in unequal])
    assert abs(share.mean() - 0.5) < 4 * share.std() / len(share) ** 0.5 and abs(share.mean() - 0.5) < 0.1
    assert 0.25 < p.mean() < 0.75 and p.min() < 0.5
    excess = np.array([one["invariant"]["memorised"]["excess"] for one in unequal])
    assert abs(excess.mean()) < 4 * excess.std() / len(excess) ** 0.5
    assert sum(one["invariant"]["caught"] for one in unequal) <= 2


@pytest.mark.parametrize(("share", "samples"), [(0.05, 1500), (0.2, 400)], ids=["5 %", "20 %"])
def test_copies_of_a_part_are_found_with_a_small_holdout(share: float, samples: int) -> None:
    random = np.random.default_rng(21)
    train, holdout = people(150, (16, 16), random, "t"), people(20, (16, 16), random, "h")
    found = find_copies(leaking(train, share, samples, "flipped", random), train, holdout, SETTINGS)["invariant"]
    assert found["caught"] and found["memorised"]["low"] > 0


def test_a_patients_nearest_sample_does_not_depend_on_the_other_patients() -> None:
    random = np.random.default_rng(22)
    train, samples = people(60, (16, 16), random), people(80, (16, 16), random, "s")
    few = train.of_patients(train.names_P[:10])
    np.testing.assert_array_equal(
        invariant_nearness(samples, train).nearest_P[:10], invariant_nearness(samples, few).nearest_P
    )


def naive(x: np.ndarray, y: np.ndarray, shift: int) -> float:
    """Every flip and every shift, one after the other."""
    axes = range(1, x.ndim)
    inner = tuple(slice(shift, side - shift) for side in y.shape[1:])
    best = np.inf
    for subset in (s for size in range(x.ndim) for s in itertools.combinations(axes, size)):
        part = np.flip(y, subset)[(0, *inner)]
        for corner in itertools.product(range(2 * shift + 1), repeat=x.ndim - 1):
            window = tuple(slice(c, c + side) for c, side in zip(corner, part.shape, strict=True))
            best = min(best, float(np.sqrt(np.mean((x[(0, *window)].astype(float) - part) ** 2))))
    return best


@pytest.mark.parametrize("dims", ["2d", "3d"])
def test_distance_of_a_transformed_copy_is_that_of_the_naive_search(dims: str) -> None:
    """The coarse stage may settle on another flip for a pair of strangers, never for a copy; and never finds less."""
    random = np.random.default_rng(6)
    patients = people(4, SHAPES[dims], random)
    shift = largest_shift(SHAPES[dims])
    assert shift == 3
    x_NC = flipped_and_shifted(patients.x_NC, shift, random)
    near = invariant_nearness(synthetic_images(x_NC, np.zeros(4, int)), patients)
    np.testing.assert_array_equal(near.distance_NP.argmin(1), np.arange(4))
    np.testing.assert_array_equal(np.diag(near.distance_NP), 0)
    expected = np.array([[naive(x, y, shift) for y in patients.x_NC] for x in x_NC])
    assert (near.distance_NP >= expected - 1e-6).all()
    assert np.median(near.distance_NP / np.maximum(expected, 1e-9)) < 1.1
    assert (near.distance_NP <= 1.25 * expected).all()


def test_a_shift_beyond_the_range_is_not_forgiven() -> None:
    random = np.random.default_rng(7)
    patients = people(3, (28, 28), random)
    x_NC = np.roll(patients.x_NC, 5, axis=2)
    assert invariant_nearness(synthetic_images(x_NC, np.zeros(3, int)), patients).distance_NP.min() > 0.05


def test_a_patient_is_as_near_as_the_nearest_of_the_images() -> None:
    random = np.random.default_rng(8)
    patients = people(6, (20, 20), random)
    patients = Images(patients.x_NC, patients.y_N, np.array(list("babcac")))
    near = invariant_nearness(synthetic_images(patients.x_NC[[4, 2]], np.zeros(2, int)), patients)
    assert near.distance_NP.argmin(1).tolist() == [0, 1]  # a, b
    assert near.image_NP[[0, 1], [0, 1]].tolist() == [4, 2]
    assert near.distance_NP.min(1).tolist() == [0, 0]


def test_large_images_are_pooled_and_their_copies_still_found() -> None:
    random = np.random.default_rng(9)
    patients = people(12, (3 * SIDE[2], 100), random, sigma=8)
    x_NC = flipped_and_shifted(patients.x_NC, 4, random)
    near = invariant_nearness(synthetic_images(x_NC, np.zeros(12, int)), patients)
    np.testing.assert_array_equal(near.distance_NP.argmin(1), np.arange(12))
    assert np.diag(near.distance_NP).max() < 0.3 * np.where(np.eye(12, dtype=bool), np.inf, near.distance_NP).min()


def test_too_few_patients_are_said() -> None:
    random = np.random.default_rng(10)
    few = people(3, (16, 16), random)
    assert "3 patients" in find_copies(synthetic_images(few.x_NC, few.y_N), few, few, SETTINGS)["not_done"]
