"""Who is in the cohort, which files are whose, and which split each patient is in: written once, read ever after.

On disk it is two files. ``manifest.json`` knows patients, studies and series by keyed hashes alone, and names no file.
``local/files.json`` beside it, readable by its owner alone, has the paths, of which many hold ids: pixels cannot be
read without them. It has no hashes, so that neither file alone says which hash is whom.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from imgsynth.cohort.sources_file import Source, read_sources, write_sources
from imgsynth.files import read_json, write_json
from imgsynth.keyed import key_check, keyed, normal
from imgsynth.types import SPLITS, Fault, InputError, Split, Structure, Unit

FORMAT = "imgsynth-manifest-2"
FILES = "local/files.json"  # beside the manifest
_NAMES = ("files", "array", "mask")  # fields of an item that name something in the source


@dataclass(frozen=True)
class Item:
    """One image of one patient.

    ``patient``, ``study`` and ``series`` are ids as the source has them, or their keyed hashes (``Manifest.key``).
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
    """A cohort whose splits are fixed. LOCAL ONLY: it names files, and has hashes of private data.

    As a source is read, its ids are as they stand there; ``hashed`` hides them, and no other manifest can be saved.
    """

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
    key: str = ""  # ``key_check`` of the key that ids are hashed with; "": they are in the clear

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", content_fingerprint(self.items))

    @property
    def modality(self) -> str:
        """The cohort's one modality (``build_manifest`` refuses a mixture)."""
        return self.items[0].modality

    @property
    def by_patient(self) -> dict[str, tuple[Item, ...]]:
        """Every patient's images, patients and images in the order of their files, which no key changes."""
        found: dict[str, list[Item]] = {}
        for item in sorted(self.items, key=lambda item: (item.files, item.array or "", item.row or 0)):
            found.setdefault(item.patient, []).append(item)
        return {patient: tuple(items) for patient, items in found.items()}

    def patients(self, split: Split | None = None) -> list[str]:
        """Ids of the patients in ``split`` (all of them by default), in the order of ``by_patient``."""
        return [name for name, items in self.by_patient.items() if split is None or items[0].split == split]

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

    def hashed(self, key: bytes) -> Manifest:
        """The same cohort with keyed hashes in the place of ids of patients, studies and series.

        A patient's hash is the one that the privacy ledger knows him by (``privacy/patients.py``); where the unit is
        the image, ``patient`` is the name of its file, which the ledger does not use.
        """
        if self.key:
            raise ValueError("Expected a manifest with ids in the clear, got one whose ids are hashed already.")

        def patient(name: str) -> str:
            return (keyed(key, "name", name) if self.unit == "image" else keyed(key, self.unit, normal(name))).hex()

        items = tuple(
            dataclasses.replace(
                item,
                patient=patient(item.patient),
                study=item.study and keyed(key, "study", item.study).hex(),
                series=item.series and keyed(key, "series", item.series).hex(),
            )
            for item in self.items
        )
        return dataclasses.replace(self, items=items, key=key_check(key))

    def save(self, path: Path) -> Path:
        """Write as JSON, names of files to ``FILES`` beside ``path``; each appears whole or not at all."""
        if not self.key:
            raise ValueError("Expected keyed hashes in the place of ids (Manifest.hashed), got ids in the clear.")
        sources = [Source(item.files, item.array, item.mask) for item in self.items]
        write_sources(path.parent / FILES, self.fingerprint, self.root, sources)
        value = dataclasses.asdict(self)
        del value["root"]
        for entry in value["items"]:
            for name in _NAMES:
                del entry[name]
        return write_json(path, {"format": FORMAT, "local_only": True, **value})

    @staticmethod
    def load(path: Path) -> Manifest:
        """Read what ``save`` wrote.

        Raises:
            InputError: if the file is not a manifest of this format, if its content does not give the fingerprint
                that it states (it was edited after the splits were fixed), or without the names of its files.
        """
        value: dict[str, Any] = read_json(path)
        if value.get("format") != FORMAT:
            raise InputError(
                Fault(
                    str(path),
                    repr(value.get("format")),
                    f"{FORMAT}, which has keyed hashes in the place of ids and of names of files",
                    "train into a new output=DIR, and remove this file, which names patients, when its run is not "
                    "needed any more",
                )
            )
        root, sources = read_sources(path.parent / FILES, value["fingerprint"], len(value["items"]))
        items = tuple(_item(entry, source) for entry, source in zip(value["items"], sources, strict=True))
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
            root,
            value["unit"],
            tuple(value["classes"]),
            items,
            tuple(value["notes"]),
            value["fingerprint"],
            value["ids"],
            tuple(Structure.from_json(entry) for entry in value.get("structures", ())),
            value["key"],
        )


def content_fingerprint(items: Iterable[Item]) -> str:
    """SHA-256 over (content, label) of every image, patient by patient: who an image is of counts, what he is called
    does not, nor does the order of items, the names of files, or the key of hashed ids.

    Masks are left out: with them or without, the cohort is the same patients, and has one account in the ledger.

    LOCAL ONLY: a hash of private data confirms a guess of that data (with a voxel or a label unknown, all values can be
    tried), so it must never be released.
    """
    found: dict[str, list[str]] = {}
    for item in items:
        found.setdefault(item.patient, []).append(f"{item.digest}\x1f{item.label or ''}")
    patients = sorted("\x1e".join(sorted(lines)) for lines in found.values())
    return hashlib.sha256("\x1d".join(patients).encode()).hexdigest()


def _item(entry: dict[str, Any], source: Source) -> Item:
    entry |= {"files": source.files, "array": source.array, "mask": source.mask}
    for name in ("shape", "spacing", "affine", "frames"):
        entry[name] = tuple(entry[name])
    if entry["split"] not in SPLITS:
        raise ValueError(f"Expected a split of {SPLITS}, got {entry['split']!r}.")
    return Item(**entry)
