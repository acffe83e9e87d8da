"""What MONAI's LoadImage and SaveImage get wrong in silence, and imgsynth does not: both sides are asserted.

When a MONAI assertion fails, MONAI has been mended: rejoice, and remove that half of the test.
"""

from __future__ import annotations

import importlib.util
import inspect
import warnings

import numpy as np
import pytest
from monai.data import ITKReader, MetaTensor, PydicomReader
from monai.transforms import LoadImage, SaveImage
from pydicom import Dataset, dcmread, uid

from imgsynth.types import InputError
from imgsynth.volumes.dicom_index import read_dicom_folder
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.dicom_write import write_dicom_series
from imgsynth.volumes.provenance import Provenance, SyntheticIdentity
from imgsynth.volumes.volume import Volume


def monai_load(path) -> MetaTensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LoadImage(image_only=True, reader="PydicomReader")(path)


def spacing(image: MetaTensor) -> list[float]:
    return [round(float(mm), 3) for mm in np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)]


def in_order(make_series, ks=range(4), **changes) -> None:
    """Slices whose Instance Numbers follow space, so that MONAI's sorting is not what fails."""
    for k, path in zip(ks, make_series(ks, **changes), strict=True):
        dataset = dcmread(path)
        dataset.InstanceNumber = k + 1
        dataset.save_as(path)


def test_pain_13_two_series_in_a_folder(make_series, tmp_path):
    in_order(make_series, prefix="a")
    in_order(make_series, prefix="b", SeriesInstanceUID="1.2.3.9", RescaleIntercept=0)
    merged = monai_load(tmp_path / "scan")
    assert merged.shape == (6, 5, 8)  # eight slices of two series in one volume, not a word
    series = read_dicom_folder(tmp_path).series
    assert [one.shape for one in series] == [(6, 5, 4), (6, 5, 4)]


