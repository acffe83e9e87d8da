"""Who is in the cohort, which files are whose, and which split each patient is in: written once, read ever after."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from imgsynth.files import read_json, write_json
from imgsynth.types import SPLITS, Fault, InputError, Split, Structure, Unit

FORMAT = "imgsynth-manifest-1"


@dataclass(frozen=True)
class Item:
    """One image of one patient.

    ``files`` are relative to the manifest's root; a row of an npz array has the npz as its only file and says which
    ``array`` and ``row``. ``digest`` is the SHA-256 of the content (its files, or the row with shape and dtype).
    """

    patient: str
    study: str
    series: str
    files: tuple[str, ...]
    modality: str
    shape: tuple[int, ...]  # voxels [i, j, k]
    spacing: tuple[float, ...]  # mm
    digest: str
    orientation: str = ""  # axis codes of the stored array
    dtype: str = ""
    array: str | None = None
    row: int | None = None
    label: str | None = None  # one of the manifest's classes
    site: str | None = None
    sex: str | None = None  # M, F or O
    age_band: str | None = None  # "60-69"; "90+" above
    mask: str | None = None  # segmentation that lies beside the image, relative to root
    mask_digest: str = ""  # SHA-256 of that file, where masks are used
    split: Split = "train"
    affine: tuple[float, ...] = ()  # DICOM: 4×4 by rows, voxel indices to RAS+ mm, as the stack was indexed
    frames: tuple[int, ...] = ()  # DICOM: of a multi-frame file, in the order of space

    @property
    def where(self) -> str:
        """How a person finds this image."""
        more = f" (and {len(self.files) - 1} more files)" if len(self.files) > 1 else ""
        return self.files[0] + (f"[{self.array}][{self.row}]" if self.array is not None else "") + more


@dataclass(frozen=True)
class Manifest:
    """A cohort whose splits are fixed. LOCAL ONLY: it names patients, files and hashes of private data."""

    kind: str
    root: str
    unit: Unit
    classes: tuple[str, ...]  # the public list of labels; ("all",) where there are none
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()  # caveats that hold for every number computed from this cohort; no patient data in them
    fingerprint: str = field(default="")
    # "case": the source has only case ids (file names), so that two "patients" may be one person
    ids: Literal["patient", "case"] = "patient"
    structures: tuple[Structure, ...] = ()  # the public list of the masks' structures; none: masks are not used

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", content_fingerprint(self.items))

    @property
    def modality(self) -> str:
        """The cohort's one modality (``build_manifest`` refuses a mixture)."""
        return self.items[0].modality

    @property
    def by_patient(self) -> dict[str, tuple[Item, ...]]:
        """Every patient's images, patients and images in a fixed order."""
        found: dict[str, list[Item]] = {}
        for item in sorted(self.items, key=lambda item: (item.patient, item.study, item.series, item.where)):
            found.setdefault(item.patient, []).append(item)
        return {patient: tuple(items) for patient, items in found.items()}

    def patients(self, split: Split | None = None) -> list[str]:
        """Ids of the patients in ``split`` (all of them by default), sorted."""
        return sorted({item.patient for item in self.items if split is None or item.split == split})

    def class_index(self, item: Item) -> int:
        return self.classes.index(item.label) if item.label is not None else 0

    def patient_classes(self, split: Split | None = None) -> dict[str, int]:
        """Each patient's one class index: the last of ``classes`` that any image of the patient has.

        Classes are declared from the normal to the severe, so one diseased study makes a diseased patient. This is
        what splits are stratified by and what a histogram of *patients* counts (each patient adds exactly 1).
        """
        found: dict[str, int] = {}
        for item in self.items:
            if split is None or item.split == split:
                found[item.patient] = max(found.get(item.patient, 0), self.class_index(item))
        return dict(sorted(found.items()))

    def class_counts(self, split: Split | None = None) -> list[int]:
        """Patients of each class (``patient_classes``), in the order of ``classes``. Private unless noise is added."""
        counts = Counter(self.patient_classes(split).values())
        return [counts[index] for index in range(len(self.classes))]

    def save(self, path: Path) -> Path:
        """Write as JSON; the file appears whole or not at all."""
        return write_json(path, {"format": FORMAT, "local_only": True, **dataclasses.asdict(self)})

    @staticmethod
    def load(path: Path) -> Manifest:
        """Read what ``save`` wrote.

        Raises:
            InputError: if the file is not a manifest of this format, or if its content does not give the fingerprint
                that it states (it was edited after the splits were fixed).
        """
        value: dict[str, Any] = read_json(path)
        if value.get("format") != FORMAT:
            raise InputError(Fault(str(path), repr(value.get("format")), FORMAT, "make the manifest again"))
        items = tuple(_item(entry) for entry in value["items"])
        if content_fingerprint(items) != value["fingerprint"]:
            raise InputError(
                Fault(
                    str(path),
                    "items that do not give its fingerprint",
                    "the manifest as it was written",
                    "start a new run: an edited manifest would break the record of who was in training",
                )
            )
        return Manifest(
            value["kind"],
            value["root"],
            value["unit"],
            tuple(value["classes"]),
            items,
            tuple(value["notes"]),
            value["fingerprint"],
            value.get("ids", "case"),  # a manifest of before the field was there: claim no more than it can show
            tuple(Structure.from_json(entry) for entry in value.get("structures", ())),
        )


def content_fingerprint(items: Iterable[Item]) -> str:
    """SHA-256 over (content, patient, label) of every image; the order of items and the names of files do not matter.

    Masks are left out: with them or without, the cohort is the same patients, and has one account in the ledger.

    LOCAL ONLY: a hash of private data confirms a guess of that data (with an id or a voxel unknown, all values can be
    tried), so it must never be released.
    """
    lines = sorted("\x1f".join((item.digest, item.patient, item.label or "")) for item in items)
    return hashlib.sha256("\x1e".join(lines).encode()).hexdigest()


def _item(entry: dict[str, Any]) -> Item:
    for name in ("files", "shape", "spacing", "affine", "frames"):
        entry[name] = tuple(entry[name])
    if entry["split"] not in SPLITS:
        raise ValueError(f"Expected a split of {SPLITS}, got {entry['split']!r}.")
    return Item(**entry)
