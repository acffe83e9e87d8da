"""Headers are read by an allow-list: whatever else they say is in nothing that is kept of a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import ALLOWED, BINARY, BYTES, ROOT, TEXT, WORD, Planted, found_in, write_dicom

from imgsynth.volumes.dicom_entry import text_from_found
from imgsynth.volumes.dicom_header import read_header
from imgsynth.volumes.dicom_index import read_dicom_folder
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.volume import ALLOWED_META

MAY = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "InstitutionName")  # hashed, or a fact of the cohort


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Planted]:
    planted = Planted()
    folder = tmp_path_factory.mktemp("dicom")
    write_dicom(folder, planted, patients=3)
    return folder, planted


def test_every_kind_of_element_is_planted(source: tuple[Path, Planted]) -> None:
    count = source[1].count
    assert set(count) >= {*TEXT, *BINARY, *BYTES, "DA", "TM", "DT", "DS", "IS", "UI", "SQ", "private"}
    assert sum(count.values()) > 4000


def test_nothing_but_the_allowed_elements_is_kept_of_a_header(source: tuple[Path, Planted]) -> None:
    folder, planted = source
    for path in folder.rglob("*.dcm"):
        found = read_header(path)
        (header,) = found.headers
        assert not found.faults and set(header.meta) <= set(ALLOWED_META) < set(ALLOWED)
        kept = dict(vars(header), path=None, meta={k: v for k, v in header.meta.items() if k not in MAY})
        assert found_in(repr(kept).encode(), planted) == set()
        indexed = text_from_found(found)  # what the index keeps on disk
        for name in MAY:
            indexed = indexed.replace(header.meta[name], "")
        assert found_in(indexed.encode(), planted) == set()
        assert WORD in header.meta["PatientID"] and ROOT in header.meta["StudyInstanceUID"]  # there to be read


def test_nothing_but_the_allowed_elements_is_kept_of_a_volume(source: tuple[Path, Planted]) -> None:
    index = read_dicom_folder(source[0])
    assert len(index.series) == 3 and not index.faults
    for series in index.series:
        volume = read_dicom_series(series)
        kept = {k: v for k, v in volume.meta.items() if k not in MAY}
        said = repr((kept, volume.modality, volume.unit)).encode() + volume.array.tobytes() + volume.affine.tobytes()
        assert found_in(said, source[1]) == set()
