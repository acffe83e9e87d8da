"""Whose data a run will read, as the ledger asks for it."""

from __future__ import annotations

from imgsynth.cohort.manifest import Manifest
from imgsynth.privacy.patients import Patients
from imgsynth.schema import DataConfig


def members(manifest: Manifest, data: DataConfig) -> Patients:
    """The patients (or cases) of the training split by id; where the unit is the image, its images by content."""
    if manifest.unit == "image":  # an image is the same whoever numbers it
        return Patients(frozenset(item.digest for item in manifest.items if item.split == "train"))
    return Patients(frozenset(manifest.patients("train")), data.issuer or _own_issuer(data), manifest.key)


def _own_issuer(data: DataConfig) -> str | None:
    """Phantoms are numbered by imgsynth itself, and other settings make other phantoms of the same number."""
    if data.kind != "phantom":
        return None
    made = data.phantom
    return f"imgsynth phantom, seed {made.seed}, {made.patients} of {made.size} voxels"
