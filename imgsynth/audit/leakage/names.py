"""Persons' names and ids among the source's strings, by where they stand; and the ways in which a name is written."""

from __future__ import annotations

import re
from collections.abc import Iterator

NAME = ", a person's name"  # the ends of origins: what they mark is never public, whatever else says the same word
ID = ", an id"
PLACEHOLDERS = frozenset({
    "anonymous", "anonymized", "anonymised", "anonymize", "anonymise", "deidentified", "removed", "redacted", "unknown",
    "patient", "patients", "subject", "person", "phantom", "volunteer", "undefined", "unnamed",
})  # fmt: skip
SEPARATORS = (" ", "^", ", ", ",", "_", "-", ".", "")
_SHORTEST_PAIR = 6  # letters of two parts together
_NAME_FIELD = re.compile(
    r"((patient|person|sur|last|family|first|given|fore|middle|full|birth|physician|doctor|operator|mother)s?[ _.-]*"
    r"names?|^names?|^name[ _.-]of.*|^physicians?|^nachname|^vorname|^nom|^pr[eé]nom)$", re.IGNORECASE,
)  # fmt: skip
_ID_FIELD = re.compile(
    r"((patient|subject|person|participant|case|study|accession)[ _.-]*(ids?|identifier|numbers?|no|nr)?|^id|^mrn)$",
    re.IGNORECASE,
)
_ID_ELEMENTS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID")


def mark(field: str) -> str:
    """What a column or key called ``field`` holds: NAME, ID or ""."""
    field = field.strip()
    return NAME if _NAME_FIELD.search(field) else ID if _ID_FIELD.search(field) else ""


def mark_element(vr: str, keyword: str) -> str:
    """What a DICOM element holds. UIDs of instances are ids; those of classes and programs are not."""
    if vr == "PN":
        return NAME
    return ID if keyword in _ID_ELEMENTS or (vr == "UI" and keyword.endswith(("InstanceUID", "ReferenceUID"))) else ""


def names_nobody(text: str) -> bool:
    """Whether what stands in a name's place is made of PLACEHOLDERS alone."""
    return all(word in PLACEHOLDERS for word in re.findall(r"\w+", text.casefold()))


def written(name: str) -> Iterator[str]:
    """The family name beside each other part, in either order, with each of SEPARATORS between them.

    Whoever writes all the parts in any order puts the family name beside one of them, so that pairs are enough. The
    family name is what comes first in a DICOM name (PS3.5 6.2) or before a comma, else the last word.
    """
    for group in name.split("="):
        family, others = _parts(group)
        for other in others:
            if len(other) < 2 or len(family) < 2 or len(family) + len(other) < _SHORTEST_PAIR:
                continue
            for between in SEPARATORS:
                families = {family, family.replace(" ", between)} if "," not in between else {family}
                for one in families:
                    yield f"{one}{between}{other}"
                    yield f"{other}{between}{one}"


def _parts(name: str) -> tuple[str, list[str]]:
    """The family name, and the words of given and middle names."""
    if "^" in name:
        family, *rest = name.split("^")
        return family.strip(), [word for part in rest[:2] for word in part.split()]
    if "," in name:
        family, rest_ = name.split(",", 1)
        return family.strip(), rest_.split()
    words = re.split(r"[\s_]+", name.strip())
    return words[-1], words[:-1]


def touched(data: bytes, start: int, length: int) -> bool:
    """Whether an ASCII letter stands beside the bytes at ``start``: then they are within a longer word."""
    return data[max(start - 1, 0) : start].isalpha() or data[start + length : start + length + 1].isalpha()
