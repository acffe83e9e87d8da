"""Is every NIfTI file of a release sound: one orientation twice stated, millimetres, marked synthetic, in range?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from imgsynth import __version__
from imgsynth.files import read_json
from imgsynth.release.facts import Facts
from imgsynth.release.images import description_of, nifti_name, sidecar
from imgsynth.release.patients import SyntheticPatient
from imgsynth.release.verify_dicom import volume_faults
from imgsynth.types import Fault, InputError
from imgsynth.volumes.nifti import read_nifti, sidecar_path
from imgsynth.volumes.parallel import in_chunks

REMEDY = "do not use this file; get the release again from whoever published it"


def nifti_faults(folder: Path, facts: Facts) -> Iterator[Fault]:
    """Faults of all NIfTI files that the cohort of ``facts`` lists, and of their sidecars."""
    for _, faults in in_chunks(partial(_examine, folder, facts), [p for p in facts.patients if p.nifti]):
        yield from faults


def _examine(folder: Path, facts: Facts, patients: Sequence[SyntheticPatient]) -> list[Fault]:
    return [
        fault for patient in patients for name in patient.nifti for fault in _file_faults(folder, name, patient, facts)
    ]


def _file_faults(folder: Path, name: str, patient: SyntheticPatient, facts: Facts) -> Iterator[Fault]:
    path = folder / name
    described = description_of(facts.provenance).encode()
    try:
        volume = read_nifti(path)
        header = nib.load(path).header
    except InputError as error:
        yield from (Fault(name, fault.got, fault.expected, REMEDY) for fault in error.faults)
        return
    if name != (expected := nifti_name(int(patient.id.rpartition("-")[2]), facts.suffix)):
        yield Fault(name, "a file in another place", f"{expected}, as its number and BIDS have it", REMEDY)
    yield from header_faults(name, header)
    if facts.made["imgsynth"] == __version__ and bytes(header["descrip"].item()) != described:
        yield Fault(f"{name}: descrip", repr(header["descrip"].item()), repr(described), REMEDY)
    yield from volume_faults(name, volume, facts.grid)
    yield from _sidecar_faults(path, name, patient, facts)


def _sidecar_faults(path: Path, name: str, patient: SyntheticPatient, facts: Facts) -> Iterator[Fault]:
    """The sidecar must say of ε, unit, label and making what card and cohort say."""
    beside = sidecar_path(path)
    if not beside.is_file():
        yield Fault(name, "no sidecar", beside.name, REMEDY)
        return
    said = read_json(beside)
    expected = sidecar(patient.id, patient.label, facts.provenance, facts.suffix, patient.facts)
    expected |= {"Modality": facts.grid.modality, "IntensityUnit": facts.grid.unit}
    if facts.made["imgsynth"] != __version__:
        expected = {key: expected[key] for key in ("SyntheticData", "SyntheticPatientID", "Label", "Modality")}
        said = {key: said.get(key) for key in expected}
    for key in sorted(expected.keys() | said.keys()):
        if said.get(key) != expected.get(key):
            where = f"{beside.relative_to(path.parents[len(Path(name).parts) - 1]).as_posix()}: {key}"
            yield Fault(where, repr(said.get(key)), f"{expected.get(key)!r}, as card and cohort say", REMEDY)


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
