"""NIfTI files: nibabel's reading of ours, ours of nibabel's, and what is refused."""

from __future__ import annotations

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from imgsynth.types import InputError
from imgsynth.volumes.nifti import read_nifti, write_nifti
from imgsynth.volumes.volume import Volume

AFFINE = np.array([[0, -0.5, 0, 12.0], [0.75, 0, 0, -7], [0, 0, 2, 3], [0, 0, 0, 1]])


def a_volume(array=None, **changes):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4) if array is None else np.asarray(array, np.float32)
    return Volume(**{"array": array, "affine": AFFINE, "modality": "CT", "unit": "HU", **changes})


def test_the_header_says_where_and_nothing_else(tmp_path):
    path = write_nifti(a_volume(), tmp_path / "sub-syn0001_T1w.nii.gz", "synthetic, imgsynth")
    image = nib.load(path)
    header = image.header
    assert np.array_equal(image.get_fdata(), a_volume().array) and np.allclose(image.affine, AFFINE)
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    assert np.allclose(header.get_qform(), header.get_sform(), atol=1e-6)
    assert header.get_xyzt_units()[0] == "mm" and header.get_data_dtype() == np.int16
    assert bytes(header["descrip"]).rstrip(b"\0") == b"synthetic, imgsynth"
    assert len(header.extensions) == 0
    stored = gzip.decompress(path.read_bytes())
    assert b"sub-syn" not in stored and path.read_bytes()[3] == 0  # gzip FLG: no file name
    assert path.read_bytes()[4:8] == bytes(4)  # nor a time


def test_the_sidecar_tells_unit_modality_and_what_the_caller_adds(tmp_path):
    path = write_nifti(a_volume(), tmp_path / "v.nii.gz", sidecar={"Epsilon": 8.0})
    assert json.loads((tmp_path / "v.json").read_text()) == {"Epsilon": 8.0, "Modality": "CT", "IntensityUnit": "HU"}
    read = read_nifti(path)
    assert (read.modality, read.unit) == ("CT", "HU")


@pytest.mark.parametrize(
    ("values", "kind"),
    [([-32768, 32767], np.int16), ([0, 32768], np.float32), ([0, 0.5], np.float32), ([-32769, 0], np.float32)],
)
def test_whole_numbers_of_16_bits_are_int16(tmp_path, values, kind):
    path = write_nifti(a_volume(np.reshape(values, (2, 1, 1))), tmp_path / "v.nii")
    assert nib.load(path).header.get_data_dtype() == kind
    assert read_nifti(path).array[:, 0, 0].tolist() == values


def test_without_a_sidecar_the_caller_says_and_ct_means_hounsfield(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), AFFINE), tmp_path / "a.nii")
    said = [(v.modality, v.unit) for v in (read_nifti(tmp_path / "a.nii", *w) for w in
            [(), ("MR",), ("CT",), ("CT", "a.u.")])]  # fmt: skip
    assert said == [("OT", "a.u."), ("MR", "a.u."), ("CT", "HU"), ("CT", "a.u.")]


def test_a_contradicting_sidecar_is_refused(tmp_path):
    path = write_nifti(a_volume(), tmp_path / "v.nii")
    with pytest.raises(InputError, match=r"v\.json.*Modality CT.*MR"):
        read_nifti(path, "MR")
    with pytest.raises(InputError, match=r"v\.json.*IntensityUnit HU"):
        read_nifti(path, unit="a.u.")
    (tmp_path / "v.json").write_text("{")
    with pytest.raises(InputError, match=r"v\.json.*unreadable JSON"):
        read_nifti(path)


def test_stored_scaling_and_units_of_length_are_applied(tmp_path):
    image = nib.Nifti1Image(np.array([[[1, 2]]], np.int16), np.diag([0.001, 0.002, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    image.header.set_slope_inter(2, -1000)
    nib.save(image, tmp_path / "m.nii")
    volume = read_nifti(tmp_path / "m.nii")
    assert volume.spacing == pytest.approx((1, 2, 3), rel=1e-5)
    stored = nib.load(tmp_path / "m.nii").get_fdata()
    assert volume.array.tolist() == stored.tolist()


def test_two_axes_and_trailing_axes_of_one_are_a_volume(tmp_path):
    for name, shape in {"two": (3, 4), "five": (3, 4, 2, 1, 1)}.items():
        nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), AFFINE), tmp_path / f"{name}.nii")
    assert read_nifti(tmp_path / "two.nii").array.shape == (3, 4, 1)
    assert read_nifti(tmp_path / "five.nii").array.shape == (3, 4, 2)


def refused(tmp_path, image, match):
    nib.save(image, tmp_path / "bad.nii")
    with pytest.raises(InputError, match=r"bad\.nii: got .*" + match):
        read_nifti(tmp_path / "bad.nii")


def test_what_is_refused_names_the_file_and_the_field(tmp_path):
    refused(tmp_path, nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.float32), AFFINE), r"dim \(2, 2, 2, 3\)")
    refused(tmp_path, nib.Nifti1Image(np.zeros((2, 2, 2), np.complex64), AFFINE), "datatype complex64")
    rgb = np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(tmp_path, nib.Nifti1Image(rgb, AFFINE), "datatype")
    holes = np.zeros((2, 2, 2), np.float32)
    holes[0, 0, :2] = np.nan, np.inf
    refused(tmp_path, nib.Nifti1Image(holes, AFFINE), "2 voxels that are NaN or infinite")
    nowhere = nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), None)
    refused(tmp_path, nowhere, "qform_code = sform_code = 0")
    nib.save(nib.AnalyzeImage(np.zeros((2, 2, 2), np.float32), AFFINE), tmp_path / "old.img")
    for name in ("missing.nii", "old.img"):
        with pytest.raises(InputError, match=name):
            read_nifti(tmp_path / name)


@pytest.mark.parametrize("keep", [0, 5, 100, 347, 400])
def test_truncation_anywhere_is_refused(tmp_path, keep):
    path = write_nifti(a_volume(np.random.default_rng(0).normal(size=(8, 8, 8))), tmp_path / "v.nii.gz")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"v\.nii\.gz"):
        read_nifti(path)


def test_faults_of_writing_come_all_at_once_and_leave_nothing(tmp_path):
    sheared = AFFINE.copy()
    sheared[0, 0] = 0.4
    with pytest.raises(InputError) as caught:
        write_nifti(a_volume(np.full((2, 2, 2), np.nan), affine=sheared), tmp_path / "v.nii", "x" * 80)
    assert len(caught.value.faults) == 3 and list(tmp_path.iterdir()) == []
