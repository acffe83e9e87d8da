"""What every kind of source hands over: the images it found, before ids, labels and splits are settled."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from imgsynth.types import Fault, Split

if TYPE_CHECKING:
    from imgsynth.cohort.build_table import Table

# Where patient ids come from. "source": the source states them (header, BIDS entity, table column, array, pattern);
# "case": names of cases stand in for them (Medical Segmentation Decathlon), and two cases may be one person.
Ids = Literal["source", "case"]


@dataclass
class Scan:
    """One image as it lies in its source. Text fields are raw: as written in a header, a name or a table."""

    names: tuple[str, ...]  # what a table may call it: relative path first, then file name, then stem
    files: tuple[str, ...]  # relative to the root
    modality: str | None
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    dtype: str = ""
    digest: str = ""
    patient: str | None = None
    study: str = ""
    series: str = ""
    label: str | None = None
    site: str | None = None
    sex: str | None = None
    age: str | None = None
    array: str | None = None
    row: int | None = None
    mask: str | None = None
    mask_digest: str = ""
    affine: tuple[float, ...] = ()  # 4×4 by rows, where files alone do not give it (DICOM)
    frames: tuple[int, ...] = ()  # of a multi-frame file, in the order of space
    part: Split | None = None  # where the source has parts of its own


@dataclass
class Found:
    """All images of a source. ``skipped`` is what was left out and why; ``notes`` are caveats without patient data."""

    root: Path
    scans: list[Scan] = field(default_factory=list)
    skipped: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ids: Ids = "source"
    beside: Table | None = None  # what a table that lies in the source says of its images or patients


def stem_of(path: Path) -> str:
    """The file's name without its image suffix; ".nii.gz" is one suffix."""
    name = path.name
    return name[: -len(".nii.gz")] if name.endswith(".nii.gz") else path.stem


def names_of(relative: Path) -> tuple[str, str, str]:
    return relative.as_posix(), relative.name, stem_of(relative)


def files_under(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files with one of ``suffixes`` (lower case), at any depth, sorted; hidden ones (macOS "._x.nii.gz") left out."""
    return sorted(
        path
        for path in root.rglob("*")
        if path.name.lower().endswith(suffixes)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
