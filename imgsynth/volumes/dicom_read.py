"""A DICOM series as a Volume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imgsynth.types import Fault, InputError, IntensityUnit
from imgsynth.volumes.dicom_element import element, quietly
from imgsynth.volumes.dicom_index import Series, index_files
from imgsynth.volumes.dicom_pixels import CT_FLOOR, read_frames
from imgsynth.volumes.volume import Volume


def read_dicom_series(source: Series | Sequence[Path]) -> Volume:
    """Read a series of an index, or files that must make exactly one.

    The array is float32 [column, row, slice] with slices in the order of space; the slope, intercept and padding of
    every slice are its own. Padding becomes -1024 HU in CT (so does all that lies below the scale), elsewhere the
    lowest value that is not padding. Values are as measured: no window (VOI LUT) is applied.

    Raises InputError with all faults, each naming file and tag.
    """
    series = source if isinstance(source, Series) else _only_series(source)
    array, unit = read_stack(series)
    return Volume(without_padding(array, unit), series.affine.copy(), series.modality, unit, dict(series.meta))


def without_padding(array: np.ndarray, unit: IntensityUnit) -> np.ndarray:
    """``array`` of ``read_stack``, its padding (NaN) and what lies below the scale of CT filled in place."""
    padding = np.isnan(array)
    if unit == "HU":
        array[padding] = CT_FLOOR
        np.maximum(array, CT_FLOOR, out=array)
    elif padding.any():
        array[padding] = array[~padding].min() if not padding.all() else 0.0
    return array


def _only_series(paths: Sequence[Path]) -> Series:
    index = index_files([Path(path) for path in paths])
    remarks = {fault for series in index.series for fault in series.faults}
    if faults := [fault for fault in index.faults if fault not in remarks]:
        raise InputError(*faults)
    if not index.series:
        where = ", ".join(str(path) for path in paths[:3]) or "no file"
        raise InputError(Fault(where, "no DICOM image", "the files of one series", "check the path"))
    if len(index.series) != 1:
        got = f"{len(index.series)} stacks of {element('SeriesInstanceUID')}"
        remedy = "index the folder with read_dicom_folder and read its series one by one"
        raise InputError(Fault(f"{len(paths)} file(s)", got, "one", remedy))
    return index.series[0]


@quietly()
def read_stack(series: Series) -> tuple[np.ndarray, IntensityUnit]:
    """The intensities of a series as they are stored, float32 [column, row, slice], NaN where the pixel is padding.

    Raises InputError where a file cannot be decoded, or where slices are not all in one unit.
    """
    array = np.empty(series.shape, dtype=np.float32)
    units: dict[IntensityUnit, Path] = {}
    frames: dict[Path, np.ndarray] = {}
    for k, part in enumerate(series.slices):
        if part.path not in frames:
            pixels, unit = read_frames(part.path)
            frames = {part.path: pixels}  # one file at a time: the frames of a multi-frame file follow each other
            units.setdefault(unit, part.path)
        array[:, :, k] = frames[part.path][part.frame].T
    if len(units) != 1:
        where = " and ".join(f"{path}: {unit}" for unit, path in units.items())
        raise InputError(Fault(where, f"{element('RescaleType')} that differs from slice to slice", "one unit",
                               "export one unit per series", "mixed_units"))  # fmt: skip
    return array, next(iter(units))
