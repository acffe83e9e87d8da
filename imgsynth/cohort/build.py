"""From a configured source to a manifest: find, join, check, split."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imgsynth.cohort.build_bids import find_bids
from imgsynth.cohort.build_check import cohort_faults, doubts
from imgsynth.cohort.build_dicom import find_dicom
from imgsynth.cohort.build_dicomweb import find_dicomweb
from imgsynth.cohort.build_images import find_images
from imgsynth.cohort.build_listed import find_listed, listed_source
from imgsynth.cohort.build_masks import mask_faults
from imgsynth.cohort.build_nifti import find_nifti
from imgsynth.cohort.build_nnunet import find_nnunet
from imgsynth.cohort.build_npz import find_medmnist, find_npz
from imgsynth.cohort.build_phantom import find_phantom, phantom_source
from imgsynth.cohort.build_scan import Found, Scan
from imgsynth.cohort.build_table import join_table, read_table
from imgsynth.cohort.ids import clean_id
from imgsynth.cohort.labels import age_band_of, class_of, sex_of
from imgsynth.cohort.manifest import Item, Manifest
from imgsynth.cohort.masks import structures_of
from imgsynth.cohort.splits import official_splits, split_patients
from imgsynth.console import warn
from imgsynth.schema import DataConfig
from imgsynth.types import Fault, InputError, Split, Unit

SOURCES: dict[str, Callable[[DataConfig], Found]] = {
    "phantom": find_phantom,
    "dicom": find_dicom,
    "dicomweb": find_dicomweb,
    "nifti": find_nifti,
    "bids": find_bids,
    "nnunet": find_nnunet,
    "npz": find_npz,
    "medmnist": find_medmnist,
    "images": find_images,
    "table": find_listed,
}
UNLABELLED = ("all",)
IMAGE_NOTE = "the source has no patient ids: the unit of privacy is the image, and a person may have several"
CASE_NOTE = (
    "patient ids are case ids taken from file names: if two cases are one person, the guarantee protects each case "
    "and not that person"
)
_GROUPS = ("patient", "study", "label", "site", "sex", "age")


@dataclass(frozen=True)
class Survey:
    """What a source holds, joined with its table: ``faults`` make it unusable, ``doubts`` may break what ε means."""

    data: DataConfig
    found: Found
    faults: list[Fault]
    doubts: list[Fault]


def survey_source(data: DataConfig) -> Survey:
    """Look through the configured source, and say all that is wrong with it.

    Raises:
        InputError: where there is nothing at all to look at.
    """
    if data.kind == "phantom":
        data = phantom_source(data)
    if data.root is None or not (data.kind == "dicomweb" or Path(data.root).exists()):
        raise InputError(Fault("data.root", str(data.root), "an existing folder or npz file", "data.root=PATH"))
    if data.kind == "table":
        data = listed_source(data)
    found = SOURCES[data.kind](data)
    if not found.scans:
        remedy = f"check data.root and data.kind ({', '.join(SOURCES)})"
        nothing = Fault(str(data.root), "no usable image", f"images of kind {data.kind}", remedy, "no_image")
        return Survey(data, found, [nothing], [])
    faults = _join(found, data) or cohort_faults(found, data) + mask_faults(found, data)
    return Survey(data, found, faults, doubts(found, data) if not faults else [])


def build_manifest(data: DataConfig) -> tuple[Manifest, list[Fault]]:
    """Find the cohort's images, settle who they are of and what they show, and fix the splits.

    The second value tells what was left out (unreadable files, localizers) and what is doubtful; the cohort is sound
    without it.

    Raises:
        InputError: with everything at once that makes the cohort unusable.
    """
    survey = survey_source(data)
    manifest, nonfatal = manifest_of(survey), survey.found.skipped + survey.doubts
    if nonfatal:
        whose = f" of {len(manifest.patients())} patients" if manifest.unit == "patient" else ""
        warn(
            f"in {survey.data.root}, left out or doubtful: {len(nonfatal)} (imgsynth inspect lists them); "
            f"the cohort has {len(manifest.items)} images{whose}"
        )
    return manifest, nonfatal


def manifest_of(survey: Survey) -> Manifest:
    """The surveyed cohort with its splits; raises InputError with everything that makes it unusable."""
    if survey.faults:
        raise InputError(*survey.faults, *survey.found.skipped)
    return _manifest(survey.found, survey.data)


def _join(found: Found, data: DataConfig) -> list[Fault]:
    """Fill in what file names, then tables, say; the faults of both."""
    faults = _apply_pattern(found, data.pattern) if data.pattern is not None else []
    if data.table is not None:
        faults += join_table(found, read_table(Path(data.table)), data)
    elif found.beside is not None:
        faults += join_table(found, found.beside, data, required=False)
    else:
        faults += _without_table(found, data)
    for scan in found.scans:
        scan.patient = clean_id(scan.patient or "") or None
    return faults


def _without_table(found: Found, data: DataConfig) -> list[Fault]:
    """Settings that name a column where there is no table to have it; an npz has arrays, DICOM a header."""
    faults = []
    for name in ("key", "patient", "label", "site", "sex", "age"):
        asked = getattr(data, name)
        beside = data.kind in {"patient": ("npz",), "label": ("npz", "dicom", "dicomweb")}.get(name, ())
        if asked is not None and not (beside and any(getattr(scan, name) for scan in found.scans)):
            faults.append(
                Fault(
                    f"data.{name}",
                    asked,
                    "a column of data.table, an array (npz) or, for labels, a keyword that the headers have (dicom)",
                    "data.table=<csv or tsv>",
                )
            )
    return faults


def _apply_pattern(found: Found, pattern: str) -> list[Fault]:
    """Read ids and labels out of relative paths; images whose path does not match are left out, with a fault."""
    expression = re.compile(pattern)
    if not set(expression.groupindex) & set(_GROUPS):
        return [
            Fault(
                "data.pattern", pattern, f"a named group of {', '.join(_GROUPS)}", "data.pattern='(?P<patient>[^/]+)/'"
            )
        ]
    kept: list[Scan] = []
    strangers: list[str] = []
    named = 0  # images whose patient the pattern names; where it leaves some out, case ids stay case ids
    for scan in found.scans:
        match = expression.search(scan.names[0])
        if match is None:
            strangers.append(scan.names[0])
            continue
        for group, text in match.groupdict().items():
            if group in _GROUPS and text is not None:
                setattr(scan, group, text)
        kept.append(scan)
        named += bool(match.groupdict().get("patient"))
    if strangers and kept:
        found.skipped.append(
            Fault(
                "data.pattern",
                f"{len(strangers)} of {len(found.scans)} paths that do not match: {', '.join(strangers[:5])}",
                pattern,
                "widen the pattern, if they belong to the cohort",
                "unmatched_path",
                tuple(name for scan in found.scans if not expression.search(scan.names[0]) for name in scan.files),
            )
        )
    found.scans = kept
    if named == len(kept) > 0:
        found.ids = "source"
    return [] if kept else [Fault("data.pattern", "no path that matches", pattern, f"paths look like {strangers[0]}")]


def _manifest(found: Found, data: DataConfig) -> Manifest:
    classes = tuple(data.classes or UNLABELLED)
    unit: Unit = "image" if data.unit == "image" else "patient"
    items = [_item(scan, unit, classes) for scan in found.scans]
    notes = list(found.notes)
    if unit == "image":
        notes.append(IMAGE_NOTE)
    elif found.ids == "case":
        notes.append(CASE_NOTE)
    ids: Literal["patient", "case"] = "case" if CASE_NOTE in notes else "patient"
    unsplit = Manifest(data.kind, str(found.root.resolve()), unit, classes, tuple(items), tuple(notes), ids=ids,
                       structures=structures_of(data.masks))  # fmt: skip
    if data.splits.official:
        splits = official_splits((item.patient, scan.part) for item, scan in zip(items, found.scans, strict=True))
    else:
        splits = split_patients(unsplit.patient_classes(), data.splits)
    placed = tuple(_placed(item, splits) for item in unsplit.items)
    return dataclasses.replace(unsplit, items=placed)


def _item(scan: Scan, unit: Unit, classes: tuple[str, ...]) -> Item:
    own = scan.patient if unit == "patient" and scan.patient else scan.names[0]
    label = class_of(scan.label, classes) if scan.label is not None else None
    return Item(
        own,
        scan.study,
        scan.series,
        scan.files,
        str(scan.modality),
        tuple(scan.shape),
        tuple(scan.spacing),
        scan.digest,
        scan.orientation,
        scan.dtype,
        scan.array,
        scan.row,
        label,
        scan.site,
        sex_of(scan.sex),
        age_band_of(scan.age),
        scan.mask,
        mask_digest=scan.mask_digest,
        affine=scan.affine,
        frames=scan.frames,
    )


def _placed(item: Item, splits: dict[str, Split]) -> Item:
    return dataclasses.replace(item, split=splits[item.patient])
