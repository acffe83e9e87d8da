"""Edits of generated masks: a structure moved, scaled, or added to. Geometry alone, by the same rule for every mask.

An edit is {structure, move: [mm…], scale: f, add: {radius: mm, at: [mm…]}}; millimetres run along the grid's axes,
toward the letters of ``preprocess.orientation``, and ``at`` counts from the middle of the image. They are done in their
order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from imgsynth.types import Fault, Grid, Structure

KEYS = {"structure", "move", "scale", "add"}
LARGEST_SCALE = 10.0
_EXAMPLE = "sample.edits=[{structure: lesion, move: [4,0,0], scale: 1.5}]"


def edited(label: np.ndarray, edits: Sequence[Mapping[str, Any]], grid: Grid) -> np.ndarray:
    """The mask uint8 [*grid.shape], 0 background and k the k-th structure, after all edits.

    What a structure leaves behind is filled with what is nearest there; where it comes, it covers what was there.
    Voxels are taken by their centres (nearest neighbour), and what would lie beyond the image is cut off. A structure
    that the mask has not is neither moved nor scaled.
    """
    for edit in edits:
        k = 1 + [structure.name for structure in grid.structures].index(edit["structure"])
        if ("move" in edit or "scale" in edit) and (label == k).any():
            label = _moved(label, k, np.array(edit.get("move", [0] * label.ndim), float), edit.get("scale", 1.0), grid)
        if "add" in edit:
            apart = places(grid) - np.array(edit["add"]["at"], float)
            label = np.where(np.square(apart).sum(-1) <= edit["add"]["radius"] ** 2, k, label).astype(np.uint8)
    return label


def places(grid: Grid) -> np.ndarray:
    """[*grid.shape, axes] of every voxel's centre, in mm from the middle of the image."""
    axes = [(np.arange(n) + 0.5 - n / 2) * mm for n, mm in zip(grid.shape, grid.spacing, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _moved(label: np.ndarray, k: int, move: np.ndarray, scale: float, grid: Grid) -> np.ndarray:
    """Structure ``k`` scaled about its centroid by ``scale`` along every axis, and moved by ``move`` mm."""
    at, inside, mm = places(grid), label == k, np.array(grid.spacing)
    centroid = at[inside].mean(0)
    came_from = centroid + (at - centroid - move) / scale
    index = np.rint(came_from / mm - 0.5 + np.array(grid.shape) / 2).astype(int)
    there = ((index >= 0) & (index < grid.shape)).all(-1)
    nearest = np.moveaxis(np.clip(index, 0, np.array(grid.shape) - 1), -1, 0)
    now = there & inside[tuple(nearest)]
    return np.where(now, k, _without(label, inside, grid)).astype(np.uint8)


def _without(label: np.ndarray, inside: np.ndarray, grid: Grid) -> np.ndarray:
    """The mask with whatever is nearest in the place of ``inside``; background where nothing else is."""
    if inside.all():
        return np.zeros_like(label)
    nearest = ndimage.distance_transform_edt(inside, sampling=grid.spacing, return_distances=False, return_indices=True)
    return np.asarray(label[tuple(nearest)])


def edit_faults(edits: Sequence[Any], structures: Sequence[Structure], dims: int) -> Iterator[Fault]:
    """Everything for which ``sample.edits`` cannot be done on masks of these structures."""
    names = [structure.name for structure in structures]
    for index, edit in enumerate(edits):
        where = f"sample.edits[{index}]"
        if not isinstance(edit, dict) or "structure" not in edit or len(edit) < 2 or not set(edit) <= KEYS:
            yield Fault(where, repr(edit), "{structure, and at least one of move, scale, add}", _EXAMPLE)
            continue
        if edit["structure"] not in names:
            yield Fault(
                f"{where}.structure", repr(edit["structure"]), f"one of data.masks: {', '.join(names)}", _EXAMPLE
            )
        if "move" in edit and not _is_place(edit["move"], dims):
            yield Fault(f"{where}.move", repr(edit["move"]), f"{dims} numbers, in mm", _EXAMPLE)
        if "scale" in edit and not (_is_number(edit["scale"]) and 0 < edit["scale"] <= LARGEST_SCALE):
            yield Fault(f"{where}.scale", repr(edit["scale"]), f"a factor above 0, at most {LARGEST_SCALE:g}", _EXAMPLE)
        if "add" in edit and not _is_ball(edit["add"], dims):
            yield Fault(f"{where}.add", repr(edit["add"]), f"{{radius: mm above 0, at: [{dims} mm]}}",
                        "add: {radius: 5, at: [10, 0, -4]}")  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _is_place(value: Any, dims: int) -> bool:
    return isinstance(value, list) and len(value) == dims and all(map(_is_number, value))


def _is_ball(value: Any, dims: int) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"radius", "at"}
        and _is_number(value["radius"])
        and value["radius"] > 0
        and _is_place(value["at"], dims)
    )


def in_words(edits: Sequence[Mapping[str, Any]]) -> str:
    """What was done, for people."""
    said = []
    for edit in edits:
        name = edit["structure"]
        if "scale" in edit:
            said.append(f"{name} scaled by {edit['scale']:g} along each axis")
        if "move" in edit:
            said.append(f"{name} moved by {_mm(edit['move'])}")
        if "add" in edit:
            said.append(f"a ball of {name} added, {edit['add']['radius']:g} mm in radius, at {_mm(edit['add']['at'])}")
    return "; ".join(said)


def _mm(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)}) mm"
