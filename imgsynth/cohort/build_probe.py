"""Reading every image of a source once, before anything depends on it: geometry, soundness, content digest."""

from __future__ import annotations

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib

from imgsynth.cohort.build_scan import Found, Scan
from imgsynth.cohort.load import is_nifti, read_file
from imgsynth.console import track
from imgsynth.types import Fault, InputError
from imgsynth.volumes.file_index import FileIndex
from imgsynth.volumes.file_tree import stamped


def probe_all(found: Found) -> Found:
    """Fill in shape, spacing, orientation, dtype and digest of each scan; move unreadable ones to ``found.skipped``."""

    def probe(scan: Scan) -> tuple[Fault, ...]:
        try:
            volume = read_file(found.root / scan.files[0], scan.modality or "")
        except InputError as error:
            return tuple(
                dataclasses.replace(fault, code=fault.code or "unreadable", files=scan.files) for fault in error.faults
            )
        scan.shape, scan.spacing = volume.array.shape, volume.spacing
        scan.orientation = volume.orientation
        if is_nifti(found.root / scan.files[0]):  # the type on disk; the reader gives float32 whatever was stored
            scan.dtype = str(nib.load(found.root / scan.files[0]).get_data_dtype())
        return ()

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decompression runs outside the interpreter's lock
        outcomes = list(track(pool.map(probe, found.scans), "Reading images", total=len(found.scans)))
    found.skipped += [fault for faults in outcomes for fault in faults]
    found.scans = [scan for scan, faults in zip(found.scans, outcomes, strict=True) if not faults]
    tree = stamped(found.root, (scan.files[0] for scan in found.scans))
    digests = FileIndex(found.root).digests(tree, tree.files)
    for scan in found.scans:
        scan.digest = digests[scan.files[0]]
    return found
