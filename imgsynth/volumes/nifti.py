"""NIfTI-1 files and their JSON sidecars."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage

from imgsynth.files import atomic_path, write_json
from imgsynth.types import Fault, InputError, IntensityUnit
from imgsynth.volumes.geometry import is_square
from imgsynth.volumes.nifti_limits import check_header, check_reach
from imgsynth.volumes.volume import Volume

MILLIMETRES = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 0.001}
BROKEN = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, TypeError, OverflowError, MemoryError,
          IndexError, KeyError, AttributeError, AssertionError, RuntimeError, ZeroDivisionError, struct.error,
          zlib.error)  # fmt: skip


def sidecar_path(path: Path) -> Path:
    """``image.json`` beside ``image.nii`` or ``image.nii.gz``."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def read_nifti(path: Path, modality: str | None = None, unit: IntensityUnit | None = None) -> Volume:
    """Read a 3D (or single-slice) NIfTI file; the array is float32 as stored, the affine the sform, else the qform.

    Modality and unit come from the JSON sidecar (keys "Modality" and "IntensityUnit") or the arguments; they may not
    contradict each other. Where neither says: modality "OT", and HU for CT, a.u. for all else.

    Raises InputError naming file and field: unreadable or truncated, complex or colour values, more than three axes,
    neither qform nor sform, NaN or infinite values.
    """
    path = Path(path)
    try:
        check_header(path)
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Pair):
            raise _fault(path, type(image).__name__, "NIfTI", "convert it")
        kind = image.get_data_dtype()
        if kind.fields is not None or kind.kind not in "iuf":
            raise _fault(path, f"datatype {kind}", "real numbers", "convert it to a scalar image")
        check_reach(path, image.shape, kind.itemsize, image.dataobj.offset)
        array = np.asarray(image.dataobj, dtype=np.float32)
        affine = _affine(image, path)
    except BROKEN as error:
        raise _fault(path, f"unreadable NIfTI ({error})", "a whole NIfTI-1 or NIfTI-2 file", "export it again",
                     "unreadable") from error  # fmt: skip
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.size == 0:
        raise _fault(path, f"dim {array.shape}", "three axes", "split time points or channels into files")
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise _fault(path, f"{count} voxels that are NaN or infinite", "finite values", "repair or leave out the file",
                     "not_finite")  # fmt: skip
    return Volume(array, affine, *_says(path, modality, unit))


def write_nifti(
    volume: Volume, path: Path, description: str = "", sidecar: dict[str, Any] | None = None, durable: bool = True
) -> Path:
    """Write ``volume`` and its sidecar, each whole or not at all; array, affine and unit read back the same.

    qform and sform are equal with code 1 (scanner), units mm; uint8 as it is (a mask), int16 when every value is a
    whole number in its range, else float32, without scaling. ``description`` (at most 79 bytes) is the header's only
    text: no extension, no file name. ``durable``: whole after a power cut too.

    Raises InputError before anything is written: no finite values, a sheared affine (a qform cannot carry it).
    """
    path = Path(path)
    if faults := _faults(volume, path, description):
        raise InputError(*faults)
    array = _storable(volume.array)
    image = nib.Nifti1Image(array, volume.affine)
    image.set_qform(volume.affine, code=1)
    image.set_sform(volume.affine, code=1)
    image.header.set_xyzt_units("mm", "unknown")
    image.header.set_slope_inter(1, 0)
    image.header["descrip"] = description.encode()
    facts = {**(sidecar or {}), "Modality": volume.modality, "IntensityUnit": volume.unit}
    with atomic_path(path, durable) as partial:
        # gzip would store the temporary name and the clock: write the stream ourselves, with neither.
        data = image.to_bytes()
        partial.write_bytes(_gzip(data) if path.suffix == ".gz" else data)
    write_json(sidecar_path(path), facts, durable)
    return path


def _faults(volume: Volume, path: Path, description: str) -> list[Fault]:
    faults = []
    if volume.array.size == 0 or not np.isfinite(volume.array).all():
        faults.append(Fault(str(path), "no voxels, NaN or infinite values", "finite values", "check the generator"))
    if not is_square(volume.affine):
        faults.append(Fault(str(path), "an affine with sheared axes", "axes at right angles", "resample it first"))
    if (size := len(description.encode())) > 79:
        faults.append(Fault(str(path), f"a description of {size} bytes", "at most 79", "shorten it"))
    return faults


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)  # 31: a gzip wrapper with an empty header
    return packer.compress(data) + packer.flush()


def _storable(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    whole = array.size > 0 and bool((array == np.rint(array)).all())
    if whole and array.min() >= -(2**15) and array.max() < 2**15:
        return array.astype(np.int16)
    return array.astype(np.float32)


def _affine(image: SpatialImage, path: Path) -> np.ndarray:
    header = image.header
    if int(header["qform_code"]) == 0 and int(header["sform_code"]) == 0:
        raise _fault(path, "qform_code = sform_code = 0 (left and right cannot be told)", "an orientation",
                     "set the sform from the source of the image")  # fmt: skip
    unit = header.get_xyzt_units()[0]
    if unit not in MILLIMETRES:
        raise _fault(path, f"xyzt_units {unit}", "millimetres", "convert the header")
    affine = np.asarray(image.affine, dtype=float)
    affine = np.diag([MILLIMETRES[unit]] * 3 + [1.0]) @ affine
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise _fault(path, f"an affine that cannot be inverted {affine.tolist()}", "three axes in space",
                     "repair the sform or qform")  # fmt: skip
    return affine


def _says(path: Path, modality: str | None, unit: IntensityUnit | None) -> tuple[str, IntensityUnit]:
    """Modality and unit from the sidecar and the caller, who may not contradict each other."""
    beside = sidecar_path(path)
    told: dict[str, Any] = {}
    if beside.is_file():
        try:
            told = json.loads(beside.read_text(encoding="utf-8"))
            if not isinstance(told, dict):
                raise ValueError(f"{type(told).__name__}")
        except (ValueError, RecursionError) as error:
            raise _fault(beside, f"unreadable JSON ({error})", "a JSON object", "repair the sidecar") from error
    found_modality, found_unit = told.get("Modality"), told.get("IntensityUnit")
    if modality and found_modality and modality != found_modality:
        raise _fault(beside, f"Modality {found_modality}", modality, "correct the sidecar or data.modality")
    if found_unit not in (None, "HU", "a.u.") or (unit and found_unit and unit != found_unit):
        raise _fault(beside, f"IntensityUnit {found_unit}", unit or "HU or a.u.", "correct the sidecar")
    modality = modality or found_modality or "OT"
    return modality, unit or found_unit or ("HU" if modality == "CT" else "a.u.")


def _fault(path: Path, got: str, expected: str, remedy: str, code: str = "") -> InputError:
    return InputError(Fault(str(path), got, expected, remedy, code))
