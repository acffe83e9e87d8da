"""What a cohort looks like before anything is trained on it. LOCAL ONLY: counts, headers and ranges of private data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from imgsynth.cohort.grid import grid_of
from imgsynth.cohort.look import Look
from imgsynth.cohort.manifest import Item, Manifest
from imgsynth.console import say, table
from imgsynth.schema import PreprocessConfig
from imgsynth.types import SPLITS, Grid

SAMPLED = 8  # images whose intensities are shown
_CUT = 0.1  # an image counts as cropped when more than this share of its field of view is lost along an axis
_ROUND_MM = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0)


def inspect_cohort(manifest: Manifest, looks: Sequence[Look], preprocess: PreprocessConfig) -> dict[str, Any]:
    """What ``imgsynth inspect`` says about the cohort beside its findings, ready for JSON.

    Counts under "patients" are of patients (each once); under "images" of images. "suggested" are overrides for
    ``preprocess``: they come from private headers, so they are there to be replaced by round numbers that would be
    chosen for any cohort of this kind. ``looks`` are those of the preflight, one for each item of the manifest.
    """
    grid = grid_of(preprocess, manifest.modality, manifest.structures)
    items = manifest.items
    per_patient = Counter(Counter(item.patient for item in items).values())
    intensities = _intensities(manifest, looks)
    return {
        "local_only": True,
        "kind": manifest.kind, "root": manifest.root, "unit": manifest.unit, "modality": manifest.modality,
        "notes": list(manifest.notes),
        "patients": len(manifest.patients()),
        "studies": len({(item.patient, item.study) for item in items}),
        "images": len(items),
        "images_per_patient": {str(count): patients for count, patients in sorted(per_patient.items())},
        "splits": {split: {"patients": len(manifest.patients(split)), "images": sum(i.split == split for i in items)}
                   for split in SPLITS},
        "classes": {name: {split: manifest.class_counts(split)[index] for split in SPLITS}
                    for index, name in enumerate(manifest.classes)},
        "sex": _patients_by(manifest, lambda item: item.sex),
        "age_bands": _patients_by(manifest, lambda item: item.age_band),
        "sites": _patients_by(manifest, lambda item: item.site),
        "masks": sum(item.mask is not None for item in items),
        "shapes": _spread([item.shape for item in items]),
        "spacings_mm": _spread([item.spacing for item in items]),
        "orientations": dict(Counter(item.orientation for item in items).most_common()),
        "dtypes": dict(Counter(item.dtype for item in items if item.dtype).most_common()),
        "intensities": intensities,
        "grid": {"shape": list(grid.shape), "spacing_mm": list(grid.spacing), "orientation": grid.orientation,
                 "unit": grid.unit, "images_cropped": _cropped(items, grid, preprocess)},
        "suggested": _suggested(manifest, intensities, grid),
        "memory_mib": {"preprocessed": _mib(len(items) * math.prod(grid.shape) * 4),
                       "largest_image": _mib(max(math.prod(item.shape) for item in items) * 4)},
    }  # fmt: skip


def print_inspection(found: dict[str, Any]) -> None:
    """Show what ``inspect_cohort`` found as tables on the terminal."""
    table(f"Cohort ({found['modality']}, unit: {found['unit']})", ("", *SPLITS, "all"), [
        ("patients", *(found["splits"][s]["patients"] for s in SPLITS), found["patients"]),
        ("images", *(found["splits"][s]["images"] for s in SPLITS), found["images"]),
        *((f"class {name}", *(row[s] for s in SPLITS), sum(row.values())) for name, row in found["classes"].items()),
    ])  # fmt: skip
    facts = [("studies", found["studies"]), ("images per patient", _listed(found["images_per_patient"], "×"))]
    facts += [(name, _listed(found[key])) for name, key in (("sex", "sex"), ("age", "age_bands"), ("site", "sites"))]
    facts += [(f"{name} (min / median / max)", _extremes(found[key]))
              for name, key in (("voxels", "shapes"), ("spacing, mm", "spacings_mm"))]  # fmt: skip
    facts += [("axes", _listed(found["orientations"])), ("stored as", _listed(found["dtypes"])),
              ("masks beside", found["masks"])]  # fmt: skip
    table("Images", ("", ""), [fact for fact in facts if fact[1] not in ("", 0)])
    names = ("min", "p0.5", "median", "p99.5", "max")
    table("Intensities of some images", ("image", *names), [
        (entry["where"], *(f"{entry[name]:.4g}" for name in names)) for entry in found["intensities"]
    ])  # fmt: skip
    for note in found["notes"]:
        say(f"Note: {note}.")
    cropped, grid = found["grid"]["images_cropped"], found["grid"]
    say(f"Grid: {grid['shape']} voxels of {grid['spacing_mm']} mm, {grid['unit']}; {cropped} of {found['images']} "
        f"images lose more than {_CUT:.0%} of their field of view along an axis.")  # fmt: skip
    say(f"Memory: {found['memory_mib']['preprocessed']} MiB for all preprocessed images.")
    say("Suggested (read from private headers: declare round numbers that you would choose for any such cohort): "
        + " ".join(found["suggested"]))  # fmt: skip


def _patients_by(manifest: Manifest, value: Callable[[Item], str | None]) -> dict[str, int]:
    """Patients by a fact about them; who has several values is counted under "several"."""
    found = []
    for items in manifest.by_patient.values():
        values = {value(item) for item in items}
        found.append(values.pop() or "unknown" if len(values) == 1 else "several")
    counts = Counter(found)
    return dict(sorted(counts.items())) if set(counts) != {"unknown"} else {}


def _spread(rows: Sequence[tuple[float, ...]]) -> dict[str, list[float]]:
    array = np.array(rows, dtype=float)
    return {name: np.round(f(array, axis=0), 3).tolist() for name, f in
            (("min", np.min), ("median", np.median), ("max", np.max))}  # fmt: skip


def _intensities(manifest: Manifest, looks: Sequence[Look]) -> list[dict[str, Any]]:
    """Percentiles of a few images, evenly spread over the patients."""
    names = ("min", "p0.5", "median", "p99.5", "max")
    first: dict[str, dict[str, Any]] = {}
    for item, look in zip(manifest.items, looks, strict=True):
        if look.points:
            first.setdefault(item.patient, {"where": item.where, **dict(zip(names, look.points, strict=True))})
    rows = [first[patient] for patient in sorted(first)]
    return rows[:: max(1, len(rows) // SAMPLED)][:SAMPLED]


def _extents(item: Item, axes: str) -> np.ndarray:
    """Millimetres of field of view along the grid's ``axes`` (as many as it has); nan where an axis is not stored."""
    pairs = ("RL", "AP", "SI")
    stored = {next(p for p in pairs if letter in p): n * s
              for letter, n, s in zip(item.orientation, item.shape, item.spacing, strict=True)}  # fmt: skip
    return np.array([stored.get(next(p for p in pairs if letter in p), math.nan) for letter in axes])


