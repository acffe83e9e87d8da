"""Is every NIfTI file of a release sound: one orientation twice stated, millimetres, marked synthetic, in range?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from imgsynth.release.patients import SyntheticPatient
from imgsynth.release.verify_dicom import volume_faults
from imgsynth.types import Fault, Grid, InputError
from imgsynth.volumes.nifti import read_nifti, sidecar_path
from imgsynth.volumes.parallel import in_chunks

REMEDY = "do not use this file; get the release again from whoever published it"


def nifti_faults(folder: Path, patients: Sequence[SyntheticPatient], grid: Grid) -> Iterator[Fault]:
    """Faults of all NIfTI files that ``patients`` list."""
    for _, faults in in_chunks(partial(_examine, folder, grid), [p for p in patients if p.nifti]):
        yield from faults


def _examine(folder: Path, grid: Grid, patients: Sequence[SyntheticPatient]) -> list[Fault]:
    return [fault for patient in patients for name in patient.nifti for fault in _file_faults(folder, name, grid)]


def _file_faults(folder: Path, name: str, grid: Grid) -> Iterator[Fault]:
    path = folder / name
    try:
        volume = read_nifti(path)
        header = nib.load(path).header
    except InputError as error:
        yield from (Fault(name, fault.got, fault.expected, REMEDY) for fault in error.faults)
        return
    yield from header_faults(name, header)
    yield from volume_faults(name, volume, grid)
    if volume.modality != grid.modality or not sidecar_path(path).is_file():
        yield Fault(name, f"modality {volume.modality} in its sidecar", grid.modality, REMEDY)


def header_faults(name: str, header: nib.Nifti1Header) -> Iterator[Fault]:
    """Faults of one NIfTI-1 header."""
    qform, sform = (int(header[code]) for code in ("qform_code", "sform_code"))
    if not (qform == sform == 1 and np.allclose(header.get_qform(), header.get_sform(), atol=1e-3)):
        yield Fault(f"{name}: qform, sform", f"codes {qform} and {sform}", "the same affine under code 1 twice", REMEDY)
    if np.linalg.det(header.get_best_affine()[:3, :3]) <= 0:
        yield Fault(f"{name}: sform", "a left-handed affine", "a right-handed one", REMEDY)
    if header.get_xyzt_units()[0] != "mm":
        yield Fault(f"{name}: xyzt_units", header.get_xyzt_units()[0], "mm", REMEDY)
    if not bytes(header["descrip"].item()).startswith(b"synthetic"):
        yield Fault(f"{name}: descrip", repr(header["descrip"].item()), "a text that begins with 'synthetic'", REMEDY)
    told = [field for field in ("db_name", "aux_file", "intent_name") if bytes(header[field].item()).strip(b"\0")]
    if told or len(header.extensions):
        yield Fault(f"{name}: header", f"text in {told or 'an extension'}", "no text but descrip", REMEDY)
