"""All images of a release in one Zarr store (Zarr v3, OME-NGFF 0.5): for releases of thousands of images.

    cohort.zarr/zarr.json     multiscales (one level), and under "imgsynth" what the images are
    cohort.zarr/0             the images [patient, z, y, x] or [patient, y, x]; int16 for HU, else float32
    cohort.zarr/class_index   [patient] index into the attribute "classes", -1 where the cohort has no labels

One array, because that is what a recipient indexes and slices in Python; its first axis is OME-NGFF's one axis of a
type of one's own. A chunk is an image, a file (shard) holds many. OME-NGFF knows scale and translation alone: the full
affine is an attribute. Needs the package zarr (extra ``package``).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgsynth.release.images import description_of, release_geometry
from imgsynth.release.patients import STORE
from imgsynth.release.zarr_parts import PARTS, dtype_of, part_name
from imgsynth.types import Fault, Grid, InputError
from imgsynth.volumes.provenance import Provenance

IMAGES = "0"
CLASS_INDEX = "class_index"
SHARD = 1 << 24  # bytes of images in one file, about, before they are packed
AXES = ("z", "y", "x")


def write_store(
    release: Path, grid: Grid, labels: Sequence[str | None], classes: Sequence[str], made: Provenance
) -> None:
    """Make the store of the parts of all patients, whose ``labels`` these are, and remove the parts; memory holds one
    shard. The same parts give the same bytes."""
    zarr = needs_zarr()
    n, shape, kind = len(labels), stored_shape(grid), dtype_of(grid.unit)
    at_once = min(n, max(1, SHARD // (math.prod(shape) * kind.itemsize)))
    with zarr.config.set({"array.write_empty_chunks": True}):  # so that a store has all its files
        root = zarr.open_group(
            str(release / STORE), mode="w", zarr_format=3, attributes=attributes_of(grid, classes, made)
        )
        images = root.create_array(
            IMAGES, shape=(n, *shape), chunks=(1, *shape), shards=(at_once, *shape), dtype=kind,
            dimension_names=["patient", *AXES[-len(shape):]],
        )  # fmt: skip
        index = root.create_array(CLASS_INDEX, shape=(n,), chunks=(n,), dtype="int16", dimension_names=["patient"])
        index[:] = np.array(class_indices(labels, classes), np.int16)
        for start in range(0, n, at_once):
            parts = [release / part_name(number) for number in range(start + 1, min(start + at_once, n) + 1)]
            images[start : start + len(parts)] = np.stack([np.load(path, allow_pickle=False) for path in parts])
    shutil.rmtree(release / PARTS)


def needs_zarr() -> Any:
    """The package zarr; InputError where it is not installed."""
    try:
        import zarr
    except ImportError as error:
        raise InputError(
            Fault("zarr", "the package is not installed", "zarr 3, to write or to check a Zarr store",
                  'pip install "imgsynth[package]" (Python 3.11 or later)')
        ) from error  # fmt: skip
    return zarr


def stored_shape(grid: Grid) -> tuple[int, ...]:
    """Of one image in the store: [k, j, i] of the volume, or [j, i] of a single image."""
    shape = release_geometry(grid)[0][::-1]
    return shape if grid.spatial_dims == 3 else shape[1:]


def from_stored(array: np.ndarray) -> np.ndarray:
    """The volume's array [i, j, k] of one stored image."""
    return (array if array.ndim == 3 else array[None]).transpose(2, 1, 0)


def class_indices(labels: Sequence[str | None], classes: Sequence[str]) -> list[int]:
    """-1 for None."""
    return [-1 if label is None else list(classes).index(label) for label in labels]


def attributes_of(grid: Grid, classes: Sequence[str], made: Provenance) -> dict[str, Any]:
    """The store's attributes: OME-NGFF 0.5 metadata, and ours."""
    _, affine = release_geometry(grid)
    spacing = [float(np.linalg.norm(affine[:3, axis])) for axis in range(3)][::-1]  # of k, j, i
    dims = len(stored_shape(grid))
    space = [{"name": name, "type": "space", "unit": "millimeter"} for name in AXES[-dims:]]
    scale = [1.0, *spacing[-dims:]]
    level = {"path": IMAGES, "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [
                {"name": "cohort", "axes": [{"name": "patient", "type": "sample"}, *space], "datasets": [level]}
            ],
        },
        "imgsynth": {
            "synthetic": True,
            "description": description_of(made),
            "derivation": made.derivation,
            "patients": "index i along the first axis is SYN-(i + 1), six digits, as in synthetic_cohort.csv",
            "affine": affine.tolist(),
            "affine_of": "voxel indices (x, y, z) of an image to RAS+ millimetres, as in NIfTI",
            "modality": grid.modality,
            "unit": grid.unit,
            "range": [grid.low, grid.high],
            "classes": list(classes) if len(classes) > 1 else [],
        },
    }
