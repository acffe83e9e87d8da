"""What a column says, in the few words that a cohort keeps: class, sex, ten-year age band."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O"}
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([YMWD]?)", re.IGNORECASE)
_PER_YEAR = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}  # DICOM Age String (PS3.5 §6.2): nnnD, nnnW, nnnM, nnnY


def class_of(value: str, classes: Sequence[str]) -> str | None:
    """The declared class that ``value`` names, or None.

    A value that is the name of a class is that class; otherwise an integer ("1", "1.0") counts into ``classes``.
    """
    value = value.strip()
    if value in classes:
        return value
    number = re.fullmatch(r"(\d+)(?:\.0*)?", value)
    if number and int(number.group(1)) < len(classes):
        return classes[int(number.group(1))]
    return None


def sex_of(value: str | None) -> str | None:
    """M, F or O (DICOM PatientSex); None for what is not understood."""
    return _SEXES.get((value or "").strip().lower())


def age_band_of(value: str | None) -> str | None:
    """The ten-year band of an age: "60-69"; "90+" from 90 on, since great ages single people out (HIPAA safe harbor).

    Reads years as a number, and DICOM age strings ("042Y", "018M").
    """
    found = _AGE.fullmatch((value or "").strip())
    if not found:
        return None
    years = float(found.group(1)) / _PER_YEAR[found.group(2).upper() or "Y"]
    if years >= 90:
        return "90+"
    decade = int(years // 10) * 10
    return f"{decade}-{decade + 9}"
