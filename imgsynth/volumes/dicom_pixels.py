"""Stored pixels to intensities: decompression, padding, MONOCHROME1, rescale (PS3.3 C.7.6.3, C.11.1)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread, uid

from imgsynth.types import Fault, InputError, IntensityUnit
from imgsynth.volumes.archives import on_disk
from imgsynth.volumes.dicom_codestream import check_frames
from imgsynth.volumes.dicom_element import BROKEN, element, items, number, refuse, text, whole
from imgsynth.volumes.dicom_kind import ENHANCED
from imgsynth.volumes.dicom_planes import functional_group, shared_groups

# The lowest value of the CT scale. Field-of-view padding (declared or not: -2000, -2048, -3024 are all in use) is
# outside of it and becomes air's end of the scale, as every release is written in [-1024, 3071] HU.
CT_FLOOR = -1024.0

_ROWS = 1024  # that are scaled at a time

HOUNSFIELD = ("HU", "HOUNSFIELD", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS", "HOUNDSFIELD UNIT", "HOUNDSFIELD UNITS")


def read_frames(path: Path) -> tuple[np.ndarray, IntensityUnit]:
    """The frames of one file as float32 [F, rows, columns] in their unit, NaN where the pixel is padding.

    Raises InputError naming file and tag when the pixels cannot be decoded or have no linear scale.
    """
    try:
        dataset = dcmread(on_disk(path), force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = _syntax(*dataset.original_encoding)
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            check_frames(dataset, path)
        stored = dataset.pixel_array
    except BROKEN as error:
        raise InputError(Fault(str(path), f"{element('PixelData')} that cannot be decoded ({_first_line(error)})",
                               "whole pixels in a transfer syntax of JPEG, JPEG-LS, JPEG 2000, RLE or none",
                               "copy or export the file again, uncompressed", "broken_pixels",
                               (str(path),))) from error  # fmt: skip
    stored = stored[None] if stored.ndim == 2 else stored
    if text(dataset, "SOPClassUID", path) in ENHANCED:
        return _enhanced_frames(dataset, stored, path)
    unit = intensity_unit(dataset, dataset, path)
    return _intensities(dataset, dataset, stored, unit, path), unit


def intensity_unit(dataset: Dataset, scale: Dataset, path: Path) -> IntensityUnit:
    """Hounsfield units for CT whose Rescale Type is absent (PS3.3 C.8.2.1) or says so; else arbitrary units."""
    kind = text(scale, "RescaleType", path).upper()
    is_ct = text(dataset, "SOPClassUID", path) in (uid.CTImageStorage, uid.EnhancedCTImageStorage,
                                                   uid.LegacyConvertedEnhancedCTImageStorage)  # fmt: skip
    return "HU" if is_ct and (not kind or kind in HOUNSFIELD) else "a.u."


def _enhanced_frames(dataset: Dataset, stored: np.ndarray, path: Path) -> tuple[np.ndarray, IntensityUnit]:
    """Each frame by its own Pixel Value Transformation (PS3.3 C.7.6.16.2.9)."""
    shared = shared_groups(dataset, path)
    frames, units = [], set()
    for group, frame in zip(items(dataset, "PerFrameFunctionalGroupsSequence", path), stored, strict=True):
        scale = functional_group(group, shared, "PixelValueTransformationSequence", path)
        unit = intensity_unit(dataset, scale, path)
        units.add(unit)
        frames.append(_intensities(dataset, scale, frame, unit, path))
    if len(units) != 1:
        refuse(
            path, "RescaleType", "several units", "one unit in all frames", "export one unit per file", "mixed_units"
        )
    return np.stack(frames), units.pop()


def _intensities(dataset: Dataset, scale: Dataset, stored: np.ndarray, unit: IntensityUnit, path: Path) -> np.ndarray:
    """Stored values to ``unit``; MONOCHROME1 is inverted, but not in HU, where it only concerns the display."""
    if "ModalityLUTSequence" in dataset:
        refuse(path, "ModalityLUTSequence", "present (a scale that is not linear)", "Rescale Slope and Intercept",
               "export with a linear scale", "no_scale")  # fmt: skip
    slope, intercept = number(scale, "RescaleSlope", path), number(scale, "RescaleIntercept", path)
    if unit == "HU" and (slope is None or intercept is None):
        refuse(path, "RescaleIntercept" if slope is not None else "RescaleSlope", "nothing",
               "the scale to Hounsfield units, which a CT must have", "export the series again",
               "no_scale")  # fmt: skip
    if slope == 0:
        refuse(path, "RescaleSlope", "0", "a slope that keeps the image", "export the series again", "no_scale")
    padding = _padding(dataset, stored, path)
    sign, offset = 1.0, 0.0
    if unit != "HU" and text(dataset, "PhotometricInterpretation", path) == "MONOCHROME1":
        sign, offset = -1.0, float(sum(_stored_range(dataset, path)))
    values = np.empty(stored.shape, dtype=np.float32)
    rows, flat = stored.reshape(-1, stored.shape[-1]), values.reshape(-1, stored.shape[-1])
    for start in range(0, len(rows), _ROWS):  # in double precision, of which a whole image would take much room
        part = slice(start, start + _ROWS)
        flat[part] = (offset + sign * rows[part].astype(np.float64)) * (1.0 if slope is None else slope) + (
            intercept or 0.0
        )
    values[padding] = np.nan
    return values


def _padding(dataset: Dataset, stored: np.ndarray, path: Path) -> np.ndarray:
    """Where pixels are padding: Pixel Padding Value, or its range up to Pixel Padding Range Limit (C.7.5.1.1.2)."""
    first = whole(dataset, "PixelPaddingValue", path)
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    last = whole(dataset, "PixelPaddingRangeLimit", path)
    low, high = sorted(_as_stored(edge, dataset, path) for edge in (first, first if last is None else last))
    return (stored >= low) & (stored <= high)


def _as_stored(padding: int, dataset: Dataset, path: Path) -> int:
    """A padding value as it looks in Bits Stored and Pixel Representation (many exports write it in the other sign)."""
    low, high = _stored_range(dataset, path)
    return (padding - low) % (high - low + 1) + low


def _stored_range(dataset: Dataset, path: Path) -> tuple[int, int]:
    bits = whole(dataset, "BitsStored", path) or whole(dataset, "BitsAllocated", path) or 16
    return (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if whole(dataset, "PixelRepresentation", path) else (0, 2**bits - 1)
    )


def _syntax(implicit: bool, little: bool) -> uid.UID:
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
