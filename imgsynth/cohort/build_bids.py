"""BIDS datasets, read by pybids: images by their entities, masks beside them, tables of participants and sessions.

An extra, ``pip install imgsynth[intake]``, imported only when asked for.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsynth.cohort.bids_tables import participants
from imgsynth.cohort.build_mask_check import check_masks
from imgsynth.cohort.build_probe import probe_all
from imgsynth.cohort.build_scan import Found, Scan, names_of
from imgsynth.cohort.dataset_json import modality_of
from imgsynth.files import read_json
from imgsynth.schema import DataConfig
from imgsynth.types import Fault, InputError, nearest_name

if TYPE_CHECKING:
    from bids.layout import BIDSLayout

EXTENSIONS = [".nii", ".nii.gz"]
MASKS = ("dseg", "mask")  # the first that an image has is its mask
ALL = "*"  # for an entity: with any value, or without it
# What tells persons, visits and repetitions apart; images that differ in anything else are of different kinds.
_WHO = ("subject", "session", "run", "sample", "chunk", "scans")
_ABOUT_FILES = ("extension", "datatype", "fmap", "modality", "Modality")
Entities = dict[str, Any]
Images = dict[Path, Entities]


def find_bids(data: DataConfig) -> Found:
    """The images of one kind, ``data.entities``, of a BIDS dataset or of its derivative ``data.derivatives``.

    Patients are its subjects, studies its sessions. An entity may be one value, a list of values, null for images
    without it, or "*". A mask is an image's ``_dseg``, else its ``_mask``, with the same entities otherwise.

    Raises:
        InputError: if it is no BIDS dataset, if an entity is unknown, or if what matches is a mixture of contrasts,
            spaces or the like, with what there is to choose from.
    """
    root = Path(str(data.root))
    layout = _layout(root, data.derivatives)
    files = {Path(file.path): file.get_entities() for file in layout.get(extension=EXTENSIONS)}
    masks = [(path, entities) for path, entities in sorted(files.items()) if entities.get("suffix") in MASKS]
    found = Found(root)
    images = _named_rightly(
        found, {p: e for p, e in sorted(files.items()) if e.get("suffix") not in MASKS}, data.derivatives is not None
    )
    chosen = _chosen(images, _wanted(data.entities, images, layout))
    for path, entities in chosen.items():
        modality = layout.get_metadata(path).get("Modality")
        found.scans.append(_scan(path.relative_to(root), entities, modality, data.modality))
        _give_mask(found, found.scans[-1], entities, masks)
    for path in sorted(set(images) - set(chosen)):
        name = path.relative_to(root).as_posix()
        found.skipped.append(Fault(name, "an image of other entities", "those of data.entities (anat where none are)",
                                   "nothing, or data.entities", "other_image", (name,)))  # fmt: skip
    found.beside = participants(found)
    return check_masks(probe_all(found))


def _layout(root: Path, derivatives: str | None) -> BIDSLayout:
    try:
        from bids import BIDSLayout
        from bids.exceptions import PyBIDSError
    except ImportError as error:
        raise InputError(Fault("data.kind", "bids, without pybids installed", "the extra intake",
                               "pip install 'imgsynth[intake]'")) from error  # fmt: skip
    _check_description(root)
    folder = root if derivatives is None else _derivative(root, derivatives)
    configs = ["bids"] if derivatives is None else ["bids", "derivatives"]
    try:  # files that are not of BIDS are found too, to be named
        return BIDSLayout(folder, validate=False, config=configs, is_derivative=derivatives is not None)
    except (PyBIDSError, ValueError, OSError) as error:
        raise InputError(Fault(str(folder), f"what pybids cannot read ({' '.join(str(error).split())[:300]})",
                               "a BIDS dataset", "run the BIDS validator over it")) from error  # fmt: skip


def _check_description(folder: Path) -> None:
    path = folder / "dataset_description.json"
    try:
        told = read_json(path) if path.is_file() else None
    except (OSError, ValueError) as error:
        raise InputError(Fault(str(path), f"unreadable JSON ({error})", "a JSON object", "repair it")) from error
    if not isinstance(told, dict) or not {"Name", "BIDSVersion"} <= set(told):
        raise InputError(
            Fault(str(path), "no such file" if told is None else "no Name or no BIDSVersion in it",
                  "the dataset_description.json at the root of a BIDS dataset",
                  'point data.root at the root, write {"Name": "…", "BIDSVersion": "1.8.0"} there, or data=nifti for '
                  "a folder that is no BIDS dataset")
        )  # fmt: skip


def _derivative(root: Path, name: str) -> Path:
    folder = root / "derivatives" / name
    present = sorted(path.name for path in (root / "derivatives").glob("*/") if path.is_dir())
    if name not in present:
        raise InputError(Fault("data.derivatives", name, f"one of {', '.join(present) or 'none: there are none'}",
                               f"data.derivatives={nearest_name(name, present) or 'null'}"))  # fmt: skip
    _check_description(folder)
    return folder


def _named_rightly(found: Found, images: Images, derivative: bool) -> Images:
    """Images whose names are of BIDS; others are named in ``found``. (Its validator knows no names of derivatives.)"""
    from bids_validator import BIDSValidator

    validator, kept = BIDSValidator(), {}
    for path, entities in images.items():
        name = path.relative_to(found.root).as_posix()
        if "subject" in entities and (derivative or validator.is_bids(f"/{name}")):
            kept[path] = entities
        else:
            fault = Fault(name, "a name that is not of BIDS", "sub-<label>/…/sub-<label>_…_<suffix>",
                          "rename it, or nothing if it is not wanted", "other_image", (name,))  # fmt: skip
            found.skipped.append(fault)
    return kept


def _wanted(asked: Entities, images: Images, layout: BIDSLayout) -> Entities:
    """What was asked for, if such entities exist; anatomical images where neither suffix nor datatype was."""
    known = set(layout.get_entities()) - set(_ABOUT_FILES) | {"suffix", "datatype"}
    faults = [
        Fault(f"data.entities.{name}", _text(value), f"one of the entities {', '.join(sorted(known))}",
              f"data.entities.{nearest_name(name, known) or 'suffix'}={_text(value)}")
        for name, value in asked.items() if name not in known
    ]  # fmt: skip
    if faults:
        raise InputError(*faults)
    anatomical = any(entities.get("datatype") == "anat" for entities in images.values())
    return asked if not anatomical or {"suffix", "datatype"} & set(asked) else {**asked, "datatype": "anat"}


def _chosen(images: Images, wanted: Entities) -> Images:
    """The images that have all ``wanted`` entities, and are of one kind."""
    chosen = {path: own for path, own in images.items() if all(_has(own, *one) for one in wanted.items())}
    faults = []
    if images and not chosen:
        for name, value in wanted.items():
            there = Counter(_text(own.get(name)) for own in images.values())
            faults.append(Fault(f"data.entities.{name}", _text(value), f"entities that images have: {_listed(there)}",
                                f"data.entities.{name}={there.most_common(1)[0][0]}"))  # fmt: skip
    told = {name for name, value in wanted.items() if value == ALL or isinstance(value, list)}
    names = sorted({name for own in chosen.values() for name in own} - {*_WHO, *_ABOUT_FILES} - told)
    for name in names:
        there = Counter(_text(own.get(name)) for own in chosen.values())
        if len(there) > 1:
            remedy = f"data.entities.{name}={there.most_common(1)[0][0]}; a list or '*' for a mixture that is meant"
            faults.append(Fault(f"data.entities.{name}", f"a mixture: {_listed(there)}", "images of one kind", remedy))
    if faults:  # a mixture of suffixes brings others with it, which are none when it is settled
        raise InputError(*[fault for fault in faults if fault.where.endswith(".suffix")] or faults)
    return chosen


def _has(own: Entities, name: str, wanted: Any) -> bool:
    """Labels are text (01 is not 1); an index like run is a number, however it is padded."""
    if wanted == ALL:
        return True
    values, value = wanted if isinstance(wanted, list) else [wanted], own.get(name)
    forms = {_text(value)} | ({str(int(value))} if isinstance(value, int) else set())
    return any(_text(one) in forms for one in values)


def _scan(name: Path, own: Entities, stated: str | None, declared: str | None) -> Scan:
    session = f"ses-{own.get('session', '1')}"
    modality = stated or modality_of(str(own["suffix"])) or ("MR" if own.get("datatype") == "anat" else declared)
    return Scan(names_of(name), (name.as_posix(),), modality, patient=f"sub-{own['subject']}", study=session,
                series=names_of(name)[2])  # fmt: skip


def _give_mask(found: Found, scan: Scan, own: Entities, masks: list[tuple[Path, Entities]]) -> None:
    """The mask that says nothing else of itself than the image does; of several, the one that says most."""
    near = [(MASKS.index(entities["suffix"]), -len(_told(entities)), path) for path, entities in masks
            if _told(entities) <= _told(own) and entities.get("space") == own.get("space")]  # fmt: skip
    best = [path for *rank, path in near if rank == list(min(near)[:2])]
    if len(best) == 1:
        scan.mask = best[0].relative_to(found.root).as_posix()
    elif best:
        names = ", ".join(path.name for path in best)
        found.skipped.append(Fault(scan.names[0], f"several masks: {names} (the image is kept, without a mask)",
                                   "one mask for an image", "leave one of them", "mask_left_out"))  # fmt: skip


def _told(own: Entities) -> set[tuple[str, str]]:
    kinds = ("suffix", "desc", "label", "extension", "datatype")
    return {(name, str(value)) for name, value in own.items() if name not in kinds}


def _listed(there: Counter[str]) -> str:
    return ", ".join(f"{value} ({count})" for value, count in there.most_common(12))


def _text(value: Any) -> str:
    return "null" if value is None else str(value)
