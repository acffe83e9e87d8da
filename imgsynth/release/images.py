"""One synthetic patient on disk: the generator's image as DICOM series and NIfTI file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from imgsynth import __version__
from imgsynth.cohort.grid import grid_affine, to_volume
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.release.bids import bids_path
from imgsynth.release.card_text import round_up
from imgsynth.release.patients import SyntheticPatient, patient_id
from imgsynth.types import Grid
from imgsynth.volumes.dicom_write import write_dicom_series
from imgsynth.volumes.geometry import right_handed
from imgsynth.volumes.nifti import write_nifti
from imgsynth.volumes.provenance import Provenance, SyntheticIdentity
from imgsynth.volumes.volume import Volume


def provenance_of(plan: PrivacyPlan, model: str) -> Provenance:
    """What every image's header says of its making; ε rounded up, because a stated bound must hold.

    Burned In Annotation (0028,0301) asks for text that identifies the patient. No person was imaged, and text that one
    patient's images carry is data of one patient, which the plan protects: NO. Without that protection a copy of a
    patient's text cannot be excluded, and the answer is YES. Nobody looked at the pixels for it, nor for recognizable
    faces, so that Recognizable Visual Features is left out.
    """
    return Provenance(
        method=f"{model}, {'trained by DP-SGD' if plan.mode == 'dp' else 'trained without differential privacy'}",
        model=model,
        version=__version__,
        epsilon=float(round_up(plan.epsilon)) if plan.mode == "dp" else float("inf"),
        delta=plan.delta,
        unit=plan.unit,
        burned_in="NO" if plan.releasable else "YES",
    )


def release_volume(x_C: np.ndarray, grid: Grid) -> Volume:
    """A model's image [1, *grid.shape] on the grid's geometry and unit, right-handed; HU are whole numbers."""
    volume = right_handed(to_volume(x_C, grid))
    return replace(volume, array=np.rint(volume.array)) if grid.unit == "HU" else volume


def release_geometry(grid: Grid) -> tuple[tuple[int, ...], np.ndarray]:
    """(shape [i, j, k], affine) that every volume of a release on ``grid`` has."""
    shape = tuple([*grid.shape, 1][:3])
    empty = right_handed(Volume(np.zeros(shape, np.float32), grid_affine(grid), grid.modality, grid.unit))
    return empty.array.shape, empty.affine


def bids_suffix(grid: Grid, contrast: str) -> str | None:
    """The BIDS suffix of the images; None where BIDS has no place for them (CT, radiographs, single images)."""
    return contrast if grid.modality == "MR" and grid.spatial_dims == 3 else None


def write_patient(
    release: Path, number: int, label: str | None, volume: Volume, window: tuple[float, float], made: Provenance,
    formats: Sequence[str], suffix: str | None,
) -> SyntheticPatient:  # fmt: skip
    """Write synthetic patient ``number`` into the folder ``release`` in each of ``formats``."""
    name = patient_id(number)
    dicom: list[Path] = []
    nifti: list[Path] = []
    if "dicom" in formats:
        series = release / "dicom" / name / volume.modality
        dicom = write_dicom_series(volume, series, SyntheticIdentity(name), made, window)
    if "nifti" in formats:
        path = release / "nifti" / (bids_path(number, suffix) if suffix else f"{name}.nii.gz")
        nifti = [write_nifti(volume, path, description_of(made), sidecar(name, label, made, suffix))]

    def relative(paths: list[Path]) -> tuple[str, ...]:
        return tuple(path.relative_to(release).as_posix() for path in paths)

    return SyntheticPatient(name, label, relative(dicom), relative(nifti))


def description_of(made: Provenance) -> str:
    """The NIfTI header's ``descrip``: at most 79 bytes, beginning with "synthetic"."""
    return f"synthetic; imgsynth {made.version}; eps<={made.epsilon:g} delta={made.delta:g} per {made.unit}"


def sidecar(name: str, label: str | None, made: Provenance, suffix: str | None) -> dict[str, Any]:
    """The JSON beside a NIfTI file; ε null is ∞. ``suffix``: of a BIDS file, which needs more."""
    return {
        "Description": made.derivation,
        "SyntheticData": True,
        "SyntheticPatientID": name,
        "Label": label,
        "Model": made.model,
        "GeneratedBy": [{"Name": "imgsynth", "Version": made.version}],
        "Epsilon": made.epsilon if np.isfinite(made.epsilon) else None,
        "Delta": made.delta,
        "PrivacyUnit": made.unit,
        # BIDS asks this of every derived anatomical volume. Nothing was stripped from a sample; whether the cohort's
        # volumes had been, the generator does not know.
        **({"SkullStripped": False} if suffix else {}),
    }
