"""Is the Zarr store of a release sound: every file its own, geometry and labels as the cohort says, in range?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from imgsynth import __version__
from imgsynth.release.facts import Facts
from imgsynth.release.folder import list_files
from imgsynth.release.patients import STORE
from imgsynth.release.verify_dicom import volume_faults
from imgsynth.release.zarr_parts import dtype_of
from imgsynth.release.zarr_store import (
    CLASS_INDEX,
    IMAGES,
    attributes_of,
    class_indices,
    from_stored,
    needs_zarr,
    stored_shape,
)
from imgsynth.types import Fault, InputError
from imgsynth.volumes.volume import Volume

REMEDY = "do not use this store; get the release again from whoever published it"


def zarr_faults(folder: Path, facts: Facts) -> Iterator[Fault]:
    """Faults of the store that the cohort of ``facts`` names; none where it names none."""
    store = facts.cohort.get("zarr")
    if store is None:
        return
    if store != STORE:
        yield Fault("synthetic_cohort.json: zarr", repr(store), STORE, REMEDY)
        return
    try:
        zarr = needs_zarr()
    except InputError as error:
        yield from error.faults
        return
    grid, n = facts.grid, len(facts.patients)
    try:
        root = zarr.open_group(str(folder / STORE), mode="r")
        images, index = root[IMAGES], root[CLASS_INDEX]
        attributes = dict(root.attrs)
    except (OSError, KeyError, ValueError, TypeError) as error:
        yield Fault(STORE, f"unreadable ({error})", "a Zarr store", REMEDY)
        return
    yield from _file_faults(folder, images)
    shape = (n, *stored_shape(grid))
    if images.shape != shape or images.dtype != dtype_of(grid.unit):
        yield Fault(f"{STORE}/{IMAGES}", f"{images.dtype} {images.shape}", f"{dtype_of(grid.unit)} {shape}", REMEDY)
        return
    expected = attributes_of(grid, facts.cohort["classes"], facts.provenance)
    if facts.made["imgsynth"] == __version__ and attributes != json.loads(json.dumps(expected)):
        yield Fault(f"{STORE}: attributes", _differing(attributes, expected), "what card and cohort say", REMEDY)
    if list(images.attrs) or list(index.attrs):
        yield Fault(f"{STORE}: arrays", "attributes of their own", "none", REMEDY)
    labels = class_indices([patient.label for patient in facts.patients], facts.cohort["classes"])
    if index[:].tolist() != labels:
        yield Fault(f"{STORE}/{CLASS_INDEX}", "other labels", "those of synthetic_cohort.json", REMEDY)
    yield from _value_faults(images, facts, np.array(attributes["imgsynth"]["affine"]))


def _value_faults(images: Any, facts: Facts, affine: np.ndarray) -> Iterator[Fault]:
    """Every image against the grid, a shard in memory at a time."""
    grid = facts.grid
    step = images.shards[0]
    for start in range(0, images.shape[0], step):
        try:
            block = images[start : start + step]
        except (OSError, ValueError, RuntimeError) as error:
            yield Fault(f"{STORE}/{IMAGES}", f"a shard that cannot be read ({error})", "the images", REMEDY)
            return
        for number, stored in enumerate(block, start + 1):
            if not np.isfinite(stored).all():
                yield Fault(f"SYN-{number:06d} (Zarr)", "NaN or infinite values", "numbers", REMEDY)
                continue
            volume = Volume(from_stored(stored).astype(np.float32), affine, grid.modality, grid.unit)
            yield from volume_faults(f"SYN-{number:06d} (Zarr)", volume, grid)


def _file_faults(folder: Path, images: Any) -> Iterator[Fault]:
    """A store has its metadata and its shards, and nothing else."""
    rest = "/0" * (images.ndim - 1)
    chunks = -(-images.shape[0] // images.shards[0])
    expected = {f"{STORE}/{name}" for name in (
        "zarr.json", f"{IMAGES}/zarr.json", f"{CLASS_INDEX}/zarr.json", f"{CLASS_INDEX}/c/0",
        *(f"{IMAGES}/c/{number}{rest}" for number in range(chunks)),
    )}  # fmt: skip
    present = {name for name in list_files(folder) if name.startswith(f"{STORE}/")}
    for name in sorted(expected ^ present):
        got = "a file that is none of the store's" if name in present else "no such file"
        yield Fault(name, got, "metadata and shards, and nothing else", REMEDY)


def _differing(got: dict[str, Any], expected: dict[str, Any]) -> str:
    """The paths that differ."""
    parts = {part for part in expected if got.get(part) != json.loads(json.dumps(expected[part]))} | set(got) - set(
        expected
    )
    return ", ".join(sorted(parts)) or "others"
