"""Edits of masks by geometry: places to the millimetre, volumes to the voxel, and what is left behind."""

from __future__ import annotations

import numpy as np
import pytest

from imgsynth.release.edit_masks import edit_faults, edited, in_words, places
from imgsynth.types import Grid, Structure

STRUCTURES = (Structure("organ", 1), Structure("lesion", 2))
VOLUME = Grid((40, 36, 30), (1.0, 1.5, 2.0), "RAS", "MR", "a.u.", 0.0, 1.0, STRUCTURES)
FLAT = Grid((60, 50), (0.8, 1.2), "PL", "MR", "a.u.", 0.0, 1.0, STRUCTURES)
GRIDS = [VOLUME, FLAT]


def mask(grid: Grid, radius: float = 7.0) -> np.ndarray:
    """A lesion in an organ in the background, none of them in the middle."""
    apart = places(grid) - np.array([2.5, -3.0, 1.0][: grid.spatial_dims])
    distance = np.sqrt(np.square(apart).sum(-1))
    return np.where(distance <= radius, 2, np.where(distance <= 2.5 * radius, 1, 0)).astype(np.uint8)


def centroid(label: np.ndarray, k: int, grid: Grid) -> np.ndarray:
    return places(grid)[label == k].mean(0)


@pytest.mark.parametrize("grid", GRIDS, ids=["3d", "2d"])
def test_a_move_by_whole_voxels_is_exact_and_keeps_every_voxel(grid):
    move = [3 * grid.spacing[0], -2 * grid.spacing[1], grid.spacing[-1]][: grid.spatial_dims]
    before = mask(grid)
    after = edited(before, [{"structure": "lesion", "move": move}], grid)
    np.testing.assert_allclose(centroid(after, 2, grid) - centroid(before, 2, grid), move, atol=1e-9)
    assert (after == 2).sum() == (before == 2).sum()
    assert ((after > 0) == (before > 0)).all()  # what it left is the organ's again, not a hole


@pytest.mark.parametrize("grid", GRIDS, ids=["3d", "2d"])
def test_any_other_move_is_right_to_a_part_of_a_voxel(grid):
    move = [3.3, -2.2, 2.9][: grid.spatial_dims]
    before = mask(grid)
    after = edited(before, [{"structure": "lesion", "move": move}], grid)
    assert (np.abs(centroid(after, 2, grid) - centroid(before, 2, grid) - move) <= np.array(grid.spacing) / 2).all()


@pytest.mark.parametrize("scale", [0.6, 1.4, 1.9])
@pytest.mark.parametrize("grid", GRIDS, ids=["3d", "2d"])
def test_scaling_keeps_the_place_and_takes_the_volume_to_its_power(grid, scale):
    before = mask(grid)
    after = edited(before, [{"structure": "lesion", "scale": scale}], grid)
    assert (after == 2).sum() / (before == 2).sum() == pytest.approx(scale**grid.spatial_dims, rel=0.16)
    assert (np.abs(centroid(after, 2, grid) - centroid(before, 2, grid)) <= 0.35 * np.array(grid.spacing)).all()
    assert ((after > 0) >= (before > 0)).all() and (scale > 1 or ((after > 0) == (before > 0)).all())


@pytest.mark.parametrize("grid", GRIDS, ids=["3d", "2d"])
def test_a_ball_that_is_added_is_where_and_as_large_as_was_said(grid):
    at = [-6.0, 4.0, -8.0][: grid.spatial_dims]
    empty = np.zeros(grid.shape, np.uint8)
    after = edited(empty, [{"structure": "lesion", "add": {"radius": 5.0, "at": at}}], grid)
    expected = 4 / 3 * np.pi * 125 if grid.spatial_dims == 3 else np.pi * 25
    assert (after == 2).sum() * np.prod(grid.spacing) == pytest.approx(expected, rel=0.06)
    assert np.abs(centroid(after, 2, grid) - at).max() < 0.3
    beside = edited(mask(grid), [{"structure": "organ", "add": {"radius": 5.0, "at": at}}], grid)
    ball = after == 2
    assert (beside[ball] == 1).all() and (beside[~ball] == mask(grid)[~ball]).all()


