"""The phantom cohort: made where it is missing, then read like any clinical folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from imgsynth.cohort.build_dicom import find_dicom
from imgsynth.cohort.build_scan import Found
from imgsynth.cohort.phantom import make_phantoms
from imgsynth.cohort.phantom_plan import config_key
from imgsynth.schema import DataConfig
from imgsynth.types import Fault, InputError

CLASSES = {"label": ["normal", "lesion"], "sex": ["F", "M"]}  # by column of the table that can be the label


def phantom_source(data: DataConfig) -> DataConfig:
    """The same configuration with the phantoms on disk, in ``data.root`` or the user's cache, and their table named.
    Raises InputError where it names another table, or columns that are none of its labels."""
    table = "phantoms come with their table"
    faults = [
        Fault(f"data.{name}", str(getattr(data, name)), f"nothing: {table}", "leave it out")
        for name in ("table", "key", "patient", "site", "sex", "age", "pattern")
        if getattr(data, name) is not None
    ]
    label = data.label or "label"
    if label not in CLASSES:
        faults.append(
            Fault(
                "data.label",
                label,
                f"one of {', '.join(CLASSES)}: {table}",
                "leave it out, or data.label=sex data.classes=[F,M]",
            )
        )
    elif not set(CLASSES[label]) <= set(data.classes or CLASSES[label]):
        own = ",".join(CLASSES[label])
        faults.append(Fault("data.classes", str(data.classes), f"[{own}], which they have", f"data.classes=[{own}]"))
    if faults:
        raise InputError(*faults)
    folder = make_phantoms(Path(data.root) if data.root else _cache_folder(data), data.phantom)
    return dataclasses.replace(
        data,
        root=str(folder),
        table=str(folder / "labels.csv"),
        key="patient",
        patient=None,
        label=label,
        site="site",
        sex="sex",
        age="age",
        classes=data.classes or CLASSES[label],
        modality="CT",
    )


def find_phantom(data: DataConfig) -> Found:
    found = find_dicom(data)
    found.notes.append("digital phantoms: no person's data is in this cohort")
    return found


def _cache_folder(data: DataConfig) -> Path:
    """Named by what the phantoms are made from, so that another configuration or version finds another folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "imgsynth" / f"phantom-{config_key(data.phantom)[:12]}"
