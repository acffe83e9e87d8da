"""What every room shares: faults and errors, the target grid, batches of patients."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Unit = Literal["patient", "image"]
Split = Literal["train", "holdout", "test"]
SPLITS: tuple[Split, ...] = ("train", "holdout", "test")

# The unit of intensity of a volume. "HU" is Hounsfield units; "a.u." has no physical meaning (MR, radiographs).
IntensityUnit = Literal["HU", "a.u."]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with the input: where, what was got, what was expected, and what to try.

    Of what was found in a cohort, ``code`` is the short lasting name (``cohort/findings.py`` lists them) and ``files``
    are those that are left out because of it, as absolute paths or relative to the root of the source.
    """

    where: str
    got: str
    expected: str
    remedy: str
    code: str = ""
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.where}: got {self.got}; expected {self.expected}. Try: {self.remedy}"


def nearest_name(got: str, names: Iterable[str]) -> str | None:
    """Which of ``names`` somebody may have meant; None where none is near."""
    return next(iter(difflib.get_close_matches(got, list(names), n=1)), None)


class ImgsynthError(Exception):
    """Base of the errors meant for people. ``exit_code`` is what the command line returns."""

    exit_code = 1

    def __init__(self, *faults: Fault):
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))


class InputError(ImgsynthError):
    """The input or the configuration is wrong (exit code 2). Carries *all* the faults that were found."""

    exit_code = 2


class CheckFailed(ImgsynthError):
    """A check of something we made came out negative: a release that does not verify, say (exit code 1)."""


@dataclass(frozen=True)
class Structure:
    """One structure of a segmentation mask, as the configuration declares it in public."""

    name: str
    value: int  # of its voxels in the masks of the source; a release numbers structures from 1, in their order
    code: tuple[str, str, str] | None = None  # coding scheme, code value and meaning, for DICOM; None: none was given

    @staticmethod
    def from_json(entry: dict[str, Any]) -> Structure:
        code = entry.get("code")
        return Structure(entry["name"], entry["value"], tuple(code) if code else None)


@dataclass(frozen=True)
class Grid:
    """The public voxel grid and intensity scale that every image is brought to, and that releases are written in.

    Nothing here may be read from private data: it comes from the configuration (privacy contract, point 3).
    """

    shape: tuple[int, ...]  # voxels along each axis; two or three of them
    spacing: tuple[float, ...]  # mm, same length as shape
    orientation: str  # axis codes of the array's axes, "RAS" say
    modality: str  # DICOM Modality (0008,0060): CT, MR, DX, CR
    unit: IntensityUnit
    low: float  # the intensity that becomes -1, in ``unit``
    high: float  # the intensity that becomes +1, in ``unit``
    structures: tuple[Structure, ...] = ()  # of the mask beside each image, a channel each; none: no masks

    @property
    def channels(self) -> int:
        """C: the image, and one for each structure."""
        return 1 + len(self.structures)

    @property
    def spatial_dims(self) -> int:
        return len(self.shape)

    def to_intensity(self, x: np.ndarray) -> np.ndarray:
        """Map model values in [-1, 1] (clamped) to intensities in ``unit``."""
        return (np.clip(x, -1.0, 1.0) + 1.0) / 2.0 * (self.high - self.low) + self.low


@dataclass
class PatientBatch:
    """P patients with up to K images each, padded with images of weight zero.

    Shapes: ``x_PKC`` [P, K, C, *spatial] in [-1, 1], the image and then, where there are masks, each structure (1
    inside, -1 outside); ``y_PK`` [P, K] class indices; ``w_PK`` [P, K] weights that
    sum to 1 for each patient. P may be 0 (an empty Poisson batch), K is the same public number for every batch.
    """

    x_PKC: Tensor
    y_PK: Tensor
    w_PK: Tensor

    def __len__(self) -> int:
        return self.x_PKC.shape[0]

    def to(self, device: torch.device | str) -> PatientBatch:
        return PatientBatch(self.x_PKC.to(device), self.y_PK.to(device), self.w_PK.to(device))
