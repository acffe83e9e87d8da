"""One synthetic patient on disk: the generator's image as DICOM series and NIfTI file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from imgsynth import __version__
from imgsynth.cohort.grid import grid_affine, to_volume
from imgsynth.cohort.masks import label_map
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.release.bids import CT, bids_path
from imgsynth.release.card_text import counted_unit
from imgsynth.release.patients import SyntheticPatient, dicom_sex, patient_id
from imgsynth.release.rounding import round_up
from imgsynth.release.watermark import KEY, marked
from imgsynth.release.zarr_parts import write_part
from imgsynth.types import Grid, Structure
from imgsynth.volumes.dicom_seg import write_segmentation
from imgsynth.volumes.dicom_write import DicomForm, write_dicom_series
from imgsynth.volumes.geometry import right_handed
from imgsynth.volumes.nifti import write_nifti
from imgsynth.volumes.provenance import Provenance, SyntheticIdentity
from imgsynth.volumes.uids import NewUid
from imgsynth.volumes.volume import Volume

SIDECAR = {"age_band": "AgeBand", "sex": "Sex", "site": "Site"}


def provenance_of(
    plan: PrivacyPlan, model: str, burned_in: Literal["YES", "NO"] | None, watermark: float | None = None
) -> Provenance:
    """What every image's header says of its making; ε rounded up, because a stated bound must hold.

    ``burned_in`` is what ``judged_burned_in`` says. Nobody looked for recognizable faces, so that Recognizable Visual
    Features is left out. ``watermark`` is release.watermark.
    """
    if plan.releasable:
        made = "trained by DP-SGD" if plan.teachers is None else "trained on noisy votes of teachers (PATE)"
    else:
        made = "trained by DP-SGD with noise from a seed" if plan.seeded else "trained without differential privacy"
    made += f", and on {asked_of(plan)}" if plan.queries else ""
    return Provenance(
        method=f"{model}, {made}",
        model=model,
        version=__version__,
        epsilon=float(round_up(plan.epsilon)) if plan.releasable else float("inf"),
        delta=plan.delta,
        unit=counted_unit(plan),
        burned_in=burned_in,
        seeded=plan.seeded,
        watermark=watermark,
    )


def asked_of(plan: PrivacyPlan) -> str:
    """What the cohort was asked once beside training. Not of patients: where ids are of cases, nobody may say so."""
    noised = "noised " if all(query.noise_multiplier > 0 for query in plan.queries) else ""
    return f"{noised}answers of the whole cohort ({', '.join(query.name for query in plan.queries)})"


def release_volume(x_C: np.ndarray, grid: Grid, watermark: float | None = None) -> Volume:
    """A model's image [1, *grid.shape] on the grid's geometry and unit, right-handed; HU are whole numbers.

    ``watermark``: the strength of the one that is put in before, if one is (``watermark.py``).
    """
    if watermark is not None:
        x_C = marked(np.clip(x_C[0], -1, 1), watermark)[None]
    volume = right_handed(to_volume(x_C, grid))
    return replace(volume, array=np.rint(volume.array)) if grid.unit == "HU" else volume


def release_mask(x_MC: np.ndarray, grid: Grid) -> Volume:
    """The mask of a model's channels [m, *grid.shape] on the geometry of ``release_volume``: labels 0..m, uint8."""
    labels = label_map(x_MC).reshape(tuple([*grid.shape, 1][:3]))
    return right_handed(Volume(labels, grid_affine(grid), grid.modality, grid.unit))


def release_geometry(grid: Grid) -> tuple[tuple[int, ...], np.ndarray]:
    """(shape [i, j, k], affine) that every volume of a release on ``grid`` has."""
    shape = tuple([*grid.shape, 1][:3])
    empty = right_handed(Volume(np.zeros(shape, np.float32), grid_affine(grid), grid.modality, grid.unit))
    return empty.array.shape, empty.affine


