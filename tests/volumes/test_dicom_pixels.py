"""Stored pixels become intensities: rescale, padding, MONOCHROME1, signs, transfer syntaxes, frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread, uid
from pydicom.data import get_testdata_file

from imgsynth.types import InputError
from imgsynth.volumes.dicom_read import read_dicom_series


def stored_of(values, kind=np.uint16):
    return np.array(values, dtype=kind).reshape(1, -1)


def read_one(save, tmp_path, dataset, syntax=uid.ExplicitVRLittleEndian):
    return read_dicom_series([save(dataset, tmp_path / "one.dcm", syntax)])


def test_every_slice_has_its_own_slope_and_intercept(make_slice, save, tmp_path):
    files = [save(make_slice(k, RescaleSlope=k + 1, RescaleIntercept=-10 * k), tmp_path / f"{k}.dcm") for k in range(3)]
    volume = read_dicom_series(files)
    for k in range(3):
        assert np.array_equal(volume.array[:, :, k].T, (np.arange(30).reshape(5, 6) + 100 * k) * (k + 1.0) - 10 * k)


def test_padding_of_ct_is_the_floor_of_the_scale(make_slice, save, tmp_path):
    stored = stored_of([-2000, 0, 24, 1024, 3000], np.int16)
    volume = read_one(save, tmp_path, make_slice(0, stored, PixelPaddingValue=-2000))
    assert volume.array[:, 0, 0].tolist() == [-1024, -1024, -1000, 0, 1976]


def test_padding_inside_the_range_of_the_image_is_no_tissue(make_slice, save, tmp_path):
    """Declared padding is padding whatever its value: here it would read as 976 HU, denser than bone."""
    volume = read_one(save, tmp_path, make_slice(0, stored_of([2000, 24, 1024]), PixelPaddingValue=2000))
    assert volume.array[:, 0, 0].tolist() == [-1024, -1000, 0]


def test_undeclared_padding_below_the_scale_is_the_floor_too(make_slice, save, tmp_path):
    stored = stored_of([-2048, -1024, 40], np.int16)
    volume = read_one(save, tmp_path, make_slice(0, stored, RescaleIntercept=0))
    assert volume.array[:, 0, 0].tolist() == [-1024, -1024, 40]


def test_a_padding_range_is_padding_from_end_to_end(make_slice, save, tmp_path):
    dataset = make_slice(0, stored_of([99, 100, 150, 200, 201]), PixelPaddingValue=200, PixelPaddingRangeLimit=100)
    assert read_one(save, tmp_path, dataset).array[:, 0, 0].tolist() == [-925, -1024, -1024, -1024, -823]


def test_padding_written_in_the_other_sign_is_understood(make_slice, save, tmp_path):
    """63536 is -2000 in 16 bits: exports often write the padding of signed pixels as if they had no sign."""
    dataset = make_slice(0, stored_of([-2000, 1000], np.int16), SOPClassUID=uid.MRImageStorage, Modality="MR",
                         RescaleSlope=None, RescaleIntercept=None)  # fmt: skip
    dataset.add_new("PixelPaddingValue", "US", 63536)
    path = save(dataset, tmp_path / "one.dcm")
    assert read_dicom_series([path]).array[:, 0, 0].tolist() == [1000, 1000]


def test_padding_of_other_modalities_is_their_lowest_value(make_slice, save, tmp_path):
    files = []
    for k, values in enumerate([[0, 50, 60], [0, 0, 20]]):
        dataset = make_slice(k, stored_of(values), SOPClassUID=uid.MRImageStorage, Modality="MR", PixelPaddingValue=0,
                             RescaleSlope=None, RescaleIntercept=None)  # fmt: skip
        files.append(save(dataset, tmp_path / f"{k}.dcm"))
    volume = read_dicom_series(files)
    assert volume.unit == "a.u." and volume.array[:, 0].T.tolist() == [[20, 50, 60], [20, 20, 20]]


def radiograph(make_slice, stored, **changes):
    return make_slice(0, stored, SOPClassUID=uid.DigitalXRayImageStorageForPresentation, Modality="DX",
                      ImagePositionPatient=None, ImageOrientationPatient=None, RescaleSlope=None,
                      RescaleIntercept=None, SliceThickness=None, **changes)  # fmt: skip


def test_monochrome1_is_inverted_about_the_stored_bits(make_slice, save, tmp_path):
    dataset = radiograph(make_slice, stored_of([0, 1, 1000, 4095]), PhotometricInterpretation="MONOCHROME1",
                         BitsStored=12, HighBit=11)  # fmt: skip
    assert read_one(save, tmp_path, dataset).array[:, 0, 0].tolist() == [4095, 4094, 3095, 0]


def test_monochrome1_with_sign_and_padding(make_slice, save, tmp_path):
    """Padding of a negative image is its brightest value as stored, and must end up darkest."""
    dataset = radiograph(make_slice, stored_of([-128, 127, 100, 0], np.int8), PhotometricInterpretation="MONOCHROME1",
                         PixelPaddingValue=-128)  # fmt: skip
    dataset["PixelData"].VR = "OB"
    assert read_one(save, tmp_path, dataset).array[:, 0, 0].tolist() == [-128, -128, -101, -1]


def test_monochrome1_does_not_invert_hounsfield_units(make_slice, save, tmp_path):
    volume = read_one(save, tmp_path, make_slice(0, stored_of([24, 1064]), PhotometricInterpretation="MONOCHROME1"))
    assert volume.array[:, 0, 0].tolist() == [-1000, 40]


@pytest.mark.parametrize(
    ("kind", "unit"), [("HU", "HU"), ("Houndsfield Unit", "HU"), (None, "HU"), ("US", "a.u."), ("MGML", "a.u.")]
)
def test_the_unit_is_what_rescale_type_says(make_slice, save, tmp_path, kind, unit):
    dataset = make_slice(0)
    if kind:
        dataset.RescaleType = kind
    assert read_one(save, tmp_path, dataset).unit == unit


def test_slices_of_two_units_are_refused(make_slice, save, tmp_path):
    files = [save(make_slice(0), tmp_path / "0.dcm"), save(make_slice(1, RescaleType="US"), tmp_path / "1.dcm")]
    with pytest.raises(InputError, match=r"\(0028,1054\)"):
        read_dicom_series(files)


@pytest.mark.parametrize(
    ("changes", "tag"),
    [({"RescaleIntercept": None}, r"\(0028,1052\)"), ({"RescaleSlope": None}, r"\(0028,1053\)"),
     ({"RescaleSlope": 0}, r"\(0028,1053\)"), ({"ModalityLUTSequence": [Dataset()]}, r"\(0028,3000\)")],
)  # fmt: skip
def test_ct_without_a_linear_scale_is_refused(make_slice, save, tmp_path, changes, tag):
    with pytest.raises(InputError, match=tag) as caught:
        read_one(save, tmp_path, make_slice(0, **changes))
    assert "one.dcm" in str(caught.value)


@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian,
               uid.DeflatedExplicitVRLittleEndian],
)  # fmt: skip
@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_uncompressed_syntaxes_read_the_same(make_slice, save, tmp_path, syntax, kind):
    stored = stored_of([0, 1, 258, 3000, 32000 if kind is np.int16 else 65000], kind)
    dataset = make_slice(
        0, stored.astype(stored.dtype.newbyteorder(">")) if syntax == uid.ExplicitVRBigEndian else stored
    )
    assert np.array_equal(read_one(save, tmp_path, dataset, syntax).array[:, 0, 0], stored[0] - 1024.0)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_bare_data_set_without_preamble_reads_the_same(make_slice, tmp_path, implicit):
    path = tmp_path / "bare"
    make_slice(0).save_as(path, implicit_vr=implicit, little_endian=True)
    assert path.read_bytes()[:2] == b"\x08\x00"
    assert np.array_equal(read_dicom_series([path]).array[:, :, 0].T, np.arange(30).reshape(5, 6) - 1024)


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_bigendian.dcm",
             "MR_small_implicit.dcm", "MR_small_expb.dcm", "MR_small_padded.dcm"],
)  # fmt: skip
def test_compressed_files_are_the_plain_one(name):
    """The same image in RLE, JPEG 2000, JPEG-LS, other byte orders, and with trailing padding."""
    plain, other = (read_dicom_series([Path(str(get_testdata_file(n)))]) for n in ("MR_small.dcm", name))
    assert np.array_equal(plain.array, other.array) and np.array_equal(plain.affine, other.affine)


def test_pixels_that_cannot_be_decoded_name_the_file_and_the_tag():
    path = Path(str(get_testdata_file("JPEG2000-embedded-sequence-delimiter.dcm")))
    data = dcmread(path, stop_before_pixels=True)
    assert data.Rows
    with pytest.raises(InputError, match=r"embedded-sequence-delimiter.dcm.*\(7FE0,0010\)"):
        read_dicom_series([path])


def test_a_radiograph_stands_upright_unless_its_orientation_says_otherwise(make_slice, save, tmp_path):
    stored = np.arange(6, dtype=np.uint16).reshape(2, 3)
    dataset = radiograph(make_slice, stored, ImagerPixelSpacing=[0.2, 0.1])
    del dataset.PixelSpacing
    volume = read_one(save, tmp_path, dataset)
    assert volume.array[:, :, 0].T.tolist() == stored.tolist()
    assert volume.orientation == "LIP" and volume.spacing == pytest.approx((0.1, 0.2, 1.0))
    dataset.PatientOrientation = ["P", "F"]
    assert read_one(save, tmp_path, dataset).orientation == "PIR"


def test_a_radiograph_without_pixel_size_is_read_with_a_remark(make_slice, save, tmp_path):
    from imgsynth.volumes.dicom_index import read_dicom_folder

    dataset = radiograph(make_slice, np.ones((2, 3), np.uint16), PixelSpacing=None)
    save(dataset, tmp_path / "dx.dcm")
    (series,) = read_dicom_folder(tmp_path).series
    assert series.spacing == (1.0, 1.0, 1.0) and "(0028,0030)" in series.faults[0].got


# Enhanced multi-frame images ------------------------------------------------------------------------------------------


def enhanced(make_slice, order, **macro):
    """An Enhanced MR of frames in the given spatial ``order``; ``macro`` changes the first frame's groups."""
    frames = np.stack([np.full((4, 5), 10 * k, np.uint16) for k in order])
    dataset = make_slice(0, frames, SOPClassUID=uid.EnhancedMRImageStorage, Modality="MR", ImagePositionPatient=None,
                         ImageOrientationPatient=None, PixelSpacing=None, SliceThickness=None, RescaleSlope=None,
                         RescaleIntercept=None, NumberOfFrames=len(order))  # fmt: skip

    def item(**elements):
        one = Dataset()
        for keyword, value in elements.items():
            setattr(one, keyword, value)
        return one

    dataset.SharedFunctionalGroupsSequence = [
        item(PixelMeasuresSequence=[item(PixelSpacing=[0.75, 0.5], SliceThickness=9.0)])
    ]
    dataset.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[1.0, 2.0, 30.0 + 2 * k])],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            PixelValueTransformationSequence=[item(RescaleSlope=k + 1, RescaleIntercept=5)],
        )
        for k in order
    ]
    for keyword, value in macro.items():
        setattr(dataset.PerFrameFunctionalGroupsSequence[0], keyword, [value(item)])
    return dataset


