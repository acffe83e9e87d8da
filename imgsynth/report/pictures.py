"""Sheets of images for the report: the release's own, and real ones for the local part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from imgsynth.files import read_json
from imgsynth.measure.images import Images
from imgsynth.release.patients import COHORT_JSON, SyntheticPatient, grid_from_json
from imgsynth.training.sheets import sheet
from imgsynth.types import Grid
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.nifti import read_nifti
from imgsynth.volumes.volume import Volume

SHOWN = 8


def release_sheet(release: Path) -> Image.Image:
    """The first SHOWN synthetic patients as the release's files have them, each under its id and label."""
    cohort = read_json(release / COHORT_JSON)
    grid = grid_from_json(cohort["grid"])
    patients = [SyntheticPatient.from_json(entry) for entry in cohort["patients"][:SHOWN]]
    volumes = [_volume(release, patient) for patient in patients]
    if grid.spatial_dims == 3:
        grid = replace(grid, orientation=volumes[0].orientation)  # a release is right-handed, its grid need not be
    images_BC = np.stack([_model_values(volume, grid) for volume in volumes])
    return sheet(images_BC, [f"{p.id[4:].lstrip('0')} {p.label or ''}".strip() for p in patients], grid, columns=SHOWN)


def real_sheet(real: Images, grid: Grid, classes: Sequence[str]) -> Image.Image:
    """Up to SHOWN real images under their class, without ids. LOCAL ONLY."""
    titles = [f"real {classes[int(y)] if len(classes) > 1 else ''}".strip() for y in real.y_N[:SHOWN]]
    return sheet(real.x_NC[:SHOWN], titles, grid, columns=SHOWN)


def _volume(release: Path, patient: SyntheticPatient) -> Volume:
    if patient.nifti:
        return read_nifti(release / patient.nifti[0])
    return read_dicom_series([release / name for name in patient.dicom])


def _model_values(volume: Volume, grid: Grid) -> np.ndarray:
    """Intensities back to [-1, 1], as one channel on the grid's axes."""
    values = (volume.array - grid.low) / (grid.high - grid.low) * 2 - 1
    return (values[..., 0] if grid.spatial_dims == 2 else values)[None].astype(np.float32)
