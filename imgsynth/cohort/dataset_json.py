"""What a dataset.json says: Medical Segmentation Decathlon, nnU-Net of both versions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgsynth.cohort.build_scan import stem_of
from imgsynth.files import read_json
from imgsynth.types import Fault, InputError

_KIND = "the dataset.json of a Medical Segmentation Decathlon or nnU-Net data set"


@dataclass(frozen=True)
class Described:
    """A dataset.json as far as it speaks of images; what it does not state is empty or None."""

    path: Path
    channels: dict[int, str] = field(default_factory=dict)
    labels: dict[int, str] = field(default_factory=dict)  # by value; with background and, where it has one, ignore
    ending: str | None = None  # of file names, ".nii.gz" say
    count: int | None = None  # numTraining
    training: dict[str, bool] | None = None  # cases, and whether a label is listed for them


def read_dataset_json(path: Path, required: bool) -> Described:
    """Read it; where it is absent and not ``required``, nothing is stated.

    Raises:
        InputError: with all of its entries that cannot be understood.
    """
    if not path.is_file():
        if not required:
            return Described(path)
        raise InputError(Fault(str(path), "no such file", _KIND, "data=nifti, where there is none"))
    try:
        told = read_json(path)
    except (OSError, ValueError) as error:  # JSON that is none, or no UTF-8
        raise InputError(Fault(str(path), f"unreadable JSON ({error})", _KIND, "repair it")) from error
    if not isinstance(told, dict):
        raise InputError(Fault(str(path), f"a {type(told).__name__}", f"{_KIND}: an object", "repair it"))
    faults: list[Fault] = []

    def take(key: str, understood: str, read: Any) -> Any:
        try:
            return read(told[key]) if key in told else None
        except (TypeError, ValueError, AttributeError, KeyError):
            faults.append(Fault(f"{path}, {key}", repr(told[key])[:80], understood, "correct it"))
            return None

    channels = take("channel_names", '{"0": "CT"}', _channels) or take("modality", '{"0": "CT"}', _channels)
    labels = take("labels", '{"0": "background", "1": "liver"} or {"background": 0, "liver": 1}', _labels)
    ending = take("file_ending", "text that begins with a point", _ending)
    count = take("numTraining", "a whole number", _whole)
    training = take("training", '[{"image": "./imagesTr/NAME", "label": "./labelsTr/NAME"}], no case twice', _training)
    if "dataset" in told:
        faults.append(Fault(f"{path}, dataset", "a list of images that may lie anywhere", "images in imagesTr",
                            "data=table with a csv of their paths"))  # fmt: skip
    if faults:
        raise InputError(*faults)
    return Described(path, channels or {}, labels or {}, ending, count, training)


def modality_of(channel: str) -> str | None:
    """The DICOM modality that the name of a channel speaks of; None where it does not tell."""
    name = channel.upper()
    if re.search(r"(?<![A-Z])CT(?![A-Z])", name):
        return "CT"
    return "MR" if re.search(r"MR|T1|T2|FLAIR|ADC|DWI|^PDW?$", name) else None


def _channels(told: Any) -> dict[int, str]:
    return {int(number): str(name) for number, name in told.items()}


def _labels(told: Any) -> dict[int, str]:
    """{"0": name} (decathlon, nnU-Net 1), or {name: 0} and {name: [1, 2]} for regions (nnU-Net 2)."""
    found: dict[int, str] = {}
    for key, value in told.items():
        if str(key).isdigit():
            found[int(key)] = str(value)
        else:
            found |= {_whole(one): str(key) for one in (value if isinstance(value, list) else [value])}
    return found


def _ending(told: Any) -> str:
    if not isinstance(told, str) or not told.startswith("."):
        raise ValueError
    return told


def _whole(told: Any) -> int:
    if isinstance(told, bool) or int(told) != float(told):
        raise ValueError
    return int(told)


def _training(told: Any) -> dict[str, bool]:
    """Cases by the names of their images: folders are imagesTr and labelsTr, whatever path is written."""
    found: dict[str, bool] = {}
    for entry in told:
        image = entry["image"] if isinstance(entry, dict) else entry
        labelled = isinstance(entry, dict) and bool(entry.get("label"))
        case = stem_of(Path(image))
        if case in found:
            raise ValueError
        found[case] = labelled
    return found
