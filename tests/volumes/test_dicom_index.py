"""A folder of DICOM files becomes sound series, and everything else a fault that names file and tag."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel.nicom.dicomwrappers as nicom
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread, uid

from imgsynth.types import InputError
from imgsynth.volumes.dicom_index import read_dicom_folder
from imgsynth.volumes.dicom_read import read_dicom_series

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def test_slices_are_sorted_by_geometry_not_by_name_or_instance_number(make_series, tmp_path):
    make_series()
    index = read_dicom_folder(tmp_path)
    assert not index.faults
    (series,) = index.series
    assert [int(path.stem.split("-")[1]) for path in series.files] == list(range(6))
    assert series.shape == (6, 5, 6) and series.spacing == pytest.approx((0.5, 0.75, 2.5))
    volume = read_dicom_series(series)
    assert volume.array[:, :, 3].T.tolist() == (np.arange(30).reshape(5, 6) + 300 - 1024).tolist()
    assert (volume.modality, volume.unit, volume.orientation) == ("CT", "HU", "LPS")


def test_the_affine_is_nibabels(make_series, tmp_path):
    """Independent oracle: nibabel's DICOM wrapper of the first slice gives the in-plane axes and the origin."""
    oblique = [0.96, 0.28, 0, -0.168, 0.576, 0.8]
    normal = np.cross(oblique[:3], oblique[3:])
    for k, path in enumerate(make_series()):
        dataset = dcmread(path)
        dataset.ImageOrientationPatient = oblique
        dataset.ImagePositionPatient = list(np.array([3.0, -7, 11]) + 2.5 * k * normal)
        dataset.save_as(path)
    (series,) = read_dicom_folder(tmp_path).series
    theirs = LPS_TO_RAS @ nicom.wrapper_from_file(series.files[0]).affine  # [row, column] axes, LPS+
    assert np.allclose(series.affine[:, 0], theirs[:, 1]) and np.allclose(series.affine[:, 1], theirs[:, 0])
    assert np.allclose(series.affine[:, 3], theirs[:, 3])
    last = LPS_TO_RAS @ nicom.wrapper_from_file(series.files[-1]).affine
    assert np.allclose((series.affine @ [0, 0, 5, 1]), last[:, 3])


def test_only_the_allow_list_of_metadata_travels(make_series):
    volume = read_dicom_series(make_series())
    assert volume.meta == {"PatientID": "patient-1", "PatientSex": "F", "PatientAge": "061Y",
                           "StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.2"}  # fmt: skip


def test_header_value_reads_any_keyword_for_labels(make_series, tmp_path):
    make_series()
    (series,) = read_dicom_folder(tmp_path).series
    assert series.header_value("StudyDescription") == "thorax"
    assert series.header_value("BodyPartExamined") is None


def test_two_series_in_a_folder_are_two(make_series, tmp_path):
    make_series(range(4), prefix="a")
    make_series(range(4), prefix="b", SeriesInstanceUID="1.2.3.9")
    index = read_dicom_folder(tmp_path)
    assert sorted(series.uid for series in index.series) == ["1.2.3.2", "1.2.3.9"] and not index.faults
    assert all(series.shape[2] == 4 and series.spacing[2] == pytest.approx(2.5) for series in index.series)


def test_one_series_uid_of_two_patients_is_two_series(make_series, tmp_path):
    make_series(range(4), prefix="a")
    make_series(range(10, 14), prefix="b", PatientID="patient-2")
    index = read_dicom_folder(tmp_path)
    assert sorted(series.meta["PatientID"] for series in index.series) == ["patient-1", "patient-2"]


