"""Sizes and forms of structures: closed forms of balls, boxes and ellipsoids, and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import measure

from imgsynth.evaluate.shapes import contact, directions, quantities, quantity_names, surface

ANISOTROPIC = (0.7, 1.0, 1.6)


def named(inside: np.ndarray, spacing: tuple[float, ...]) -> dict[str, float]:
    return dict(zip(quantity_names(inside.ndim), quantities(inside, spacing), strict=True))


def ellipsoid(shape: tuple[int, ...], spacing: tuple[float, ...], radii_mm: tuple[float, ...], at=None) -> np.ndarray:
    """Voxels whose centre is in the ellipsoid around ``at`` mm from the middle of the image."""
    axes = [(np.arange(n) + 0.5 - n / 2) * s - o
            for n, s, o in zip(shape, spacing, at or (0,) * len(shape), strict=True)]  # fmt: skip
    points = np.meshgrid(*axes, indexing="ij")
    return sum((p / r) ** 2 for p, r in zip(points, radii_mm, strict=True)) <= 1


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), ANISOTROPIC], ids=str)
def test_a_ball_has_the_closed_forms_of_a_ball_on_any_grid(spacing):
    r = 14.0
    found = named(ellipsoid((60, 50, 40), spacing, (r, r, r), (1.3, -2.2, 0.9)), spacing)
    assert found["volume"] == pytest.approx(4 / 3 * np.pi * r**3, rel=0.01)
    assert found["surface"] == pytest.approx(4 * np.pi * r**2, rel=0.015)
    assert found["sphericity"] == pytest.approx(1, abs=0.015)
    assert found["length"] == pytest.approx(4 * r / np.sqrt(5), rel=0.01)
    assert found["elongation"] == pytest.approx(1, abs=0.01) and found["flatness"] == pytest.approx(1, abs=0.01)
    assert (found["components"], found["holes"]) == (1, 0)
    assert [found[f"centroid {axis}"] for axis in "ijk"] == pytest.approx([1.3, -2.2, 0.9], abs=0.05)


def test_an_ellipsoids_axes_and_surface():
    a, b, c = 20.0, 10.0, 5.0
    found = named(ellipsoid((50, 30, 20), (1.0, 1.0, 1.0), (a, b, c)), (1.0, 1.0, 1.0))
    p = 1.6075  # Thomsen's approximation, within 1.1 %
    expected = 4 * np.pi * (((a * b) ** p + (a * c) ** p + (b * c) ** p) / 3) ** (1 / p)
    assert found["surface"] == pytest.approx(expected, rel=0.03)
    assert found["elongation"] == pytest.approx(b / a, rel=0.02)
    assert found["flatness"] == pytest.approx(c / a, rel=0.02)


def test_a_boxs_axes_are_exact_and_its_surface_is_croftons():
    inside = np.zeros((14, 12, 10), bool)
    inside[2:12, 3:9, 4:7] = True
    found = named(inside, (1.0, 2.0, 1.0))
    assert found["volume"] == 10 * 6 * 3 * 2
    assert found["length"] == pytest.approx(4 * 12 / np.sqrt(12)) and found["elongation"] == pytest.approx(10 / 12)
    assert found["flatness"] == pytest.approx(3 / 12)
    large = named(np.ones((60, 30, 40), bool), (1.0, 2.0, 1.0))  # flat faces along the grid: its worst case
    assert large["surface"] == pytest.approx(2 * (60 * 60 + 60 * 40 + 60 * 40), rel=0.12)


def test_a_circle_in_2d_agrees_with_scikit_image():
    inside = ellipsoid((60, 70), (1.0, 1.0), (19.0, 12.0), (2.5, 3.5))
    found, (known,) = named(inside, (1.0, 1.0)), measure.regionprops(inside.astype(int))
    assert found["area"] == known.area
    assert found["perimeter"] == pytest.approx(measure.perimeter_crofton(inside, directions=4), rel=0.01)
    major, minor = (np.hypot(axis, 4 / np.sqrt(12)) for axis in (known.axis_major_length, known.axis_minor_length))
    assert found["length"] == pytest.approx(major)  # scikit-image's voxels are points, ours boxes
    assert found["elongation"] == pytest.approx(minor / major)
    assert found["centroid i"] + 30 - 0.5 == pytest.approx(known.centroid[0])
    assert found["centroid j"] + 35 - 0.5 == pytest.approx(known.centroid[1])


def test_a_lumpy_volume_agrees_with_scikit_image():
    random = np.random.default_rng(0)
    inside = np.zeros((40, 40, 40), bool)
    for at in random.uniform(-8, 8, (4, 3)):
        inside |= ellipsoid((40, 40, 40), (1.0, 1.0, 1.0), (7.0, 6.0, 8.0), tuple(at))
    found, (known,) = named(inside, (1.0, 1.0, 1.0)), measure.regionprops(inside.astype(int))
    assert found["volume"] == known.area
    # A mesh through voxel edges is a staircase, some 8 % larger than the smooth surface that it stands for.
    vertices, faces, *_ = measure.marching_cubes(inside.astype(np.float32), 0.5)
    assert found["surface"] == pytest.approx(measure.mesh_surface_area(vertices, faces) / 1.08, rel=0.05)
    variances = np.linalg.eigvalsh(np.cov(np.argwhere(inside).T, bias=True))[::-1]  # of points, not of boxes
    assert found["length"] == pytest.approx(4 * np.sqrt(variances[0] + 1 / 12))
    assert found["holes"] == 1 - known.euler_number  # no tunnels here: one component, Euler number 1 + holes
    assert found["components"] == 1


def test_components_touch_by_a_corner_and_holes_do_not_leak_through_one():
    inside = np.zeros((9, 9, 9), bool)
    inside[1:3, 1:3, 1:3] = inside[3:5, 3:5, 3:5] = True
    assert named(inside, (1.0,) * 3)["components"] == 1
    inside[7, 7, 7] = True
    assert named(inside, (1.0,) * 3)["components"] == 2
    solid = np.zeros((7, 7), bool)
    solid[1:6, 1:6] = True
    solid[2, 2] = solid[4, 4] = solid[1, 1] = False  # the last is diagonal to a hole: by no face
    assert named(solid, (1.0, 1.0))["holes"] == 2


def test_a_structure_at_the_border_is_closed_there():
    found = named(np.ones((12, 12, 12), bool), (1.0,) * 3)
    assert found["surface"] == pytest.approx(6 * 144, rel=0.12) and found["holes"] == 0


def test_what_is_not_there_has_no_volume_and_nothing_else():
    found = named(np.zeros((8, 8), bool), (1.0, 1.0))
    assert found.pop("area") == 0
    assert np.isnan(list(found.values())).all()


def test_shares_of_directions_are_croftons_weights():
    """Legland et al. 2007, table 1: cube faces 0.04577789, edges 0.03698062, corners 0.03519563, of both senses."""
    shares = {tuple(step): share for step, share in directions((1.0, 1.0, 1.0))}
    assert len(shares) == 13 and sum(shares.values()) == pytest.approx(1)
    for step, share in shares.items():
        expected = {1: 0.04577789, 2: 0.03698062, 3: 0.03519563}[int(np.abs(step).sum())] * 2
        assert share == pytest.approx(expected, rel=0.01)


def test_turning_a_grid_moves_no_surface():
    inside = ellipsoid((30, 26, 22), ANISOTROPIC, (6.0, 9.0, 11.0))
    turned = surface(np.transpose(inside, (2, 0, 1)), (ANISOTROPIC[2], *ANISOTROPIC[:2]))
    assert turned == pytest.approx(surface(inside, ANISOTROPIC), rel=1e-3)


def test_contact_counts_the_faces_in_mm():
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[1:3, 1:4, 1:5] = 1
    labels[3:5, 1:4, 1:5] = 2  # beside it along the first axis: 3 × 4 faces
    assert contact(labels, 1, 2, (1.0, 2.0, 0.5)) == pytest.approx(12 * 2.0 * 0.5)
    assert contact(labels, 2, 1, (1.0, 2.0, 0.5)) == contact(labels, 1, 2, (1.0, 2.0, 0.5))
    assert contact(labels, 1, 3, (1.0, 2.0, 0.5)) == 0
    assert contact(np.array([[1, 2], [0, 2]]), 1, 2, (3.0, 5.0)) == pytest.approx(3.0)
