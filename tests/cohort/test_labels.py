from __future__ import annotations

import pytest

from imgsynth.cohort.labels import age_band_of, class_of, sex_of


@pytest.mark.parametrize(
    ("value", "expected"),
    [("lesion", "lesion"), (" lesion ", "lesion"), ("1", "lesion"), ("1.0", "lesion"), ("0", "normal"), ("2", None),
     ("-1", None), ("Lesion", None), ("1.5", None), ("", None)],
)  # fmt: skip
def test_classes_by_name_or_index(value: str, expected: str | None) -> None:
    assert class_of(value, ["normal", "lesion"]) == expected


def test_a_class_that_is_called_by_a_number_is_that_class() -> None:
    assert class_of("1", ["1", "0"]) == "1"
    assert class_of("0", ["1", "0"]) == "0"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("042Y", "40-49"), ("42", "40-49"), ("39.9", "30-39"), ("018M", "0-9"), ("130M", "10-19"), ("003W", "0-9"),
     ("4000D", "10-19"), ("89", "80-89"), ("90", "90+"), ("104Y", "90+"), ("", None), (None, None), ("old", None),
     ("-5", None)],
)  # fmt: skip
def test_age_bands(value: str | None, expected: str | None) -> None:
    assert age_band_of(value) == expected


def test_sexes() -> None:
    assert [sex_of(v) for v in ("m", "Male", "F", "female", "O", "", None, "1")] == [
        "M",
        "M",
        "F",
        "F",
        "O",
        None,
        None,
        None,
    ]
