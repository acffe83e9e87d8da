"""What the headers of one DICOM image say beyond its geometry: who, how derived, what may be seen. LOCAL ONLY."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread

from imgsynth.cohort.build_scan import Scan
from imgsynth.cohort.visible import head_because, says_defaced, text_because
from imgsynth.volumes.archives import on_disk
from imgsynth.volumes.dicom_element import BROKEN, text, words
from imgsynth.volumes.dicom_header import ENHANCED

_EACH = ["SOPInstanceUID", "InstanceNumber"]


@dataclass(frozen=True)
class Facts:
    """``person`` is a hash of name and date of birth, "" where one is missing; ``born`` the year, as far as it is told.

    ``sop`` are the SOP Instance UIDs. ``shuffled``: Instance Numbers neither rise nor fall with the position.
    """

    sop: tuple[str, ...] = ()
    person: str = ""
    born: tuple[int, ...] = ()
    estimated: bool = False  # the year of birth is the study's less the age
    sex: str = ""
    image_type: tuple[str, ...] = ()
    enhanced: bool = False
    shuffled: bool = False
    head: str = ""
    defaced: bool = False
    text: tuple[str, ...] = ()


def header_facts(paths: Sequence[Path], scan: Scan) -> Facts:
    """Read the headers of an image's files, in the order of space: the first whole, of the others two elements."""
    first = _header(paths[0])
    rest = [_header(path, _EACH) for path in paths[1:]]
    numbers = [_whole(text(header, "InstanceNumber", path)) for header, path in zip([first, *rest], paths, strict=True)]
    born, estimated = _born(first, paths[0])
    return Facts(
        sop=tuple(text(header, "SOPInstanceUID", path) for header, path in zip([first, *rest], paths, strict=True)),
        person=_person(first, paths[0]),
        born=born,
        estimated=estimated,
        sex=text(first, "PatientSex", paths[0]),
        image_type=words(first, "ImageType", paths[0]),
        enhanced=text(first, "SOPClassUID", paths[0]) in ENHANCED,
        shuffled=_shuffled([number for number in numbers if number is not None]),
        head=head_because(scan, first) or "",
        defaced=says_defaced(first),
        text=tuple(text_because(first)),
    )


def without_header(scan: Scan) -> Facts:
    """What can be said of an image that has no DICOM header: whether it is of a head's size."""
    return Facts(head=head_because(scan, Dataset()) or "")


def _header(path: Path, only: list[str] | None = None) -> Dataset:
    try:
        return dcmread(on_disk(path), stop_before_pixels=True, force=True, specific_tags=only, defer_size=4096)
    except BROKEN:
        return Dataset()


def _person(header: Dataset, path: Path) -> str:
    name = " ".join(text(header, "PatientName", path).replace("^", " ").casefold().split())
    born = text(header, "PatientBirthDate", path)
    return hashlib.sha256(f"{name}|{born}".encode()).hexdigest()[:16] if name and born else ""


def _born(header: Dataset, path: Path) -> tuple[tuple[int, ...], bool]:
    """The year of birth as stated, else as the study's date and the age at it give it."""
    stated = _whole(text(header, "PatientBirthDate", path)[:4])
    if stated is not None:
        return (stated,), False
    year, age = _whole(text(header, "StudyDate", path)[:4]), text(header, "PatientAge", path)
    years = _whole(age[:-1]) if age.endswith("Y") else None
    return ((year - years,), True) if year is not None and years is not None else ((), True)


def _whole(written: str) -> int | None:
    return int(written) if written.strip().lstrip("-").isdigit() else None


def _shuffled(numbers: Sequence[int]) -> bool:
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    return bool(steps) and not (all(step > 0 for step in steps) or all(step < 0 for step in steps))
