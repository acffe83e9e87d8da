"""What can be measured of one structure in a mask, in mm, in 2D and 3D: size, surface, form, wholeness, place.

Surfaces are Crofton's: how often straight lines cross the boundary, counted along the lattice's 13 directions (4 in
2D), each weighted by its share of all directions (Legland, Kiêu and Devaux 2007, Image Anal. Stereol. 26:83). Counting
faces of voxels instead makes a ball half as large again, however fine the grid; here only flat faces that lie along the
grid come out wrong, some tenth too small.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from scipy import ndimage

NOT_THERE = np.nan  # of every quantity but the volume, where the structure has no voxel


def quantity_names(dims: int) -> dict[str, str]:
    """{quantity: its unit}, in the order of ``quantities``."""
    axes = "ijk"[:dims]
    forms = {"elongation": "", "flatness": ""} if dims == 3 else {"elongation": ""}
    size = {"volume": "mm³", "surface": "mm²"} if dims == 3 else {"area": "mm²", "perimeter": "mm"}
    return {**size, "sphericity": "", "length": "mm", **forms, "components": "", "holes": "",
            **{f"centroid {axis}": "mm" for axis in axes}}  # fmt: skip


def quantities(inside: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """[q] of one structure, bool [*spatial], in the order of ``quantity_names``.

    sphericity: the surface of a ball (2D: a circle) of this volume over the structure's own; 1 for a ball.
    length: 4 standard deviations of the voxels along the longest principal axis (an ellipse's whole axis).
    elongation, flatness: the second, and the third, principal axis over the first; 1 for a ball.
    components: parts that do not touch, not even by a corner. holes: parts of the outside that it encloses, which touch
    by no face; tunnels are none. centroid: from the middle of the image along each array axis.
    """
    dims, names = inside.ndim, quantity_names(inside.ndim)
    found = np.full(len(names), NOT_THERE)
    if not inside.any():
        found[0] = 0.0
        return found
    where = ndimage.find_objects(inside.astype(np.uint8))[0]
    part = np.pad(inside[where], 1)
    mm = np.asarray(spacing)
    volume, area = part.sum() * mm.prod(), surface(part, spacing)
    middle = (np.argwhere(part) - 1 + [s.start for s in where] + 0.5 - np.array(inside.shape) / 2) * mm
    axes = principal_axes(middle, mm)
    everywhere = ndimage.generate_binary_structure(dims, dims)
    components = ndimage.label(part, everywhere)[1]
    holes = ndimage.label(~part)[1] - 1
    found[:] = [volume, area, ball_surface(volume, dims) / area, axes[0], *(axes[1:] / axes[0]), components, holes,
                *middle.mean(0)]  # fmt: skip
    return found


def ball_surface(volume: float, dims: int) -> float:
    """Of a ball of this volume; in 2D the perimeter of a circle of this area."""
    return float(np.cbrt(36 * np.pi * volume**2)) if dims == 3 else float(2 * np.sqrt(np.pi * volume))


def principal_axes(points_VD: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """[D] 4 standard deviations along the principal axes, the longest first, in mm; each voxel counts as a box."""
    centred = points_VD - points_VD.mean(0)
    covariance = centred.T @ centred / len(centred) + np.diag(spacing**2 / 12)
    return 4 * np.sqrt(np.linalg.eigvalsh(covariance)[::-1])


def surface(inside: np.ndarray, spacing: tuple[float, ...]) -> float:
    """Of bool [*spatial] whose border is all outside: in mm², in 2D the perimeter in mm."""
    crossings, mm = 0.0, np.asarray(spacing)
    for direction, share in directions(tuple(float(s) for s in spacing)):
        ahead, behind = zip(*(_shifted(step) for step in direction), strict=True)
        crossed = np.count_nonzero(inside[ahead] != inside[behind])
        apart = mm.prod() / np.linalg.norm(direction * mm)  # mm² (mm) of the plane across for each lattice line
        crossings += share * crossed * apart
    # A unit of surface is crossed by as many lines as its mean projection: 1/2 of it in 3D, 2/π in 2D.
    return crossings * (2 if inside.ndim == 3 else np.pi / 2)


def _shifted(step: int) -> tuple[slice, slice]:
    """Of one axis: every voxel that has a neighbour ``step`` further on, and that neighbour."""
    if step == 0:
        return slice(None), slice(None)
    return (slice(None, -1), slice(1, None)) if step > 0 else (slice(1, None), slice(None, -1))


@lru_cache(maxsize=16)
def directions(spacing: tuple[float, ...]) -> list[tuple[np.ndarray, float]]:
    """(lattice step, share of all directions that are nearer to it in mm than to any other), shares adding up to 1."""
    dims = len(spacing)
    steps = [np.array(s) for s in product((-1, 0, 1), repeat=dims) if s > (0,) * dims]
    unit_SD = np.stack([s * spacing / np.linalg.norm(s * np.asarray(spacing)) for s in steps])
    nearest = np.abs(_all_directions(dims) @ unit_SD.T).argmax(1)
    return list(zip(steps, np.bincount(nearest, minlength=len(steps)) / len(nearest), strict=True))


def _all_directions(dims: int, n: int = 40_000) -> np.ndarray:
    """[n, dims] unit vectors, evenly: a Fibonacci lattice on the sphere, or a circle."""
    index = np.arange(n) + 0.5
    if dims == 2:
        return np.stack([np.cos(index / n * 2 * np.pi), np.sin(index / n * 2 * np.pi)], 1)
    z, turn = 1 - 2 * index / n, np.pi * (1 + np.sqrt(5)) * index
    flat = np.sqrt(1 - z**2)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), z], 1)


def contact(labels: np.ndarray, a: int, b: int, spacing: tuple[float, ...]) -> float:
    """The faces that voxels of value ``a`` share with voxels of value ``b``, in mm² (2D: edges, in mm)."""
    mm, touching = np.asarray(spacing), 0.0
    for axis in range(labels.ndim):
        first, second = (np.moveaxis(labels, axis, 0)[s] for s in (slice(None, -1), slice(1, None)))
        faces = np.count_nonzero(((first == a) & (second == b)) | ((first == b) & (second == a)))
        touching += faces * mm.prod() / mm[axis]
    return float(touching)