def _cropped(items: Sequence[Item], grid: Grid, preprocess: PreprocessConfig) -> int:
    if preprocess.fit != "crop_pad":
        return 0
    room = np.array(grid.shape) * np.array(grid.spacing)
    return sum(bool((_extents(item, grid.orientation) * (1 - _CUT) > room).any()) for item in items)


def is_flat(manifest: Manifest) -> bool:
    """Whether every image is a single plane, so that the grid has two axes."""
    return all(1 in item.shape for item in manifest.items)


def _suggested(manifest: Manifest, intensities: Sequence[dict[str, Any]], grid: Grid) -> list[str]:
    """Overrides that keep the median field of view at the grid's number of voxels, and a window for the modality."""
    flat = is_flat(manifest)
    found = []
    if flat != (grid.spatial_dims == 2):
        usual = PreprocessConfig(shape=[64, 64] if flat else [32, 32, 32], spacing=None, fit="resize")
        grid = grid_of(usual, manifest.modality)
    extent = np.nanmedian([_extents(item, grid.orientation) for item in manifest.items], axis=0)
    coarsest = float((extent / np.array(grid.shape)).max())
    step = next((mm for mm in _ROUND_MM if mm >= coarsest), math.ceil(coarsest))
    voxels = [max(8, 8 * math.ceil(mm / step / 8)) for mm in extent]
    listed = "[" + ",".join(map(str, voxels)) + "]"
    if manifest.kind in ("npz", "medmnist", "images"):  # their voxel size is nominal
        if coarsest <= 1:  # small enough as they are
            listed = "[" + ",".join(str(max(8, round(mm))) for mm in extent) + "]"
        found += [f"preprocess.shape={listed}", "preprocess.spacing=null", "preprocess.fit=resize"]
    else:
        found += [f"preprocess.shape={listed}", f"preprocess.spacing=[{','.join([str(step)] * len(voxels))}]",
                  "preprocess.fit=crop_pad"]  # fmt: skip
    if manifest.modality == "CT":
        found += ["preprocess.intensity=window", "preprocess.low=-1000", "preprocess.high=600"]
    elif {item.dtype for item in manifest.items} == {"uint8"} and manifest.modality in ("DX", "CR"):
        found += ["preprocess.intensity=window", "preprocess.low=0", "preprocess.high=255"]
    else:
        found += ["preprocess.intensity=percentile", "preprocess.low=0", "preprocess.high=1000"]
    return found


def _mib(size: float) -> float:
    return round(size / 2**20, 1)


def _listed(counts: dict[str, int], sign: str = ":") -> str:
    return ", ".join(f"{name}{sign} {count}" for name, count in list(counts.items())[:12])


def _extremes(spread: dict[str, list[float]]) -> str:
    return " / ".join("×".join(f"{value:g}" for value in spread[name]) for name in ("min", "median", "max"))