def test_edits_are_done_in_their_order_and_change_nothing_that_was_given():
    before = mask(VOLUME)
    kept = before.copy()
    moves = [{"structure": "lesion", "scale": 1.5, "move": [4, 0, 0]}, {"structure": "lesion", "move": [-4, 3, 0]}]
    after = edited(before, moves, VOLUME)
    assert (before == kept).all() and after.dtype == np.uint8
    np.testing.assert_allclose(centroid(after, 2, VOLUME) - centroid(before, 2, VOLUME), [0, 3, 0], atol=0.5)
    assert (edited(before, moves, VOLUME) == after).all()
    first_added = [
        {"structure": "lesion", "add": {"radius": 4, "at": [9, 9, 0]}},
        {"structure": "lesion", "move": [0, 0, 4]},
    ]
    assert (edited(before, first_added, VOLUME) != edited(before, first_added[::-1], VOLUME)).any()


def test_what_would_lie_beyond_the_image_is_cut_off_and_nothing_comes_round():
    before = mask(VOLUME)
    gone = edited(before, [{"structure": "lesion", "move": [0, 0, 500]}], VOLUME)
    assert not (gone == 2).any() and ((gone > 0) == (before > 0)).all()
    partly = edited(before, [{"structure": "lesion", "move": [0, 0, 28]}], VOLUME)
    assert 0 < (partly == 2).sum() < (before == 2).sum() and not (partly[..., :15] == 2).any()


def test_a_structure_that_is_not_there_stays_away_and_one_that_is_everywhere_leaves_background():
    organ = np.where(mask(FLAT) > 0, 1, 0).astype(np.uint8)
    assert (edited(organ, [{"structure": "lesion", "move": [3, 3], "scale": 2}], FLAT) == organ).all()
    full = np.full(FLAT.shape, 2, np.uint8)
    half = edited(full, [{"structure": "lesion", "move": [24, 0]}], FLAT)
    assert (half[:30] == 0).all() and (half[30:] == 2).all()


def test_unfit_edits_are_all_named_and_fit_ones_are_put_in_words():
    fit = [{"structure": "lesion", "move": [1, 2.5, 0], "scale": 1.2},
           {"structure": "organ", "add": {"radius": 5, "at": [0, 0, -4]}}]  # fmt: skip
    assert list(edit_faults(fit, STRUCTURES, 3)) == []
    assert in_words(fit) == (
        "lesion scaled by 1.2 along each axis; lesion moved by (1, 2.5, 0) mm; "
        "a ball of organ added, 5 mm in radius, at (0, 0, -4) mm"
    )
    unfit = ["lesion", {"structure": "lesion"}, {"structure": "lesion", "turn": 3}, {"structure": "bone", "scale": 2},
             {"structure": "lesion", "move": [1, 2]}, {"structure": "lesion", "move": [1, 2, True]},
             {"structure": "lesion", "scale": 0}, {"structure": "lesion", "scale": float("nan")},
             {"structure": "lesion", "add": {"radius": 5}},
             {"structure": "lesion", "add": {"radius": 0, "at": [0, 0, 0]}},
             ]  # fmt: skip
    found = list(edit_faults(unfit, STRUCTURES, 3))
    assert [fault.where.partition("]")[0] for fault in found] == [f"sample.edits[{i}" for i in range(len(unfit))]


def test_what_is_nearest_is_so_in_mm_and_not_in_voxels():
    grid = Grid((7, 7), (1.0, 3.0), "PL", "MR", "a.u.", 0.0, 1.0, STRUCTURES)
    label = np.zeros(grid.shape, np.uint8)
    label[:, 2] = label[:, 4] = 1
    label[2:5, 3] = 2
    left = edited(label, [{"structure": "lesion", "move": [0, 100]}], grid)
    assert left[3, 3] == 0  # background two voxels (2 mm) away, not the organ beside it (3 mm)
