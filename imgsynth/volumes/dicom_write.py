"""A synthetic Volume as a DICOM series, written element by element from an allow-list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from imgsynth.types import Fault, InputError
from imgsynth.volumes.dicom_enhanced import ENHANCED_CLASSES, enhanced_elements
from imgsynth.volumes.dicom_frames import decimals, multi_frame, single_frames, write_files
from imgsynth.volumes.dicom_modules import (
    IMAGE_TYPES,
    SOP_CLASSES,
    modality_elements,
    patient_elements,
    provenance_elements,
)
from imgsynth.volumes.dicom_syntax import SMALLEST_JPEG2000, SYNTAXES
from imgsynth.volumes.geometry import LETTERS, LPS_TO_RAS, is_square, right_handed
from imgsynth.volumes.provenance import Provenance, SyntheticIdentity
from imgsynth.volumes.volume import Volume

KINDS = ("single_frame", "enhanced")
PLANAR = ("DX", "CR")
CT_RANGE = (-1024, 3071)  # HU, the scale of 12 bits
SINGLE = "sample.dicom=single_frame"


@dataclass(frozen=True)
class DicomForm:
    """How a series is stored: a file for each plane or one for all of them, and in which transfer syntax."""

    kind: str = "single_frame"  # or "enhanced"
    syntax: str = "explicit_little_endian"  # or another of SYNTAXES

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.syntax not in SYNTAXES:
            raise ValueError(f"Expected one of {KINDS} and one of {tuple(SYNTAXES)}, got {self}.")


SINGLE_FRAMES = DicomForm()


def write_dicom_series(
    volume: Volume,
    folder: Path,
    identity: SyntheticIdentity,
    provenance: Provenance,
    window: tuple[float, float] | None = None,
    form: DicomForm = SINGLE_FRAMES,
) -> list[Path]:
    """Write ``volume`` as one series into the new folder ``folder``; returns its files in spatial order.

    CT (in HU) becomes int16 with slope 1, intercept 0, clamped to [-1024, 3071]. MR is written exactly when its values
    are whole numbers of 16 bits, else on 65,536 levels with slope and intercept declared, the same for the series.
    DX and CR (one image each) are whole numbers 0..65535, without a place in the patient. Geometry is the affine's,
    at any orientation; slices run along the right-handed normal, so a left-handed volume reads back as
    ``right_handed(volume)``. ``window`` (low, high, in the volume's unit) is the display window and defaults to the
    range of the values. ``form`` asks for one file per slice, or for one enhanced multi-frame file (CT and MR), in a
    transfer syntax; all of them keep each bit. Nothing of ``volume.meta`` is written.

    The folder appears by one rename, whole or not at all. Raises InputError before anything is written: another
    modality or unit, NaN, sheared axes, a folder that is not empty, grey levels that rounding would lose, a form
    that cannot hold the image.
    """
    folder = Path(folder)
    if faults := [*_faults(volume, folder, window), *_form_faults(volume, folder, provenance, form)]:
        raise InputError(*faults)
    volume = right_handed(volume)
    low, high = window or (float(volume.array.min()), float(volume.array.max()))
    stored, slope, intercept = _stored(volume)
    display = (low + high) / 2, max(high - low, 1.0 if slope == 1 else slope)
    dataset = Dataset()
    dataset.update(patient_elements(identity))
    dataset.update(provenance_elements(provenance, volume.modality))
    dataset.update(_pixel_elements(stored))
    measures = _plane_elements(volume, identity)
    measures.update(_rescale_elements(volume, slope, intercept))
    frames_KRC = stored.transpose(2, 1, 0)
    syntax = SYNTAXES[form.syntax]
    if form.kind == "enhanced":
        dataset.update(enhanced_elements(volume.modality, identity, measures, _positions(volume), display))
        return write_files([multi_frame(dataset, frames_KRC, syntax)], folder)
    dataset.SOPClassUID = SOP_CLASSES[volume.modality]
    dataset.ImageType = IMAGE_TYPES[volume.modality]
    dataset.update(modality_elements(volume.modality))
    dataset.update(measures)
    dataset.WindowCenter, dataset.WindowWidth = decimals(display)
    positions = None if volume.modality in PLANAR else _positions(volume)
    return write_files(single_frames(dataset, frames_KRC, positions, syntax, identity.new_uid), folder)


def _faults(volume: Volume, folder: Path, window: tuple[float, float] | None) -> list[Fault]:
    """All that is wrong with the volume or the place, before anything is written."""
    array, where = volume.array, f"DICOM series {folder}"
    faults = []
    if volume.modality not in ("CT", "MR", *PLANAR):
        faults.append(Fault(where, f"modality {volume.modality}", "CT, MR, DX or CR", "set data.modality"))
    if (volume.modality == "CT") != (volume.unit == "HU"):
        faults.append(Fault(where, f"{volume.modality} in {volume.unit}", "CT in HU, all else in a.u.",
                            "set the preprocess window in the unit of the modality"))  # fmt: skip
    if array.size == 0 or not np.isfinite(array).all():
        faults.append(Fault(where, "no voxels, NaN or infinite values", "finite values", "check the generator"))
    elif volume.modality in PLANAR:
        faults.extend(_planar_faults(volume, where, window))
    if not is_square(volume.affine):
        faults.append(Fault(where, "an affine with sheared axes", "axes at right angles", "resample the volume first"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        faults.append(Fault(str(folder), "something there already", "a new or empty folder", "choose another output"))
    return faults


def _form_faults(volume: Volume, folder: Path, provenance: Provenance, form: DicomForm) -> list[Fault]:
    """A form that cannot hold this image."""
    where, faults = f"DICOM series {folder}", []
    if form.kind == "enhanced" and volume.modality not in ENHANCED_CLASSES:
        faults.append(Fault(where, f"an enhanced {volume.modality} image", "enhanced CT or MR", SINGLE))
    if form.kind == "enhanced" and provenance.burned_in != "NO":  # the one value of C.8.15.2 and C.8.13.1
        said = provenance.burned_in or "that nobody judged"
        faults.append(Fault(where, f"Burned In Annotation {said} in an enhanced image", "NO", SINGLE))
    if form.syntax == "jpeg2000_lossless" and min(volume.array.shape[:2]) < SMALLEST_JPEG2000:
        faults.append(Fault(where, f"planes of {volume.array.shape[0]} × {volume.array.shape[1]} pixels in JPEG 2000",
                            f"{SMALLEST_JPEG2000} or more along each side",
                            "sample.transfer_syntax=explicit_little_endian or rle_lossless"))  # fmt: skip
    return faults


def _planar_faults(volume: Volume, where: str, window: tuple[float, float] | None) -> list[Fault]:
    """A DX image has no scale (its Rescale Slope is 1): values must be grey levels already, and of one image."""
    array, faults = volume.array, []
    if array.shape[2] != 1:
        faults.append(Fault(where, f"{array.shape[2]} slices", "one image for DX and CR", "write each image by itself"))
    low, high = window or (float(array.min()), float(array.max()))
    if (array != np.rint(array)).any() and high - low < 32:
        faults.append(Fault(where, f"fractions in a range of {high - low:g}", "grey levels, at least 32 of them",
                            "scale to 0..255, say (preprocess.low and preprocess.high)"))  # fmt: skip
    if array.min() < -0.5 or array.max() >= 65535.5:
        faults.append(Fault(where, f"values {array.min():g} to {array.max():g}", "0 to 65535",
                            "scale to grey levels (preprocess.low and preprocess.high)"))  # fmt: skip
    axes = np.abs(volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0))
    if axes.max(axis=0).min() < 1 - 1e-4:
        faults.append(Fault(where, "an oblique affine", "axes along the patient's, which is all a radiograph can tell",
                            "use geometry.projection_affine"))  # fmt: skip
    return faults


def _stored(volume: Volume) -> tuple[np.ndarray, float, float]:
    """Values as 16 bits with slope and intercept."""
    array = volume.array.astype(np.float64)
    if volume.modality == "CT":
        return np.clip(np.rint(array), *CT_RANGE).astype(np.int16), 1.0, 0.0
    if volume.modality in PLANAR:
        return np.rint(array).astype(np.uint16), 1.0, 0.0
    low, high = float(array.min()), float(array.max())
    if (array == np.rint(array)).all() and low >= 0 and high <= 65535:
        return array.astype(np.uint16), 1.0, 0.0
    intercept = float(format_number_as_ds(low))
    slope = float(format_number_as_ds((high - low) / 65535)) or 1.0
    return np.clip(np.rint((array - intercept) / slope), 0, 65535).astype(np.uint16), slope, intercept


def _pixel_elements(stored: np.ndarray) -> Dataset:
    """Image Pixel (PS3.3 C.7.6.3)."""
    dataset = Dataset()
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Columns, dataset.Rows = stored.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1 if stored.dtype.kind == "i" else 0
    dataset.LossyImageCompression = "00"
    return dataset


def _rescale_elements(volume: Volume, slope: float, intercept: float) -> Dataset:
    """Modality LUT (C.11.1)."""
    dataset = Dataset()
    dataset.RescaleSlope, dataset.RescaleIntercept = decimals([slope, intercept])
    dataset.RescaleType = "HU" if volume.unit == "HU" else "US"
    return dataset


def _plane_elements(volume: Volume, identity: SyntheticIdentity) -> Dataset:
    """Image Plane and Frame of Reference (C.7.6.2, C.7.4.1) of CT and MR; orientation and pixel size of DX and CR."""
    dataset = Dataset()
    i, j, k = volume.spacing
    axes = LPS_TO_RAS @ volume.affine[:3, :3] / np.array([i, j, k])
    if volume.modality in PLANAR:
        letters = {direction: letter for letter, direction in LETTERS.items()}
        dataset.PatientOrientation = [letters[tuple(np.rint(axes[:, n]).astype(int).tolist())] for n in (0, 1)]
        dataset.ImagerPixelSpacing = decimals([j, i])
        return dataset
    dataset.ImageOrientationPatient = decimals(axes[:, :2].T.reshape(-1))
    dataset.PixelSpacing = decimals([j, i])
    dataset.SliceThickness = decimals([k])[0]
    dataset.FrameOfReferenceUID = identity.frame_of_reference_uid
    dataset.PositionReferenceIndicator = ""
    dataset.SpacingBetweenSlices = decimals([k])[0]
    return dataset


def _positions(volume: Volume) -> np.ndarray:
    """Image Positions [K, 3] in LPS+ mm."""
    k = np.arange(volume.array.shape[2])[:, None]
    return (volume.affine[:3, 3] + k * volume.affine[:3, 2]) @ LPS_TO_RAS.T
