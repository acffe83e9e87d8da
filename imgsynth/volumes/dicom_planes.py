"""Where the frames of a DICOM file lie, from the elements of its image plane or its functional groups."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset

from imgsynth.types import Fault
from imgsynth.volumes.dicom_element import Source, element, items, number, numbers, refuse, words
from imgsynth.volumes.geometry import UPRIGHT, letters_orientation, orthonormal


@dataclass(frozen=True, eq=False)
class Planes:
    """Parallel frames in space; ``positions`` is None for a projection image, which has no place in the patient."""

    orientation: np.ndarray  # (6,) direction cosines of a row, then of a column (LPS+)
    spacing: np.ndarray  # (2,) mm between rows, then between columns
    positions: np.ndarray | None  # [F, 3] LPS+ mm
    thickness: float | None = None  # mm from slice to slice as the header tells; asked only where there is one slice
    remarks: tuple[Fault, ...] = ()
    varies: tuple[str, ...] = ()  # in what the frames of a file differ beside their place: echo, diffusion weight, …

    @property
    def frames(self) -> int:
        return 1 if self.positions is None else len(self.positions)


def single_plane(dataset: Source, path: Path) -> Planes:
    """The plane of a single-frame CT or MR image (PS3.3 C.7.6.2)."""
    return frame_plane(dataset, dataset, dataset, path)


def shared_groups(dataset: Dataset, path: Path) -> Dataset:
    return (items(dataset, "SharedFunctionalGroupsSequence", path) or [Dataset()])[0]


def functional_group(frame: Dataset, shared: Dataset, macro: str, path: Path) -> Dataset:
    """The one item of a macro, from the frame's own groups or else the shared ones; empty when neither has it."""
    return (items(frame, macro, path) or items(shared, macro, path) or [Dataset()])[0]


def projection_planes(dataset: Source, path: Path) -> Planes:
    """A radiograph's orientation and pixel size, with a remark where the size is not told and 1 mm is assumed.

    Patient Orientation (0020,0020) is followed where it names two axes; otherwise the image is upright as displayed.
    """
    orientation = letters_orientation(words(dataset, "PatientOrientation", path))
    if orientation is None:
        orientation = letters_orientation(UPRIGHT)
        assert orientation is not None
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = numbers(dataset, keyword, path, 2)
        if spacing is not None:
            return Planes(orientation, _positive(path, keyword, spacing), None)
    remark = Fault(
        str(path),
        f"no {element('PixelSpacing')} or {element('ImagerPixelSpacing')}",
        "a pixel size in mm",
        "nothing: 1 mm is assumed; lengths in this image mean nothing",
        "spacing_assumed",
    )
    return Planes(orientation, np.ones(2), None, remarks=(remark,))


def frame_plane(orienting: Source, measuring: Source, placing: Source, path: Path) -> Planes:
    """One plane from the data sets that hold its orientation, its pixel size and its position."""
    orientation = _required(orienting, "ImageOrientationPatient", path, 6)
    square = _square(tuple(orientation.tolist()))
    if square is None:
        got, expected = str(orientation.tolist()), "two unit vectors at right angles"
        refuse(path, "ImageOrientationPatient", got, expected, "repair or remove the file", "no_geometry")
    spacing = _positive(path, "PixelSpacing", _required(measuring, "PixelSpacing", path, 2))
    position = _required(placing, "ImagePositionPatient", path, 3)
    between = number(measuring, "SpacingBetweenSlices", path)
    thickness = between if between and between > 0 else number(measuring, "SliceThickness", path)
    return Planes(square, spacing, position[None], thickness)


@functools.lru_cache(maxsize=1024)
def _square(orientation: tuple[float, ...]) -> np.ndarray | None:
    """The slices of a series have it in common."""
    square = orthonormal(np.array(orientation))
    if square is not None:
        square.setflags(write=False)
    return square


def _required(dataset: Source, keyword: str, path: Path, count: int) -> np.ndarray:
    found = numbers(dataset, keyword, path, count)
    if found is None:
        refuse(path, keyword, "nothing", f"{count} numbers", "export the series again with its geometry",
               "no_geometry")  # fmt: skip
    return found


def _positive(path: Path, keyword: str, spacing: np.ndarray) -> np.ndarray:
    if (spacing <= 0).any():
        refuse(path, keyword, str(spacing.tolist()), "positive millimetres", "repair or remove the file",
               "no_geometry")  # fmt: skip
    return spacing
