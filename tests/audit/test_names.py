"""Whose name or id a string is, by where it stands; and how a name may be written."""

from __future__ import annotations

import pytest

from imgsynth.audit.leakage.names import ID, NAME, mark, mark_element, names_nobody, touched, written


def test_columns_that_hold_names_ids_and_neither() -> None:
    names = ["name", "Patient Name", "last_name", "first-name", "birth.name", "Nachname", "nom", "Name of physician"]
    ids = [
        "id",
        "MRN",
        "patient_id",
        "Subject ID",
        "case number",
        "participant",
        "study",
        "accession",
        "Accession Number",
    ]
    neither = ["filename", "site name", "series", "kidney", "width", "view", "paid"]
    assert {field: mark(f" {field} ") for field in names} == dict.fromkeys(names, NAME)
    assert {field: mark(field) for field in ids} == dict.fromkeys(ids, ID)
    assert {field: mark(field) for field in neither} == dict.fromkeys(neither, "")


@pytest.mark.parametrize(
    ("vr", "keyword", "expected"),
    [
        ("PN", "ReferringPhysicianName", NAME), ("LO", "PatientID", ID), ("SH", "AccessionNumber", ID),
        ("UI", "SOPInstanceUID", ID), ("UI", "FrameOfReferenceUID", ID), ("UI", "SOPClassUID", ""),
        ("UI", "ImplementationClassUID", ""), ("LO", "Manufacturer", ""), ("SH", "StationName", ""),
    ],
)  # fmt: skip
def test_dicom_elements(vr: str, keyword: str, expected: str) -> None:
    assert mark_element(vr, keyword) == expected


def test_the_family_name_stands_beside_every_other_part() -> None:
    """The last word where nothing says which it is; what is before a comma; what is first in a DICOM name."""
    for name in ("Anna Maria Smith", "Anna_Maria_Smith", "Smith, Anna Maria", "Smith^Anna^Maria", "Smith^Anna Maria"):
        pairs = set(written(name))
        assert {"Anna Smith", "Smith, Maria", "Smith^Anna", "mariasmith"} <= pairs | {one.lower() for one in pairs}, (
            name
        )
        assert not any("Anna" in one and "Maria" in one for one in pairs), name
    assert set(written("Smith^^^Dr^Jun")) == set()


def test_each_way_of_writing_a_name_is_by_itself() -> None:
    """A DICOM name may hold the same name in letters, ideographs and sounds, with = between them (PS3.5 6.2.1.1)."""
    pairs = set(written("Yamada^Tarou=Schmidt^Annette"))
    assert {"Yamada Tarou", "Schmidt, Annette"} <= pairs
    assert not any(("Yamada" in one) != ("Tarou" in one) or "=" in one for one in pairs)


def test_pairs_that_are_short_enough_to_stand_anywhere_are_left_out() -> None:
    assert set(written("Li^Bob")) == set()
    assert "Li Anna" in set(written("Li^Anna"))
    assert set(written("Washington^J")) == set(written("J^Washington")) == set()


def test_words_in_place_of_a_name() -> None:
    assert names_nobody("ANONYMOUS^patient") and names_nobody("")
    assert not names_nobody("Anonymous^Anna")


def test_a_letter_on_either_side_makes_it_a_part_of_a_word() -> None:
    assert touched(b"Hanna ", 1, 4) and touched(b"annas", 0, 4)
    assert not touched(b"anna", 0, 4) and not touched(b"_anna1", 1, 4)
