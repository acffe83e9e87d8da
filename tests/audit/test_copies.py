"""The copy check: calibrated counts, and a sheet that says it must stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.distance import cdist

from imgsynth.audit.copies import find_copies
from imgsynth.audit.copies.counts import distance_to_patients
from imgsynth.audit.copies.invariant import invariant_nearness
from imgsynth.audit.copies.memorised import difference_interval, wilson
from imgsynth.audit.copies.sheet import most_suspicious, write_copy_sheet
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.schema import AuditConfig
from imgsynth.types import Grid


def test_distance_to_each_patient_is_that_of_the_nearest_image() -> None:
    random = np.random.default_rng(0)
    synthetic = random.standard_normal((6, 1, 3, 3))
    x_NC, names = random.standard_normal((8, 1, 3, 3)), np.array(list("bacabbca"))
    patients = Images(x_NC, np.zeros(8, dtype=int), names)
    all_NM = cdist(synthetic.reshape(6, -1), x_NC.reshape(8, -1))
    expected = np.stack([all_NM[:, names == name].min(1) for name in "abc"], axis=1)
    measured = distance_to_patients(synthetic_images(synthetic, np.zeros(6, dtype=int)), patients)
    np.testing.assert_allclose(measured, expected, rtol=1e-6)


def test_counts_are_calibrated_to_equal_numbers_of_patients(trial) -> None:  # type: ignore[no-untyped-def]
    """With five times as many train as holdout patients and no copying, the share must still be one half."""
    members, nonmembers, synthetic = trial(0.0, 4, members=500, nonmembers=100, samples=1000)
    honest = find_copies(synthetic, members, nonmembers, AuditConfig(bootstrap=200))
    assert honest["n_patients_each"] == 100
    assert honest["chance"]["low"] < honest["share"] < honest["chance"]["high"]
    members, nonmembers, synthetic = trial(0.5, 4, members=100, nonmembers=100, samples=1000)
    leaking = find_copies(synthetic, members, nonmembers, AuditConfig(bootstrap=200))
    assert leaking["low"] > 0.6
    assert leaking["share"] > leaking["chance"]["high"] and leaking["chance"]["p"] < 0.01
    assert leaking["too_near"]["train"] > 5 * leaking["too_near"]["holdout"]


def test_chance_over_patients_is_wider_than_the_binomial_interval(trial) -> None:  # type: ignore[no-untyped-def]
    """Samples share their neighbours: 2,000 samples about 60 patients are no 2,000 facts."""
    members, nonmembers, synthetic = trial(0.0, 5, members=60, nonmembers=60)
    counts = find_copies(synthetic, members, nonmembers, AuditConfig(bootstrap=300))
    assert counts["chance"]["high"] - counts["chance"]["low"] > 1.5 * (counts["high"] - counts["low"])


def test_patients_who_are_alike_in_train_and_holdout_are_no_copies(trial) -> None:  # type: ignore[no-untyped-def]
    """A sample is then as near to one as to the other, and says nothing of who was trained on."""
    members, _, synthetic = trial(0.0, 6, members=40, nonmembers=40, samples=200)
    twins = Images(members.x_NC, members.y_N, np.array([f"other-{name}" for name in members.patients_N]))
    found = find_copies(synthetic, members, twins, AuditConfig(bootstrap=200))
    assert found["closer_to_train"] == 0 and found["chance"]["p"] > 0.3 and not found["caught"]


def test_samples_that_are_all_alike_are_no_copies(trial) -> None:  # type: ignore[no-untyped-def]
    """Their one nearest patient was trained on in half of the cohorts: then every sample is nearer to train."""
    shares = []
    for seed in range(12):
        members, nonmembers, synthetic = trial(0.0, seed, members=60, nonmembers=60, samples=200)
        same = synthetic.with_images(synthetic.x_NC.mean(0, keepdims=True) + 1e-3 * synthetic.x_NC)
        found = find_copies(same, members, nonmembers, AuditConfig(bootstrap=200))
        shares.append(found["share"])
        assert found["chance"]["low"] <= found["share"] <= found["chance"]["high"]
        assert found["chance"]["p"] > 0.2 and not found["caught"]
    assert max(shares) > 0.9 and min(shares) < 0.1  # so that any interval around the share itself would be wrong
    for seed in range(3):  # and planted copies are seen by the same statement
        members, nonmembers, synthetic = trial(0.3, seed, members=60, nonmembers=60, samples=200)
        found = find_copies(synthetic, members, nonmembers, AuditConfig(bootstrap=200))
        assert found["share"] > found["chance"]["high"] and found["chance"]["p"] < 0.025 and found["caught"]


def test_chance_is_exact_under_the_null_and_sees_copies(trial) -> None:  # type: ignore[no-untyped-def]
    p_T = [
        find_copies(*(lambda t: (t[2], t[0], t[1]))(trial(0.0, seed, members=40, nonmembers=40, samples=100)),
                    AuditConfig(bootstrap=200))["chance"]["p"]
        for seed in range(40)
    ]  # fmt: skip
    assert np.mean(np.array(p_T) <= 0.1) < 0.3 and 0.3 < np.mean(p_T) < 0.7
    members, nonmembers, synthetic = trial(0.2, 0, members=60, nonmembers=60, samples=500)
    assert find_copies(synthetic, members, nonmembers, AuditConfig(bootstrap=200))["chance"]["p"] < 0.01


def test_interval_of_a_difference_of_shares_is_the_published_one() -> None:
    """Newcombe 1998, Stat. Med. 17:873, table II: examples (a), (c) and (g) by method 10; Wilson's of 81 in 263."""
    for counts, low, high in (((56, 70, 48, 80), 0.0524, 0.3339), ((6, 7, 2, 7), 0.0582, 0.8062),
                              ((10, 10, 0, 20), 0.6791, 1.0)):  # fmt: skip
        np.testing.assert_allclose(difference_interval(*counts), (low, high), atol=5e-5)
    np.testing.assert_allclose(wilson(81, 263), (0.2553, 0.3662), atol=5e-5)


