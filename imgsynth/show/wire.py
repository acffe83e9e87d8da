"""A volume as the page takes it: a JSON header, then the voxels, their axes along the patient's."""

from __future__ import annotations

import json
import struct

import nibabel as nib
import numpy as np

from imgsynth.volumes.volume import Volume


def encode(volume: Volume) -> bytes:
    """The length of the header (4 bytes, little endian), the header, and the voxels as raw little-endian numbers.

    Voxels are of an array [right, anterior, superior], the first axis running fastest, each axis being the stored one
    that is nearest to that direction. The header has "shape", "spacing" (mm), "dtype" (int16 or uint16 where that is
    exact, else float32), "range" of the values, "unit", "modality", and "oblique", by how many degrees the axes are
    off. It is padded with blanks, so that the voxels begin at a multiple of 8 bytes.
    """
    to_ras = nib.orientations.io_orientation(volume.affine)
    array = _stored(nib.orientations.apply_orientation(volume.array, to_ras))
    spacing = [0.0, 0.0, 0.0]
    for axis, (target, _) in enumerate(to_ras):
        spacing[int(target)] = volume.spacing[axis]
    header = {
        "shape": array.shape,
        "spacing": spacing,
        "dtype": array.dtype.name,
        "range": [float(array.min()), float(array.max())],
        "unit": volume.unit,
        "modality": volume.modality,
        "oblique": round(_degrees_off(volume), 1),
    }
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 4) % 8)
    return struct.pack("<I", len(text)) + text + array.astype(array.dtype.newbyteorder("<")).tobytes(order="F")


def _stored(array: np.ndarray) -> np.ndarray:
    if (array == np.rint(array)).all():
        for kind in (np.int16, np.uint16):
            if np.iinfo(kind).min <= array.min() and array.max() <= np.iinfo(kind).max:
                return array.astype(kind)
    return array.astype(np.float32)


def _degrees_off(volume: Volume) -> float:
    """The largest angle between an array axis and the patient's axis that it is shown as."""
    axes = np.abs(volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0))
    return float(np.degrees(np.arccos(np.clip(axes.max(axis=0), 0, 1)).max()))
