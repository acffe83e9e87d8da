"""Checking every mask of a source once, before anything depends on it: there, of its image's grid, values declared."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from imgsynth.cohort.build_scan import Found, Scan
from imgsynth.cohort.load import read_file
from imgsynth.cohort.masks import structures_of
from imgsynth.console import track
from imgsynth.files import sha256
from imgsynth.schema import DataConfig
from imgsynth.types import Fault, InputError
from imgsynth.volumes.nifti import read_nifti
from imgsynth.volumes.volume import Volume

SHOWN = 5  # files that a fault names


def mask_faults(found: Found, data: DataConfig) -> list[Fault]:
    """Read the mask of each scan and note its digest; faults of those that ``data.masks`` cannot be taken from.

    Every value must be declared: a structure that is left out in silence would be called background in training.
    """
    if data.masks is None:
        return []
    if data.kind != "nifti":
        return [Fault("data.masks", f"masks with data.kind={data.kind}", "NIfTI masks beside NIfTI images",
                      "data.kind=nifti, or leave data.masks out")]  # fmt: skip
    without = [scan.names[0] for scan in found.scans if scan.mask is None]
    if without:
        return [Fault("data.masks", f"no mask beside {len(without)} of {len(found.scans)} images: {_shown(without)}",
                      "a mask for each: labelsTr, or a name that ends in _dseg, _mask or the like",
                      "add them, or take these images out of data.root")]  # fmt: skip
    declared = {0, *(structure.value for structure in structures_of(data.masks))}

    def probe(scan: Scan) -> list[Fault] | set[float]:
        assert scan.mask is not None
        path = found.root / scan.mask
        try:
            mask, image = read_nifti(path), read_file(found.root / scan.files[0], scan.modality or "")
        except InputError as error:
            return list(error.faults)
        scan.mask_digest = sha256(path)
        if fault := geometry_fault(str(path), mask, image):
            return [fault]
        return set(np.unique(mask.array).tolist()) - declared

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(track(pool.map(probe, found.scans), "Reading masks", total=len(found.scans)))
    faults = [fault for outcome in outcomes if isinstance(outcome, list) for fault in outcome]
    unknown = Counter(value for outcome in outcomes if isinstance(outcome, set) for value in outcome)
    if unknown:
        where = [str(s.mask) for s, outcome in zip(found.scans, outcomes, strict=True)
                 if isinstance(outcome, set) and outcome]  # fmt: skip
        values = ", ".join(f"{value:g} (in {count})" for value, count in sorted(unknown.items())[:12])
        faults.append(
            Fault("data.masks", f"values that are not declared: {values} masks, {_shown(where)}",
                  f"0 for background and {sorted(declared - {0})}", "declare them all, in the order of their values")
        )  # fmt: skip
    return faults


def geometry_fault(where: str, mask: Volume, image: Volume) -> Fault | None:
    """Where mask and image do not lie in one place, voxel by voxel: to a hundredth of a voxel at the grid's corners."""
    if mask.array.shape != image.array.shape:
        return Fault(where, f"a mask of {mask.array.shape} voxels", f"{image.array.shape}, as its image has",
                     "resample the mask to its image")  # fmt: skip
    corners = np.array(np.meshgrid(*((0, side - 1) for side in image.array.shape))).reshape(3, -1)
    apart = np.abs((mask.affine - image.affine)[:3] @ np.vstack([corners, np.ones(corners.shape[1])])).max()
    if apart > 0.01 * min(image.spacing):
        return Fault(where, f"a mask that lies up to {apart:.3g} mm elsewhere", "the affine of its image",
                     "resample the mask to its image, or mend its header")  # fmt: skip
    return None


def _shown(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
