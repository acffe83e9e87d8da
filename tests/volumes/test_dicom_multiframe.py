"""Enhanced multi-frame images: stacks and time points apart, every frame in its place, what cannot be told refused.

Independent readers: highdicom (geometry from the functional groups) and SimpleITK/GDCM (decoding).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread, uid
from pydicom.tag import Tag

from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.load import load_volume
from imgsynth.schema import DataConfig
from imgsynth.types import InputError
from imgsynth.volumes.dicom_index import read_dicom_folder
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.geometry import LPS_TO_RAS

OBLIQUE = [0.96, 0.28, 0.0, -0.168, 0.576, 0.8]
SAGITTAL = [0, 1, 0, 0, 0, -1]


def item(**elements: Any) -> Dataset:
    one = Dataset()
    for keyword, value in elements.items():
        setattr(one, keyword, value)
    return one


def frame(place: float, turn: Any = OBLIQUE, stack: str = "1", time: int | None = None, kind: Any = None,
          indices: Any = None, spacing: Any = (0.75, 0.5), scale: Any = (1, 0)) -> Dataset:  # fmt: skip
    """The functional groups of a frame that lies ``place`` mm along its normal."""
    normal = np.cross(turn[:3], turn[3:])
    content = item(StackID=stack)
    if time is not None:
        content.TemporalPositionIndex = time
    if indices is not None:
        content.DimensionIndexValues = indices
    group = item(
        FrameContentSequence=[content],
        PlanePositionSequence=[item(ImagePositionPatient=[float(v) for v in np.array([3, -7, 11]) + place * normal])],
        PlaneOrientationSequence=[item(ImageOrientationPatient=list(turn))],
        PixelMeasuresSequence=[item(PixelSpacing=list(spacing), SliceThickness=2.0)],
        PixelValueTransformationSequence=[item(RescaleSlope=scale[0], RescaleIntercept=scale[1], RescaleType="US")],
    )
    if kind is not None:
        group.MRImageFrameTypeSequence = [item(FrameType=kind)]
    return group


@pytest.fixture
def enhanced(make_slice, save, tmp_path):
    """Write an enhanced MR of these frames; frame n is filled with 10 n plus its column."""

    def write(groups: list[Dataset], name: str = "one.dcm", **changes: Any) -> Path:
        frames = np.stack(
            [np.full((4, 5), 10 * n, np.uint16) + np.arange(5, dtype=np.uint16) for n in range(len(groups))]
        )
        removed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
                   "RescaleIntercept")  # fmt: skip
        dataset = make_slice(0, frames, **dict.fromkeys(removed), SOPClassUID=uid.EnhancedMRImageStorage, Modality="MR",
                             NumberOfFrames=len(groups), **changes)  # fmt: skip
        dataset.SharedFunctionalGroupsSequence = [Dataset()]
        dataset.PerFrameFunctionalGroupsSequence = groups
        return save(dataset, tmp_path / "in" / name)

    return write


def numbers(volume) -> list[int]:
    """Which frame each slice of a volume is."""
    assert np.array_equal(volume.array[:, 0, 0] - volume.array[0, 0, 0], np.arange(5))
    return [int(value) // 10 for value in volume.array[0, 0]]


def test_frames_are_sorted_by_their_place_as_highdicom_sorts_them(enhanced):
    highdicom = pytest.importorskip("highdicom")
    path = enhanced([frame(2.0 * place, scale=(place + 1, 5)) for place in (2, 0, 3, 1)], FrameOfReferenceUID="1.2.9")
    volume = read_dicom_series([path])
    theirs = highdicom.imread(path).get_volume()
    affine = np.eye(4)
    affine[:3] = LPS_TO_RAS @ theirs.affine[:3]
    array = theirs.array  # [slice, row, column], possibly from the other end
    for k in range(4):
        place = volume.affine @ [0, 0, k, 1]
        same = min(range(4), key=lambda n: np.linalg.norm(affine @ [n, 0, 0, 1] - place))
        np.testing.assert_allclose(affine @ [same, 0, 0, 1], place, atol=1e-5)
        np.testing.assert_allclose(affine @ [same, 1, 0, 1], volume.affine @ [0, 1, k, 1], atol=1e-5)
        np.testing.assert_allclose(affine @ [same, 0, 1, 1], volume.affine @ [1, 0, k, 1], atol=1e-5)
        np.testing.assert_allclose(array[same].T, volume.array[:, :, k])


def test_time_points_are_images_of_their_own(enhanced):
    path = enhanced([frame(2.0 * place, time=time) for place in (1, 0, 2) for time in (1, 2)])
    index = read_dicom_folder(path.parent)
    volumes = [read_dicom_series(series) for series in index.series]
    assert [numbers(volume) for volume in volumes] == [[2, 0, 4], [3, 1, 5]]
    assert np.allclose(volumes[0].affine, volumes[1].affine) and volumes[0].spacing[2] == pytest.approx(2.0)
    (fault,) = index.faults
    assert fault.where == str(path) and "2 stacks, time points" in fault.got and fault.code == "several_stacks"


@pytest.mark.parametrize(
    "other",
    [{"stack": "2"}, {"turn": SAGITTAL}, {"spacing": (1.5, 0.5)}, {"kind": ["DERIVED", "PRIMARY", "M", "ADD"]}],
    ids=["stack", "orientation", "pixel size", "frame type"],
)  # fmt: skip
def test_stacks_of_other_kinds_are_images_of_their_own(enhanced, other):
    usual = {"kind": ["ORIGINAL", "PRIMARY", "M", "NONE"]}
    path = enhanced([frame(2.0 * n, **usual) for n in range(3)] + [frame(2.0 * n, **usual | other) for n in range(2)])
    series = read_dicom_folder(path.parent).series
    assert [numbers(read_dicom_series(one)) for one in series] == [[0, 1, 2], [3, 4]]


def test_a_localizer_among_the_frames_is_set_aside(enhanced):
    scout = frame(50.0, turn=SAGITTAL, kind=["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"])
    path = enhanced([scout] + [frame(2.0 * n, kind=["ORIGINAL", "PRIMARY", "M", "NONE"]) for n in range(3)])
    index = read_dicom_folder(path.parent)
    (series,) = index.series
    assert numbers(read_dicom_series(series)) == [1, 2, 3]
    assert any("LOCALIZER" in fault.got and str(path) in fault.where for fault in index.faults)


def test_echoes_at_one_place_are_refused_by_the_name_of_what_differs(enhanced):
    """What is not a stack or a time point would be mixed up: refused, and said what it is."""
    dimensions = [item(DimensionIndexPointer=Tag(0x0020, 0x9056)), item(DimensionIndexPointer=Tag(0x0020, 0x9057)),
                  item(DimensionIndexPointer=Tag(0x0018, 0x9082))]  # fmt: skip
    groups = [frame(2.0 * place, indices=[1, place + 1, echo]) for place in range(3) for echo in (1, 2)]
    path = enhanced(groups, DimensionIndexSequence=dimensions)
    index = read_dicom_folder(path.parent)
    (fault,) = index.faults
    assert not index.series and fault.where == str(path) and fault.code == "overlapping_slices"
    assert "its frames differ in Effective Echo Time (0018,9082)" in fault.got and "Stack" not in fault.got


def test_a_hole_in_one_stack_leaves_the_other(enhanced):
    path = enhanced([frame(2.0 * n) for n in (0, 1, 3)] + [frame(3.0 * n, stack="2") for n in range(2)])
    index = read_dicom_folder(path.parent)
    (series,) = index.series
    assert numbers(read_dicom_series(series)) == [3, 4] and series.spacing[2] == pytest.approx(3.0)
    assert any("missing" in fault.expected for fault in index.faults)


@pytest.mark.parametrize(
    ("group", "tag"),
    [("PlanePositionSequence", "(0020,0032)"), ("PlaneOrientationSequence", "(0020,0037)"),
     ("PixelMeasuresSequence", "(0028,0030)")],
)  # fmt: skip
def test_frames_without_geometry_are_refused_by_tag(enhanced, group, tag):
    groups = [frame(2.0 * n) for n in range(3)]
    delattr(groups[1], group)
    path = enhanced(groups)
    (fault,) = read_dicom_folder(path.parent).faults
    assert fault.where == str(path) and tag in fault.got


def test_shared_groups_serve_frames_that_have_none_of_their_own(enhanced):
    groups = [frame(2.0 * n) for n in range(3)]
    shared = item(PlaneOrientationSequence=groups[0].PlaneOrientationSequence,
                  PixelMeasuresSequence=groups[0].PixelMeasuresSequence)  # fmt: skip
    for one in groups:
        del one.PlaneOrientationSequence, one.PixelMeasuresSequence
    path = enhanced(groups)
    dataset = dcmread(path)
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.save_as(path)
    assert numbers(read_dicom_series([path])) == [0, 1, 2]


def test_a_cohort_of_multiframe_files_loads_the_frames_that_were_indexed(enhanced):
    """A stack of a single frame that is not the file's first is the trap."""
    for patient in ("a", "b", "c"):
        enhanced([frame(2.0 * n) for n in range(3)] + [frame(9.0, stack="2")], f"{patient}.dcm", PatientID=patient,
                 SeriesInstanceUID=f"1.2.{ord(patient)}", SOPInstanceUID=f"1.3.{ord(patient)}")  # fmt: skip
    root = enhanced([frame(0.0)], "d.dcm", PatientID="d", SOPInstanceUID="1.3.4").parent
    manifest, _ = build_manifest(DataConfig(kind="dicom", root=str(root)))
    found = sorted((i.files[0], numbers(load_volume(manifest, i))) for i in manifest.items)
    assert found == [(f"{p}.dcm", frames) for p in "abc" for frames in ([0, 1, 2], [3])] + [("d.dcm", [0])]


def test_the_same_file_twice_is_one(enhanced):
    path = enhanced([frame(2.0 * n, time=t) for n in range(2) for t in (1, 2)])
    path.with_name("copy.dcm").write_bytes(path.read_bytes())
    index = read_dicom_folder(path.parent)
    assert len(index.series) == 2 and {fault.code for fault in index.faults} == {"several_stacks", "duplicate_file"}


def test_a_count_of_frames_that_is_not_theirs_is_refused(enhanced):
    path = enhanced([frame(2.0 * n) for n in range(3)])
    dataset = dcmread(path)
    dataset.NumberOfFrames = 2
    dataset.save_as(path)
    with pytest.raises(InputError, match=r"one\.dcm.*\(5200,9230\) 3 items"):
        read_dicom_series([path])
