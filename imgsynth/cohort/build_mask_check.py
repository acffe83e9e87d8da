"""Masks that lie beside images: on their image's grid, with declared labels alone; another is left out with a fault."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from imgsynth.cohort.build_scan import Found, Scan
from imgsynth.cohort.load import read_file
from imgsynth.console import track
from imgsynth.types import Fault, InputError
from imgsynth.volumes.volume import Volume

_NEAR = 0.01  # of a voxel: how far a corner of the mask may lie from its image's


def check_masks(found: Found, labels: set[int] | None = None) -> Found:
    """Read every mask once. With ``labels``, those are the values that it may have."""

    def check(scan: Scan) -> Fault | None:
        if scan.mask is None:
            return None
        try:
            mask = read_file(found.root / scan.mask, scan.modality or "")
            image = read_file(found.root / scan.files[0], scan.modality or "")
        except InputError as error:
            return error.faults[0]
        values = set() if labels is None else set(np.unique(mask.array).tolist()) - labels
        if values:
            shown = ", ".join(f"{value:g}" for value in sorted(values)[:8])
            return Fault(scan.mask, f"values {shown}", f"the declared labels {sorted(labels or ())}",
                         "correct the mask, or declare them in dataset.json")  # fmt: skip
        return _apart(scan.mask, mask, image)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(track(pool.map(check, found.scans), "Reading masks", total=len(found.scans)))
    for scan, fault in zip(found.scans, outcomes, strict=True):
        if fault is not None:
            name = Path(str(scan.mask)).as_posix()
            got = f"{fault.got} (the image is kept, without its mask)"
            found.skipped.append(Fault(name, got, fault.expected, fault.remedy, "mask_left_out", (name,)))
            scan.mask = None
    return found


def _apart(name: str, mask: Volume, image: Volume) -> Fault | None:
    if mask.array.shape != image.array.shape:
        return Fault(name, f"{mask.array.shape} voxels", f"its image's {image.array.shape}", "resample it to the image")
    corners = np.array(np.meshgrid(*((0, side - 1) for side in image.array.shape))).reshape(3, -1)
    apart = np.abs((mask.affine - image.affine)[:3] @ np.vstack([corners, np.ones(corners.shape[1])])).max()
    if apart > _NEAR * min(image.spacing):
        return Fault(name, f"a place up to {apart:.3g} mm from its image's", "the affine of its image",
                     "resample it to the image, or mend its header")  # fmt: skip
    return None
