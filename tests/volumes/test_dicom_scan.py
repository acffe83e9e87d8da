"""The fast scan of headers against pydicom: what both read, they read alike, and what is odd is left to pydicom."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset, Sequence, dcmread, uid

from imgsynth.volumes.dicom_element import quietly, tag_of, value
from imgsynth.volumes.dicom_header import _WANTED
from imgsynth.volumes.dicom_scan import PIXEL_DATA, Elements, scan

ODD_FILES = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))
TEXT_AND_SIZES = [tag for tag in _WANTED if pydicom.datadict.dictionary_VR(tag) != "SQ"]


def plain(found: object) -> object:
    if isinstance(found, (list, pydicom.multival.MultiValue)):
        return [str(part) for part in found]
    return None if found is None else str(found)


def agrees(path: Path) -> bool:
    """Whether the scan reads the file; where it does, it must say what pydicom says of every wanted element."""
    with path.open("rb") as file, quietly():
        elements = scan(file.read(), _WANTED)
        if elements is None:
            return False
        file.seek(0)
        dataset = dcmread(file, stop_before_pixels=True)
        assert elements.end == file.tell()
        assert elements.syntax == dataset.file_meta.TransferSyntaxUID
        for tag in TEXT_AND_SIZES:
            keyword = pydicom.datadict.keyword_for_tag(tag)
            assert plain(value(elements, keyword, path)) == plain(value(dataset, keyword, path)), keyword
    return True


def test_odd_files_are_read_as_pydicom_reads_them_or_left_to_it():
    read = [path.name for path in ODD_FILES if agrees(path)]
    assert len(ODD_FILES) > 50 and len(read) > len(ODD_FILES) // 3
    assert {"CT_small.dcm", "MR_small_implicit.dcm"} <= set(read)


@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian], ids=["explicit", "implicit"]
)
@pytest.mark.parametrize("open_length", [True, False])
def test_sequences_are_stepped_over_however_their_end_is_told(make_slice, save, tmp_path, syntax, open_length):
    """Nested, with elements inside that have wanted tags: those are not the image's."""
    inner = Dataset()
    inner.PatientID, inner.Rows = "somebody else", 7
    inner.ReferencedSeriesSequence = Sequence([Dataset(), Dataset()])
    inner.ReferencedSeriesSequence[0].SeriesInstanceUID = "9.9.9"
    dataset = make_slice(0, ReferencedImageSequence=Sequence([inner, inner]), OriginalAttributesSequence=Sequence())
    for one in (dataset["ReferencedImageSequence"], inner["ReferencedSeriesSequence"]):
        one.is_undefined_length = open_length
        for item in one.value:
            item.is_undefined_length_sequence_item = open_length
    path = save(dataset, tmp_path / "one.dcm", syntax)
    assert agrees(path)
    elements = scan(path.read_bytes(), _WANTED)
    assert elements is not None and elements.values[tag_of("PatientID")] == "patient-1"


@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian], ids=["big", "deflated"]
)
def test_other_encodings_are_left_to_pydicom(make_slice, save, tmp_path, syntax):
    assert scan(save(make_slice(0), tmp_path / "one.dcm", syntax).read_bytes(), _WANTED) is None


def test_names_beyond_ascii_are_left_to_pydicom(make_slice, save, tmp_path):
    dataset = make_slice(0, SpecificCharacterSet="ISO_IR 100", InstitutionName="Universitätsklinik")
    assert scan(save(dataset, tmp_path / "one.dcm").read_bytes(), _WANTED) is None


def test_every_cut_of_a_header_is_left_to_pydicom(make_slice, save, tmp_path):
    """The scan never takes the part that it was given for the whole."""
    data = save(make_slice(0), tmp_path / "one.dcm").read_bytes()
    elements = scan(data, _WANTED)
    assert isinstance(elements, Elements) and elements.end == data.index(
        PIXEL_DATA.to_bytes(4, "little")[2:] + b"\x10\0OW"
    )
    assert all(scan(data[:cut], _WANTED) is None for cut in range(elements.end + 4))


def test_tags_out_of_order_and_a_wrong_representation_are_left_to_pydicom(make_slice, save, tmp_path):
    data = save(make_slice(0), tmp_path / "one.dcm").read_bytes()
    rows = b"\x28\0\x10\0US"
    assert data.count(rows) == 1
    assert scan(data.replace(rows, b"\x28\0\x10\0SS"), _WANTED) is None
    assert scan(data.replace(rows, b"\x08\0\x10\0US"), _WANTED) is None