def test_enhanced_frames_are_placed_and_scaled_by_their_functional_groups(make_slice, save, tmp_path):
    volume = read_one(save, tmp_path, enhanced(make_slice, [2, 0, 3, 1]))
    assert volume.array.shape == (5, 4, 4) and volume.orientation == "LPS"
    assert volume.array[0, 0].tolist() == [10 * k * (k + 1) + 5 for k in range(4)]
    assert volume.spacing == pytest.approx((0.5, 0.75, 2.0)) and volume.affine[:3, 3].tolist() == [-1, -2, 30]


def test_enhanced_stacks_that_are_not_one_are_refused(make_slice, save, tmp_path):
    with pytest.raises(InputError, match=r"one.*\(0020,0032\)|32\.000 to 36\.000"):
        read_one(save, tmp_path, enhanced(make_slice, [0, 1, 3, 4]))
    sagittal = {"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}
    turned = enhanced(make_slice, [0, 1, 2], PlaneOrientationSequence=lambda item: item(**sagittal))
    with pytest.raises(InputError, match="2 stacks of Series Instance UID"):
        read_one(save, tmp_path, turned)
    short = enhanced(make_slice, [0, 1, 2])
    del short.PerFrameFunctionalGroupsSequence[2]
    with pytest.raises(InputError, match=r"\(5200,9230\) 2 items.*3 frames"):
        read_one(save, tmp_path, short)
    colour = enhanced(make_slice, [0, 1])
    colour.PixelPresentation = "COLOR"
    with pytest.raises(InputError, match=r"\(0008,9205\)"):
        read_one(save, tmp_path, colour)
