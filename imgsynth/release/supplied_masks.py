"""Masks that the user supplies for images to be painted onto: read, checked, brought to the grid, and put on record.

A released mask is released as it is. Where it came from a patient, edited or not, no ε covers that; so the user
declares where it comes from, and what is seen to be a mask of the run's own cohort is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgsynth.cohort.load import is_nifti, read_file
from imgsynth.cohort.masks import label_map
from imgsynth.cohort.transforms import mask_transforms
from imgsynth.files import sha256
from imgsynth.training.run import Run
from imgsynth.types import Fault, InputError

ORIGINS = {
    "synthetic": "made up, drawn or generated: nobody's anatomy",
    "public": "published: whoever's they are, they are public already",
}
ORIGIN_EXPECTED = (
    "synthetic or public: a mask of a patient, edited or not, is that patient's data, and no ε covers it in a release"
)


@dataclass(frozen=True)
class Supplied:
    """``label_K`` [K, *grid.shape] uint8, and what the card says of them."""

    label_K: np.ndarray
    record: dict[str, Any]


def supplied_masks(folder: Path, origin: str, n: int, run: Run) -> Supplied:
    """The NIfTI and PNG files in ``folder``, in the order of their names, on the run's grid by nearest neighbour.

    Raises:
        InputError: with every file that is none, has values that ``data.masks`` does not declare or is a mask of the
            run's cohort byte for byte; or where ``n`` images are no whole number for each mask.
    """
    paths = sorted(p for p in folder.iterdir() if is_nifti(p) or p.suffix.lower() == ".png") if folder.is_dir() else []
    if not paths or n % len(paths):
        got = f"{len(paths)} masks in {folder} for sample.n={n} images"
        raise InputError(Fault("sample.masks", got, "NIfTI or PNG masks, and as many images for each",
                               f"sample.n={len(paths)}" if paths else "a folder with masks"))  # fmt: skip
    grid, faults, labels = run.grid, [], []
    of_patients = {item.mask_digest for item in run.manifest.items}
    declared = {0, *(structure.value for structure in grid.structures)}
    bring = mask_transforms(run.config.preprocess, grid)
    for path in paths:
        if sha256(path) in of_patients:
            faults.append(Fault(str(path), "a mask of the run's own cohort", ORIGIN_EXPECTED, "take it out"))
            continue
        try:
            volume = read_file(path, grid.modality)
            if unknown := set(np.unique(volume.array).tolist()) - declared:
                shown = ", ".join(f"{value:g}" for value in sorted(unknown)[:8])
                faults.append(Fault(str(path), f"values {shown}", f"{sorted(declared)}, as data.masks declares",
                                    "number its structures as the cohort's masks do"))  # fmt: skip
                continue
            labels.append(label_map(np.asarray(bring(volume))))
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(*faults)
    label_K = np.stack(labels)
    digest = hashlib.sha256(np.ascontiguousarray(label_K).tobytes()).hexdigest()
    return Supplied(label_K, {"origin": origin, "masks": len(label_K), "sha256": digest})


def note_of(record: Mapping[str, Any]) -> str:
    """What the card says of them, in words."""
    return (
        f"THE GUARANTEE DOES NOT COVER THE MASKS: whoever made this release supplied them ({record['masks']} masks, "
        f"SHA-256 {record['sha256']}) and declares them {record['origin']} ({ORIGINS[record['origin']]}). That is a "
        "declaration; the program compared them with the cohort's own files byte by byte and no further. Images were "
        "painted onto them by the generator, which is covered."
    )
