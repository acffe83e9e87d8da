"""What every format that volumes are written in promises. A new format joins by one line in FORMATS.

Write → read is the identity for array, affine and unit, at any orientation: all 48 orders and directions of the axes,
turned by any rotation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from imgsynth.types import InputError
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.dicom_write import SINGLE_FRAMES, DicomForm, write_dicom_series
from imgsynth.volumes.nifti import read_nifti, write_nifti
from imgsynth.volumes.provenance import Provenance, SyntheticIdentity
from imgsynth.volumes.volume import Volume

MADE = Provenance("test", "none", "0", 8.0, 1e-5, "patient", burned_in="NO")


@dataclass(frozen=True)
class Format:
    name: str
    write: Callable[[Volume, Path], list[Path]]
    read: Callable[[list[Path]], Volume]
    left_handed: bool  # whether left-handed arrays are stored as they are, or with the slice axis the other way


def write_dicom(volume: Volume, folder: Path, form: DicomForm = SINGLE_FRAMES) -> list[Path]:
    return write_dicom_series(volume, folder / "s", SyntheticIdentity("SYN-1"), MADE, form=form)


FORMATS = [
    Format("nifti", lambda v, d: [write_nifti(v, d / "v.nii")], lambda p: read_nifti(p[0]), True),
    Format("nifti.gz", lambda v, d: [write_nifti(v, d / "v.nii.gz")], lambda p: read_nifti(p[0]), True),
    Format("dicom", write_dicom, read_dicom_series, False),
    Format("dicom.enhanced", lambda v, d: write_dicom(v, d, DicomForm("enhanced")), read_dicom_series, False),
    Format("dicom.rle", lambda v, d: write_dicom(v, d, DicomForm(syntax="rle_lossless")), read_dicom_series, False),
]  # fmt: skip

each_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
AXES = [
    np.eye(3)[list(order)].T * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def volume_of(axes: np.ndarray, spacing, origin, array: np.ndarray, modality: str) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array(spacing)
    affine[:3, 3] = origin
    return Volume(array.astype(np.float32), affine, modality, "HU" if modality == "CT" else "a.u.")


def assert_same_image(read: Volume, written: Volume, tolerance: float = 0.0) -> None:
    """Every voxel that was read lies, within a micron, where one was written, with its value; and none is lost."""
    assert read.array.size == written.array.size
    ijk = np.indices(read.array.shape).reshape(3, -1)
    mm = read.affine[:3, :3] @ ijk + read.affine[:3, 3:]
    back = np.linalg.solve(written.affine[:3, :3], mm - written.affine[:3, 3:])
    assert np.abs(back - back.round()).max() < 1e-3
    values = written.array[tuple(back.round().astype(int))]
    assert np.abs(read.array.reshape(-1) - values).max() <= tolerance
    assert (read.unit, read.modality) == (written.unit, written.modality)


@each_format
@pytest.mark.parametrize("axes", AXES, ids=lambda axes: "".join(map(str, (axes @ [1, 2, 3]).astype(int))))
def test_identity_for_all_48_orders_and_directions_of_axes(fmt, axes, tmp_path):
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4) - 12.0
    written = volume_of(axes, (0.7, 1.1, 2.5), (-10.25, 20.5, 33.125), array, "CT")
    read = fmt.read(fmt.write(written, tmp_path))
    assert_same_image(read, written)
    if fmt.left_handed or np.linalg.det(axes) > 0:
        assert np.array_equal(read.array, written.array)
        assert np.allclose(read.affine, written.affine, atol=1e-5)


@each_format
@settings(max_examples=60)
@given(
    axes=st.sampled_from(AXES),
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 9)] * 3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    modality=st.sampled_from(["CT", "MR"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_identity_for_any_orientation(fmt, axes, turn, spacing, origin, shape, modality, seed, tmp_path_factory):
    rotation = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    low, high = (-1024, 3072) if modality == "CT" else (0, 65536)
    array = np.random.default_rng(seed).integers(low, high, shape)
    written = volume_of(rotation @ axes, spacing, origin, array, modality)
    read = fmt.read(fmt.write(written, tmp_path_factory.mktemp("format")))
    assert_same_image(read, written)
    if fmt.left_handed or np.linalg.det(axes) > 0:
        assert np.array_equal(read.array, written.array)
        assert np.allclose(read.affine, written.affine, rtol=1e-5, atol=1e-4)


@each_format
@settings(max_examples=30)
@given(scale=st.floats(1e-6, 1e6), shift=st.floats(-1e3, 1e3), seed=st.integers(0, 2**32 - 1))
def test_fractions_keep_the_precision_of_their_storage(fmt, scale, shift, seed, tmp_path_factory):
    """Values that are not whole numbers come back to within one of 65,536 levels (DICOM), or exactly (NIfTI)."""
    array = (np.random.default_rng(seed).normal(size=(3, 4, 2)) + shift) * scale
    written = volume_of(np.eye(3), (1, 1, 1), (0, 0, 0), array, "MR")
    read = fmt.read(fmt.write(written, tmp_path_factory.mktemp("format")))
    step = float(np.ptp(written.array)) / 65535
    rounding = float(np.abs(written.array).max()) * 2**-22  # of float32
    assert_same_image(read, written, 0.0 if fmt.left_handed else step * 0.51 + rounding)


@each_format
def test_nothing_of_the_metadata_is_written(fmt, tmp_path):
    meta = {"PatientID": "SENTINEL-1", "InstitutionName": "SENTINEL-2", "StudyInstanceUID": "1.2.999.3"}
    volume = Volume(np.zeros((4, 4, 2), np.float32), np.eye(4), "MR", "a.u.", meta)
    fmt.write(volume, tmp_path)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    for path in written:
        for sentinel in (b"SENTINEL", b"1.2.999.3"):
            assert sentinel not in path.read_bytes() and sentinel.decode() not in str(path.relative_to(tmp_path))


@each_format
def test_a_sheared_affine_is_refused_before_anything_is_written(fmt, tmp_path):
    affine = np.eye(4)
    affine[0, 2] = 0.3
    with pytest.raises(InputError, match="sheared"):
        fmt.write(Volume(np.zeros((4, 4, 2), np.float32), affine, "MR", "a.u."), tmp_path)
    assert list(tmp_path.iterdir()) == []


@each_format
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_refused_before_anything_is_written(fmt, bad, tmp_path):
    array = np.zeros((4, 4, 2), np.float32)
    array[1, 1, 1] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        fmt.write(Volume(array, np.eye(4), "MR", "a.u."), tmp_path)
    assert list(tmp_path.iterdir()) == []


@each_format
def test_a_truncated_file_is_refused_by_name(fmt, tmp_path):
    array = np.random.default_rng(0).integers(0, 999, (9, 8, 3)).astype(np.float32)
    files = fmt.write(Volume(array, np.eye(4), "MR", "a.u."), tmp_path)
    files[0].write_bytes(files[0].read_bytes()[:-40])
    with pytest.raises(InputError, match=files[0].name):
        fmt.read(files)
