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

CLASSES = ["normal", "lesion"]


def phantom_source(data: DataConfig) -> DataConfig:
    """The same configuration with the phantoms on disk, in ``data.root`` or the user's cache, and their table named."""
    asked = [
        n for n in ("table", "key", "patient", "label", "site", "sex", "age", "pattern") if getattr(data, n) is not None
    ]
    if asked:
        raise InputError(
            *(
                Fault(
                    f"data.{name}", str(getattr(data, name)), "nothing: phantoms come with their table", "leave it out"
                )
                for name in asked
            )
        )
    folder = make_phantoms(Path(data.root) if data.root else _cache_folder(data), data.phantom)
    return dataclasses.replace(
        data,
        root=str(folder),
        table=str(folder / "labels.csv"),
        key="patient",
        patient=None,
        label="label",
        site="site",
        sex="sex",
        age="age",
        classes=data.classes or CLASSES,
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