def nifti_name(number: int, suffix: str | None) -> str:
    """Where the NIfTI file of synthetic patient ``number`` lies in the release; ``suffix`` is BIDS', if it has one."""
    return f"nifti/{bids_path(number, suffix) if suffix else f'{patient_id(number)}.nii.gz'}"


def write_patient(
    release: Path, number: int, label: str | None, volume: Volume, window: tuple[float, float], made: Provenance,
    formats: Sequence[str], suffix: str | None, new_uid: NewUid, form: DicomForm,
    facts: Mapping[str, str] | None = None, mask: Volume | None = None, structures: Sequence[Structure] = (),
) -> SyntheticPatient:  # fmt: skip
    """Write synthetic patient ``number`` into ``release`` in each of ``formats``, DICOM in ``form``; and its
    ``mask``, if it has one, beside the image.

    ``facts`` (age_band, sex, site) are in NIfTI sidecars; of them DICOM headers have Patient's Sex alone, since
    Patient's Age cannot be a band.
    """
    facts = facts or {}
    name = patient_id(number)
    dicom: list[Path] = []
    nifti: list[Path] = []
    masks: list[Path] = []
    if "dicom" in formats:
        series = release / "dicom" / name / volume.modality
        identity = SyntheticIdentity(name, new_uid, sex=dicom_sex(facts))
        dicom = write_dicom_series(volume, series, identity, made, window, form)
        if mask is not None:
            masks += write_segmentation(mask.array, dicom, series.with_name("SEG"), structures, made, new_uid)
    if "nifti" in formats:
        path = release / nifti_name(number, suffix)
        # Flushing file by file takes longer than writing: a release is flushed as a whole, before it gets its name.
        beside = sidecar(name, label, made, suffix, facts)
        nifti = [write_nifti(volume, path, description_of(made), beside, False)]
        if mask is not None:
            path = release / "nifti" / (bids_path(number, suffix, mask=True) if suffix else f"{name}_dseg.nii.gz")
            masks.append(write_nifti(mask, path, description_of(made), beside, False))
    if "zarr" in formats:
        write_part(release, number, volume)

    def relative(paths: list[Path]) -> tuple[str, ...]:
        return tuple(path.relative_to(release).as_posix() for path in paths)

    return SyntheticPatient(name, label, relative(dicom), relative(nifti), dict(facts), relative(masks))


def description_of(made: Provenance) -> str:
    """The NIfTI header's ``descrip``: at most 79 bytes, beginning with "synthetic"."""
    if made.seeded:
        said = "no DP for whoever knows the seed; not releasable"
    elif np.isinf(made.epsilon):
        said = "not differentially private; not releasable"
    else:
        said = f"eps<={made.epsilon:g} delta={made.delta:g} per {made.unit}"
    return f"synthetic; imgsynth {made.version}; {said}"


def sidecar(
    name: str, label: str | None, made: Provenance, suffix: str | None, facts: Mapping[str, str]
) -> dict[str, Any]:
    """The JSON beside a NIfTI file; ε null is ∞. ``suffix``: of a BIDS file, which needs more."""
    return {
        "Description": made.derivation,
        "SyntheticData": True,
        "SyntheticPatientID": name,
        "Label": label,
        **{SIDECAR[fact]: value for fact, value in facts.items()},
        "Model": made.model,
        "GeneratedBy": [{"Name": "imgsynth", "Version": made.version}],
        "Epsilon": made.epsilon if np.isfinite(made.epsilon) else None,
        "Delta": made.delta,
        "PrivacyUnit": made.unit,
        **({"Watermark": {"Strength": made.watermark, "Key": KEY}} if made.watermark is not None else {}),
        # BIDS asks this of every derived anatomical volume. Nothing was stripped from a sample; whether the cohort's
        # volumes had been, the generator does not know.
        **({"SkullStripped": False} if suffix not in (None, CT) else {}),
    }