def test_a_marked_localizer_is_set_aside(make_series, tmp_path):
    make_series()
    make_series([40], prefix="loc", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    index = read_dicom_folder(tmp_path)
    (series,) = index.series
    assert series.shape[2] == 6 and series.spacing[2] == pytest.approx(2.5)
    (fault,) = index.faults
    assert "loc" in fault.where and "(0008,0008)" in fault.got and "LOCALIZER" in fault.got


def test_an_unmarked_localizer_of_another_orientation_is_another_series(make_series, tmp_path):
    make_series()
    make_series([40], prefix="loc", ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    index = read_dicom_folder(tmp_path)
    assert sorted(series.shape[2] for series in index.series) == [1, 6] and not index.faults


def test_mixed_orientations_and_matrices_are_separate_stacks(make_series, tmp_path):
    make_series(range(3), prefix="axial")
    stack = make_series(range(10, 14), prefix="sagittal")
    for n, path in enumerate(stack):
        dataset = dcmread(path)
        dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [0, 1, 0, 0, 0, -1], [4.0 * n, 0, 0]
        dataset.save_as(path)
    make_series(range(20, 22), prefix="fine", PixelSpacing=[0.25, 0.25])
    index = read_dicom_folder(tmp_path)
    found = {(series.shape[2], round(series.spacing[2], 3), series.spacing[0]) for series in index.series}
    assert found == {(3, 2.5, 0.5), (4, 4.0, 0.5), (2, 2.5, 0.25)} and not index.faults


def test_a_missing_slice_is_refused_with_its_place(make_series, tmp_path):
    files = make_series([0, 1, 2, 4, 5])
    index = read_dicom_folder(tmp_path)
    assert index.series == []
    (fault,) = index.faults
    assert "(0020,0032)" in fault.got and "105.000 to 110.000" in fault.got and "1.2.3.2" in fault.where
    with pytest.raises(InputError, match=r"105\.000 to 110\.000"):
        read_dicom_series(files)


def test_an_uneven_step_is_refused(make_series, tmp_path):
    files = make_series()
    dataset = dcmread(files[3])
    dataset.ImagePositionPatient[2] += 0.5
    dataset.save_as(files[3])
    (fault,) = read_dicom_folder(tmp_path).faults
    assert "even step" in fault.expected


def test_rounding_of_positions_is_borne(make_series, tmp_path):
    files = make_series()
    dataset = dcmread(files[3])
    dataset.ImagePositionPatient[2] += 0.01
    dataset.save_as(files[3])
    index = read_dicom_folder(tmp_path)
    assert not index.faults and index.series[0].spacing[2] == pytest.approx(2.5)


def test_a_tilted_gantry_is_refused(make_series, tmp_path):
    """The table moves along z while the planes lean by 12 degrees: a sheared stack."""
    lean = np.radians(12.0)
    make_series(ImageOrientationPatient=[1, 0, 0, 0, np.cos(lean), np.sin(lean)])
    index = read_dicom_folder(tmp_path)
    (fault,) = index.faults
    assert index.series == [] and "tilt of 12.0°" in fault.got and "(0020,0032)" in fault.got


def test_two_slices_at_one_position_are_refused(make_series, tmp_path):
    files = make_series()
    make_series([2], prefix="phase", SOPInstanceUID="1.2.3.77")
    assert len(files) == 6
    (fault,) = read_dicom_folder(tmp_path).faults
    assert "1 of 7 slices" in fault.got and "105.000" in fault.got


def test_an_identical_duplicate_is_dropped_with_a_remark(make_series, tmp_path):
    files = make_series()
    shutil.copy(files[2], tmp_path / "scan" / "zz-copy.dcm")
    index = read_dicom_folder(tmp_path)
    (series,) = index.series
    assert series.shape[2] == 6
    assert series.faults == tuple(index.faults)
    (fault,) = series.faults
    assert "zz-copy" in fault.where and "(0008,0018)" in fault.got and "dropped" in fault.remedy
    assert read_dicom_series([*files, tmp_path / "scan" / "zz-copy.dcm"]).array.shape == (6, 5, 6)


def test_a_duplicate_in_another_transfer_syntax_is_still_identical(make_series, make_slice, save, tmp_path):
    make_series()
    save(make_slice(2, InstanceNumber=14), tmp_path / "scan" / "implicit.dcm", uid.ImplicitVRLittleEndian)
    (series,) = read_dicom_folder(tmp_path).series
    assert "dropped" in series.faults[0].remedy


def test_a_conflicting_duplicate_is_refused(make_series, make_slice, save, tmp_path):
    make_series()
    save(make_slice(2, InstanceNumber=14, RescaleIntercept=0), tmp_path / "scan" / "other.dcm")
    index = read_dicom_folder(tmp_path)
    assert index.series == [] and "other content" in index.faults[0].got and "(0008,0018)" in index.faults[0].got


@pytest.mark.parametrize(
    ("keyword", "tag"),
    [("SeriesInstanceUID", "(0020,000E)"), ("StudyInstanceUID", "(0020,000D)"), ("SOPInstanceUID", "(0008,0018)"),
     ("ImagePositionPatient", "(0020,0032)"), ("ImageOrientationPatient", "(0020,0037)"), ("Rows", "(0028,0010)"),
     ("PixelSpacing", "(0028,0030)"), ("PixelData", "(7FE0,0010)"), ("SOPClassUID", "(0008,0016)"),
     ("PhotometricInterpretation", "(0028,0004)")],
)  # fmt: skip
def test_a_file_without_what_it_needs_is_a_fault_that_names_the_tag(make_series, tmp_path, keyword, tag):
    make_series()
    broken = make_series([6], prefix="broken")[0]
    dataset = dcmread(broken)
    delattr(dataset, keyword)
    dataset.save_as(broken)
    index = read_dicom_folder(tmp_path)
    (fault,) = index.faults
    assert fault.where == str(broken) and tag in fault.got
    assert [series.shape[2] for series in index.series] == [6]


@pytest.mark.parametrize(
    ("keyword", "value", "tag"),
    [("PixelSpacing", [0, 0.5], "(0028,0030)"), ("PixelSpacing", 0.5, "(0028,0030)"),
     ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "(0020,0037)"), ("NumberOfFrames", 2, "(0028,0008)"),
     ("PhotometricInterpretation", "PALETTE COLOR", "(0028,0004)"), ("SOPClassUID", uid.RTDoseStorage, "(0008,0016)"),
     ("SOPClassUID", uid.SegmentationStorage, "(0008,0016)"), ("SOPClassUID", uid.SecondaryCaptureImageStorage,
      "(0008,0016)"), ("SOPClassUID", uid.UltrasoundMultiFrameImageStorage, "(0008,0016)"),
     ("SOPClassUID", uid.EnhancedMRImageStorage, "(5200,9230)")],
)  # fmt: skip
def test_what_is_not_a_grayscale_slice_is_refused_by_name(make_series, tmp_path, keyword, value, tag):
    make_series()
    make_series([6], prefix="odd", **{keyword: value})
    index = read_dicom_folder(tmp_path)
    assert any("odd" in fault.where and tag in fault.got for fault in index.faults)
    assert [series.shape[2] for series in index.series] == [6]


def test_unreadable_files_among_good_ones_are_faults(make_series, tmp_path):
    good = make_series()
    data = good[0].read_bytes()
    (tmp_path / "scan" / "half.dcm").write_bytes(data[: len(data) - 20])
    (tmp_path / "scan" / "start.dcm").write_bytes(data[:200])
    (tmp_path / "scan" / "noise.dcm").write_bytes(b"\x00\xff" * 400)
    (tmp_path / "scan" / "empty.dcm").write_bytes(b"")
    index = read_dicom_folder(tmp_path)
    assert [series.shape[2] for series in index.series] == [6]
    where = {Path(fault.where).name: fault.got for fault in index.faults}
    assert set(where) == {"half.dcm", "start.dcm", "noise.dcm", "empty.dcm"}
    assert "truncated" in where["half.dcm"] and "(7FE0,0010)" in where["half.dcm"]


def test_other_files_are_passed_over(make_series, tmp_path):
    make_series()
    (tmp_path / "labels.csv").write_text("patient,label\n")
    (tmp_path / ".hidden").mkdir()
    shutil.copytree(tmp_path / "scan", tmp_path / ".hidden" / "scan")
    index = read_dicom_folder(tmp_path)
    assert len(index.series) == 1 and not index.faults


def test_an_empty_folder_is_an_empty_index_and_no_folder_an_error(tmp_path):
    index = read_dicom_folder(tmp_path)
    assert (index.series, index.faults) == ([], [])
    with pytest.raises(InputError, match="no such folder"):
        read_dicom_folder(tmp_path / "nowhere")


def test_files_that_are_no_single_series_are_refused(make_series, tmp_path):
    two = make_series(range(3)) + make_series(range(3), prefix="b", SeriesInstanceUID="1.2.3.9")
    with pytest.raises(InputError, match="2 stacks"):
        read_dicom_series(two)
    with pytest.raises(InputError, match="no DICOM image"):
        read_dicom_series([])


def test_a_single_slice_takes_its_thickness_from_the_header(make_series, tmp_path):
    assert read_dicom_series(make_series([0], "a")).spacing == pytest.approx((0.5, 0.75, 5.0))
    assert read_dicom_series(make_series([0], "b", SpacingBetweenSlices=3.0)).spacing[2] == pytest.approx(3.0)
    make_series([0], "c", SliceThickness=None)
    (series,) = read_dicom_folder(tmp_path / "c").series
    assert series.spacing[2] == 1.0 and "(0018,0050)" in series.faults[0].got


@settings(max_examples=150)
@given(cut=st.integers(0, 1200), flips=st.lists(st.tuples(st.integers(128, 1100), st.integers(0, 255)), max_size=4))
def test_no_damage_crashes_the_index_or_the_reader(tmp_path_factory, cut, flips):
    """Any truncation and any flipped bytes: the file is read, passed over, or refused by an InputError."""
    from pydicom.data import get_testdata_file

    data = bytearray(Path(str(get_testdata_file("MR_small_RLE.dcm"))).read_bytes())
    for place, byte in flips:
        data[place] = byte
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "file.dcm").write_bytes(bytes(data if cut > 1100 else data[: cut * 7]))
    for series in read_dicom_folder(folder).series:
        try:
            volume = read_dicom_series(series)
        except InputError as error:
            assert "file.dcm" in str(error)
        else:
            assert np.isfinite(volume.array).all()


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_text_in_any_character_set_is_decoded(make_slice, save, tmp_path, syntax):
    dataset = make_slice(0, SpecificCharacterSet="ISO_IR 192", InstitutionName="Charité", PatientID="山田-7")
    save(dataset, tmp_path / "utf8.dcm", syntax)
    latin = make_slice(1, SpecificCharacterSet="ISO_IR 100", InstitutionName="Hôpital", StudyInstanceUID="1.2.3.44")
    save(latin, tmp_path / "latin.dcm", syntax)
    series = read_dicom_folder(tmp_path).series
    assert {(one.meta["InstitutionName"], one.meta["PatientID"]) for one in series} == {
        ("Charité", "山田-7"), ("Hôpital", "patient-1")}  # fmt: skip
