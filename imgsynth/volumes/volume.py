"""The one type that every reader returns and every writer takes."""

from __future__ import annotations

from dataclasses import dataclass, field

import nibabel as nib
import numpy as np

from imgsynth.types import IntensityUnit

# The only metadata that travel with a volume: facts about the person or the site that a cohort may use for splits,
# labels and fairness, under DICOM keywords. Everything else in a header stays in the file it came from.
ALLOWED_META = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "PatientSex", "PatientAge", "InstitutionName",
                "BodyPartExamined", "ViewPosition")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Volume:
    """An image on a regular grid.

    ``array`` is [i, j, k] (a radiograph or a single slice has k = 1) in ``unit``; ``affine`` is the 4×4 matrix from
    voxel indices to RAS+ millimetres (right, anterior, superior positive; the voxel's centre), as in nibabel.
    """

    array: np.ndarray
    affine: np.ndarray
    modality: str
    unit: IntensityUnit
    meta: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.array.ndim != 3:
            raise ValueError(f"Expected array [i, j, k] (k = 1 for a single image), got shape {self.array.shape}.")
        if self.affine.shape != (4, 4) or abs(np.linalg.det(self.affine[:3, :3])) < 1e-12:
            raise ValueError(f"Expected an invertible 4×4 affine, got {self.affine!r}.")
        unknown = set(self.meta) - set(ALLOWED_META)
        if unknown:
            raise ValueError(f"Expected metadata only from {ALLOWED_META}, got {sorted(unknown)}.")

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxel centres along each array axis."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def orientation(self) -> str:
        """Axis codes of the array axes, for instance "LPS" (toward left, posterior, superior)."""
        return "".join(nib.aff2axcodes(self.affine))
