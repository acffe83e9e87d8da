"""Voxels arrive along the patient's axes, in the smallest kind of number that is exact."""

from __future__ import annotations

import json
import struct
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from imgsynth.show.wire import encode
from imgsynth.volumes.volume import Volume


def decode(content: bytes) -> tuple[dict, np.ndarray]:
    (length,) = struct.unpack_from("<I", content)
    header = json.loads(content[4 : 4 + length])
    assert (4 + length) % 8 == 0  # where typed arrays of the page may begin
    voxels = np.frombuffer(content, np.dtype(header["dtype"]).newbyteorder("<"), offset=4 + length)
    return header, voxels.reshape(header["shape"], order="F")


@pytest.mark.parametrize("axes", list(permutations(range(3))), ids=str)
def test_axes_are_the_patients_whatever_they_were(axes: tuple[int, ...]) -> None:
    array = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    for signs in product((1, -1), repeat=3):
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3)[:, axes] * np.array(signs) * [1.0, 2.5, 0.7]
        header, voxels = decode(encode(Volume(array, affine, "MR", "a.u.")))
        expected = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
        np.testing.assert_array_equal(voxels, expected.get_fdata())
        np.testing.assert_allclose(header["spacing"], expected.header.get_zooms(), rtol=1e-6)
        assert header["oblique"] == 0 and header["range"] == [0, 23]


@pytest.mark.parametrize(
    ("values", "kind"),
    [([-32768, 32767], "int16"), ([0, 32768], "uint16"), ([0, 65535], "uint16"), ([-1, 32768], "float32"),
     ([0, 65536], "float32"), ([0, 0.5], "float32")],
)  # fmt: skip
def test_numbers_are_exact(values: list[float], kind: str) -> None:
    header, voxels = decode(encode(Volume(np.array(values, np.float32).reshape(2, 1, 1), np.eye(4), "MR", "a.u.")))
    assert header["dtype"] == kind and voxels.ravel().tolist() == values


def test_slanted_axes_are_said_to_be() -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    header, _ = decode(encode(Volume(np.zeros((2, 3, 4), np.float32), turn, "MR", "a.u.")))
    assert header["oblique"] == round(np.degrees(0.3), 1) and header["shape"] == [2, 3, 4]