def test_pain_13_a_localizer_under_the_same_series(make_series, tmp_path):
    in_order(make_series)
    make_series([200], prefix="loc", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert spacing(monai_load(tmp_path / "scan"))[2] > 100  # true: 2.5 mm
    index = read_dicom_folder(tmp_path)
    assert index.series[0].spacing[2] == pytest.approx(2.5) and "LOCALIZER" in index.faults[0].got


def test_pain_13_a_missing_slice(make_series, tmp_path):
    in_order(make_series, [0, 1, 3])
    assert spacing(monai_load(tmp_path / "scan"))[2] == 3.75  # true: 2.5 mm, with a hole
    with pytest.raises(InputError, match=r"102\.500 to 107\.500|100\.000 to 102\.500"):
        read_dicom_series(sorted((tmp_path / "scan").iterdir()))


def test_order_by_instance_number_instead_of_space(make_series, tmp_path):
    make_series()  # Instance Numbers scrambled, as after a re-export
    image = monai_load(tmp_path / "scan")
    first_pixels = np.asarray(image)[0, 0, :]
    assert first_pixels.tolist() != sorted(first_pixels.tolist())
    (series,) = read_dicom_folder(tmp_path).series
    assert read_dicom_series(series).array[0, 0].tolist() == [-1024 + 100 * k for k in range(6)]


HOUNSFIELD = np.linspace(-1000, 2000, 3 * 5 * 2, dtype=np.float32).round().reshape(3, 5, 2)


def test_pain_14_saving_dicom_loses_hounsfield_units(tmp_path):
    pytest.importorskip("itk", reason="MONAI writes DICOM through ITK, which is not installed")
    save = SaveImage(tmp_path, output_ext=".dcm", output_dtype=np.int16, separate_folder=False, print_log=False,
                     resample=False, writer="ITKWriter")  # fmt: skip
    save(MetaTensor(HOUNSFIELD[None], affine=np.diag([0.7, 0.8, 2.5, 1.0])))
    (path,) = tmp_path.glob("*.dcm")
    theirs = dcmread(path)
    assert theirs.Modality == "OT" and theirs.BitsAllocated == 8  # int16 was asked for
    assert (theirs.RescaleIntercept, theirs.RescaleType) == (0, "US") and theirs.pixel_array.min() >= 0


def test_pain_14_ours_keeps_hounsfield_units_and_geometry(tmp_path):
    assert_ours_keeps_them(HOUNSFIELD, np.diag([0.7, 0.8, 2.5, 1.0]), tmp_path)


def assert_ours_keeps_them(array, affine, tmp_path) -> None:
    made = Provenance("test", "none", "0", 8.0, 1e-5, "patient", burned_in="NO")
    files = write_dicom_series(Volume(array, affine, "CT", "HU"), tmp_path / "ours", SyntheticIdentity("SYN-1"), made)
    ours = dcmread(files[0])
    assert (ours.Modality, ours.BitsAllocated, ours.RescaleType) == ("CT", 16, "HU")
    read = read_dicom_series(files)
    assert np.array_equal(read.array, array) and np.allclose(read.affine, affine) and read.unit == "HU"


def test_pain_15_the_series_cannot_be_chosen(make_series, tmp_path):
    """The ITK reader takes a ``series_name`` and the first series all the same; the pydicom reader takes none."""
    in_order(make_series, prefix="a")
    in_order(make_series, prefix="b", SeriesInstanceUID="1.2.3.9", RescaleIntercept=0)
    assert "series_name" not in inspect.signature(PydicomReader.__init__).parameters
    if importlib.util.find_spec("itk"):
        load = LoadImage(image_only=True, reader=ITKReader(series_name="1.2.3.9"))
        assert float(load(tmp_path / "scan").min()) == -1024  # of the other series
    (wanted,) = [one for one in read_dicom_folder(tmp_path).series if one.uid == "1.2.3.9"]
    assert read_dicom_series(wanted).array[0, 0].tolist() == [0, 100, 200, 300]


def enhanced(make_slice) -> Dataset:
    """Three frames of 4 rows and 5 columns, at 2 mm."""

    def item(**elements):
        one = Dataset()
        for keyword, value in elements.items():
            setattr(one, keyword, value)
        return one

    frames = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    dataset = make_slice(0, frames, SOPClassUID=uid.EnhancedMRImageStorage, Modality="MR", NumberOfFrames=3,
                         RescaleSlope=None, RescaleIntercept=None, ImagePositionPatient=None,
                         ImageOrientationPatient=None, PixelSpacing=None, SliceThickness=None)  # fmt: skip
    dataset.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=[0.75, 0.5], SliceThickness=2.0)],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2.0 * k])]) for k in range(3)
    ]
    return dataset


def test_pain_16_axes_of_multi_frame_files(make_slice, save, tmp_path):
    path = save(enhanced(make_slice), tmp_path / "enhanced.dcm")
    image = monai_load(path)
    volume = read_dicom_series([path])
    assert volume.array.shape == (5, 4, 3) and volume.spacing == pytest.approx((0.5, 0.75, 2.0))
    assert volume.array[1, 2].tolist() == [11, 31, 51]  # column 1, row 2, of each frame
    assert tuple(image.shape) != volume.array.shape or spacing(image) != [0.5, 0.75, 2.0]


def test_pain_17_series_metadata_are_dropped_or_taken_whole(make_series, tmp_path):
    """MONAI's meta of a series keeps no PatientID under its name; ours carries its allow-list, and only that."""
    in_order(make_series)
    assert "PatientID" not in monai_load(tmp_path / "scan").meta
    (series,) = read_dicom_folder(tmp_path).series
    meta = read_dicom_series(series).meta
    assert meta["PatientID"] == "patient-1" and meta["PatientSex"] == "F" and "PatientName" not in meta


def test_pain_18_spacing_of_a_single_slice(make_series, tmp_path):
    (path,) = make_series([0])
    assert spacing(monai_load(path))[2] == 1.0  # true: 5 mm
    assert read_dicom_series([path]).spacing[2] == pytest.approx(5.0)