def test_the_copies_lead_the_sheet(trial) -> None:  # type: ignore[no-untyped-def]
    members, nonmembers, synthetic = trial(0.0, 6, members=50, nonmembers=50, samples=100)
    x_NC = synthetic.x_NC.copy()
    x_NC[17], x_NC[42] = members.x_NC[3], members.x_NC[5, :, ::-1]
    near, far = (invariant_nearness(synthetic.with_images(x_NC), people) for people in (members, nonmembers))
    assert set(most_suspicious(near.distance_NP, far.distance_NP)[:2]) == {17, 42}
    p = near.distance_NP[17].argmin()
    assert near.image_NP[17, p] == 3
    assert near.distance_NP[17, p] == 0.0


def test_sheet_is_a_png_with_a_red_banner_for_two_and_three_dimensions(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for shape, orientation in (((20, 16), "IL"), ((12, 16, 10), "RAS")):
        grid = Grid(shape, (1.0,) * len(shape), orientation, "MR", "a.u.", 0.0, 1.0)
        sides = [
            Images(random.uniform(-1, 1, (n, 1, *shape)).astype(np.float32), np.zeros(n, int), np.arange(n).astype(str))
            for n in (3, 5, 2)
        ]
        synthetic, train, holdout = sides
        near, far = invariant_nearness(synthetic, train), invariant_nearness(synthetic, holdout)
        path = write_copy_sheet(tmp_path / "local" / f"{len(shape)}d.png", synthetic, train, holdout, near, far, grid)
        with Image.open(path) as picture:
            red, green, blue = picture.convert("RGB").getpixel((2, 2))
        assert red > 100
        assert max(green, blue) < 20
        assert [p.name for p in path.parent.iterdir() if p.suffix != ".png"] == []
