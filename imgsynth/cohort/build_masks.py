"""The masks that a run is to train on: one beside each image, with no value that ``data.masks`` does not declare."""

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

SHOWN = 5  # files that a fault names


def mask_faults(found: Found, data: DataConfig) -> list[Fault]:
    """Note the digest of each scan's mask; faults of those that ``data.masks`` cannot be taken from.

    Every value must be declared: a structure that is left out in silence would be called background in training. Masks
    that do not lie on their image were left out before (``build_mask_check.py``), and are missing here.
    """
    if data.masks is None:
        return []
    without = [scan.names[0] for scan in found.scans if scan.mask is None]
    if without:
        got = f"no fit mask beside {len(without)} of {len(found.scans)} images: {_shown(without)}"
        return [Fault("data.masks", got, "a mask for each, on its image's grid: labelsTr, or NAME_dseg, NAME_mask, …",
                      "add or mend them, or take these images out; data.masks=null uses none")]  # fmt: skip
    declared = {0, *(structure.value for structure in structures_of(data.masks))}

    def probe(scan: Scan) -> list[Fault] | set[float]:
        path = found.root / str(scan.mask)
        try:
            mask = read_file(path, scan.modality or "")
        except InputError as error:
            return list(error.faults)
        scan.mask_digest = sha256(path)
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


def _shown(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
