"""Real files, as hospitals and archives export them: each is read right, or refused by file and tag."""

from __future__ import annotations

import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from odd_files import MISC
from pydicom import dcmread

from imgsynth.types import InputError
from imgsynth.volumes.dicom_index import read_dicom_folder
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.nifti import read_nifti, write_nifti
from imgsynth.volumes.npz import read_npz, row_volume

pytestmark = pytest.mark.realdata


def unpacked(real_data: Path, name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(name)
    with zipfile.ZipFile(real_data / "dicom" / f"{name}.zip") as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def studyforrest(real_data, tmp_path_factory) -> Path:
    return unpacked(real_data, "studyforrest_t1_series", tmp_path_factory)


@pytest.fixture(scope="module")
def nysbu(real_data, tmp_path_factory) -> Path:
    return unpacked(real_data, "nysbu_ct_dev", tmp_path_factory)


def test_a_whole_mr_series_beside_its_licence(studyforrest):
    index = read_dicom_folder(studyforrest)
    (series,) = index.series
    assert not index.faults and series.modality == "MR" and series.shape == (274, 384, 384)
    assert series.spacing == pytest.approx((0.69998783, 0.66666669, 0.66666669), abs=1e-6)
    volume = read_dicom_series(series)
    assert volume.unit == "a.u." and volume.orientation == "LPS"
    middle = dcmread(series.files[200])
    assert np.array_equal(volume.array[:, :, 200].T, middle.pixel_array)
    lps = volume.affine @ [0, 0, 200, 1] * [-1, -1, 1, 1]
    assert np.allclose(lps[:3], middle.ImagePositionPatient, atol=1e-3)


def test_single_ct_slices_in_three_planes(nysbu):
    index = read_dicom_folder(nysbu)
    assert len(index.series) == 36 and not index.faults
    plane = {"axial": "LPS", "coronal": "LIP", "sagittal": "PIR"}
    thickness = set()
    for series in index.series:
        volume = read_dicom_series(series)
        path = series.files[0]
        dataset = dcmread(path)
        assert volume.unit == "HU" and volume.array.shape == (512, 512, 1)
        assert volume.orientation == plane[path.parent.name]
        hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        assert np.array_equal(volume.array[:, :, 0].T, np.maximum(hu, -1024))
        assert volume.spacing[2] == pytest.approx(float(dataset.SliceThickness))
        thickness.add(round(volume.spacing[2], 2))
    assert thickness == {1.25, 2.5, 3.0, 5.0}
    assert len({series.meta["PatientID"] for series in index.series}) == 6


def test_the_table_has_every_odd_file(real_data):
    assert {path.name for path in (real_data / "dicom" / "pydicom_misc").iterdir()} == set(MISC)


@pytest.mark.parametrize("name", MISC)
def test_odd_files_are_read_right_or_refused_by_file_and_tag(real_data, name):
    path, expected = real_data / "dicom" / "pydicom_misc" / name, MISC[name]
    if isinstance(expected, str):
        with pytest.raises(InputError) as caught:
            read_dicom_series([path])
        (fault,) = caught.value.faults
        assert fault.where == str(path) and expected in fault.got
        return
    modality, unit, shape, low, high = expected
    volume = read_dicom_series([path])
    assert (volume.modality, volume.unit, volume.array.shape) == (modality, unit, shape)
    assert (volume.array.min(), volume.array.max()) == pytest.approx((low, high), abs=1e-3)
    assert np.isfinite(volume.array).all()


def test_monochrome1_of_a_real_radiograph_is_inverted(real_data):
    path = real_data / "dicom" / "pydicom_misc" / "RG3_J2KI.dcm"
    assert np.array_equal(read_dicom_series([path]).array[:, :, 0].T, 1023 - dcmread(path).pixel_array.astype(int))


def test_the_same_files_as_a_folder_crash_nothing(real_data):
    index = read_dicom_folder(real_data / "dicom" / "pydicom_misc")
    assert len(index.faults) >= 16 and {series.modality for series in index.series} >= {"CT", "MR", "CR", "US"}


def test_an_enhanced_ct_is_read_through_its_functional_groups(real_data, tmp_path):
    """The supplemental-colour CT, declared monochrome."""
    dataset = dcmread(real_data / "dicom" / "pydicom_misc" / "eCT_Supplemental.dcm")
    dataset.PixelPresentation = "MONOCHROME"
    dataset.save_as(tmp_path / "ect.dcm")
    volume = read_dicom_series([tmp_path / "ect.dcm"])
    assert volume.unit == "a.u." and volume.array.shape == (512, 512, 2)  # Rescale Type US: no HU
    assert volume.spacing == pytest.approx((0.388672, 0.388672, 10.0))
    assert volume.affine[:3, 3].tolist() == [-99.5, 301.5, -149.0]  # the normal points down: the upper frame is first
    assert np.array_equal(volume.array[:, :, 0].T, dataset.pixel_array[1] - 1024.0)


def test_nifti_of_hippocampi_and_their_masks(real_data, tmp_path):
    folder = real_data / "msd_hippocampus"
    paths = sorted((folder / "imagesTr").glob("*.nii.gz"))
    assert len(paths) == 180
    for path in paths[::30]:
        volume, mask = read_nifti(path, "MR"), read_nifti(folder / "labelsTr" / path.name)
        assert np.array_equal(volume.array, nib.load(path).get_fdata(dtype=np.float32))
        assert volume.orientation == "RAS" and np.allclose(volume.affine, mask.affine)
        assert set(np.unique(mask.array)) == {0, 1, 2}
        again = read_nifti(write_nifti(volume, tmp_path / path.name))
        assert np.array_equal(again.array, volume.array) and np.allclose(again.affine, volume.affine)


def test_nifti_in_las_stays_as_it_is(real_data, tmp_path):
    path = next((real_data / "brain_t1w_2mm").glob("*.nii.gz"))
    volume = read_nifti(path, "MR")
    assert volume.orientation == "LAS" and volume.array.shape == (78, 103, 81)
    again = read_nifti(write_nifti(volume, tmp_path / "brain.nii.gz"))
    assert np.array_equal(again.array, volume.array) and np.allclose(again.affine, volume.affine, atol=1e-4)


def test_npz_radiographs_and_medmnist(real_data):
    source = read_npz(real_data / "nih_cxr_256.npz")
    volume = row_volume(source.array("images")[5], "CR")
    assert np.array_equal(volume.array[:, :, 0].T, source.array("images")[5])
    assert len(np.unique(source.array("patient_ids"))) == 478
    parts = read_npz(real_data / "pneumoniamnist_28.npz").medmnist()
    assert {part: (len(x), set(np.unique(y))) for part, (x, y) in parts.items()} == {
        "train": (4708, {0, 1}), "val": (524, {0, 1}), "test": (624, {0, 1})}  # fmt: skip
