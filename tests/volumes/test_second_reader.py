"""Real files against SimpleITK (GDCM), which shares no code with pydicom: intensities, order, place in space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from odd_files import MISC
from pydicom import dcmread

from imgsynth.volumes.archives import on_disk
from imgsynth.volumes.dicom_index import read_dicom_folder
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.volume import Volume

sitk = pytest.importorskip("SimpleITK")
pytestmark = pytest.mark.realdata
READ = [name for name, expected in MISC.items() if not isinstance(expected, str)]
IN_SPACE = ("CT", "MR")


def second(path: Path | list[str]) -> tuple[np.ndarray, np.ndarray]:
    """SimpleITK's array as [column, row, slice] and its affine in RAS+ mm."""
    image = sitk.ReadImage(str(path) if isinstance(path, Path) else path)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, np.diag([-1.0, -1, 1, 1]) @ affine


def assert_same(volume: Volume, path: Path | list[str]) -> None:
    array, affine = second(path)
    np.testing.assert_allclose(
        volume.array, np.maximum(array, -1024) if volume.unit == "HU" else array, rtol=1e-6, atol=1e-3
    )
    if volume.modality in IN_SPACE:
        axes = slice(0, 3) if volume.array.shape[2] > 1 else slice(0, 2)  # a single slice's thickness is told otherwise
        np.testing.assert_allclose(volume.affine[:, axes], affine[:, axes], atol=1e-4)
        np.testing.assert_allclose(volume.affine[:, 3], affine[:, 3], atol=1e-3)


@pytest.mark.parametrize("name", READ)
def test_each_odd_file_that_is_read_is_read_as_by_gdcm_and_by_pydicom(real_data, name):
    path = real_data / "dicom" / "pydicom_misc" / name
    volume, dataset = read_dicom_series([path]), dcmread(path)
    stored = dataset.pixel_array * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    if dataset.PhotometricInterpretation == "MONOCHROME1":  # which pydicom leaves as it is stored
        stored = 2**dataset.BitsStored - 1 - stored
    np.testing.assert_allclose(volume.array[:, :, 0].T, stored, rtol=1e-6, atol=1e-3)
    assert_same(volume, path)


def test_an_enhanced_ct_is_placed_as_by_gdcm(real_data, tmp_path):
    dataset = dcmread(real_data / "dicom" / "pydicom_misc" / "eCT_Supplemental.dcm")
    dataset.PixelPresentation = "MONOCHROME"
    dataset.save_as(tmp_path / "ect.dcm")
    volume = read_dicom_series([tmp_path / "ect.dcm"])
    array, affine = second(tmp_path / "ect.dcm")
    ours = {tuple(np.round(volume.affine @ [0, 0, k, 1], 3)[:3]): volume.array[:, :, k] for k in range(2)}
    for k in range(2):  # the two disagree on which slice is first, not on where each is
        place = np.round(affine @ [0, 0, k, 1], 3)[:3]
        nearest = min(ours, key=lambda p: float(np.linalg.norm(np.array(p) - place)))
        np.testing.assert_allclose(nearest, place, atol=1e-3)
        np.testing.assert_array_equal(ours[nearest], array[:, :, k])


def test_the_zip_of_a_whole_series_is_read_as_by_gdcm(real_data):
    (series,) = read_dicom_folder(real_data / "dicom" / "studyforrest_t1_series.zip").series
    some = replace(
        series, slices=series.slices[::8], shape=(*series.shape[:2], 48), affine=series.affine @ np.diag([1, 1, 8, 1])
    )
    assert_same(read_dicom_series(some), [str(on_disk(path)) for path in some.files])


def test_the_zip_of_ct_slices_is_read_as_by_gdcm(real_data):
    index = read_dicom_folder(real_data / "dicom" / "nysbu_ct_dev.zip")
    assert len(index.series) == 36 and not index.faults
    for series in index.series[::3]:
        assert_same(read_dicom_series(series), on_disk(series.files[0]))
