"""What `imgsynth plan` knows of a cohort: numbers that were declared, or what headers say. No image is opened."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from imgsynth import config as door
from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.inspect import is_flat
from imgsynth.schema import Config
from imgsynth.types import Fault, InputError, Unit

GROUPS = {"CT": "ct", "MR": "mr", "DX": "radiograph", "CR": "radiograph"}  # of configs/preprocess, by modality
NO_GRID = ("preprocess", "experiment")  # who names neither gets the grid of his modality


@dataclass(frozen=True)
class Asked:
    """``n`` units to train on, ``images`` of each (the median), and the configuration with the modality's grid."""

    n: int
    unit: str  # as people are told: patient, case or image
    privacy_unit: Unit
    images: int
    classes: int
    modality: str
    counted: bool  # by the data's headers; else declared
    config: Config
    overrides: list[str]  # those of the command that a run takes too, and the grid


def asked_of(overrides: Sequence[str]) -> Asked:
    """Raises InputError with all that is wrong: a model (the plan is to find one), no ε, nothing that says how many."""
    keys = door.keys_of(list(overrides))
    named = any(key.split(".")[0] in ("data", "experiment") and key != "data.modality" for key, _ in keys)
    declared = [key for key, _ in keys if key in ("plan.patients", "privacy.n")]
    faults = [Fault(key, line, "no model: all that were measured are ranked", "leave it out")
              for key, line in keys if key.split(".")[0] == "model"]  # fmt: skip
    if not named and not declared:
        faults.append(Fault("imgsynth plan", "nothing that says how many patients", "data, or a declared number of "
                            "patients to train on", "data=dicom data.root=DIR, or plan.patients=400"))  # fmt: skip
    if faults:
        raise InputError(*faults)
    modality = next((line.partition("=")[2] for key, line in keys if key == "data.modality"), None)
    grid = [] if modality is None else grid_for(keys, modality)
    config = door.from_overrides("plan", [*overrides, *grid])
    if config.privacy.mode == "none" or config.privacy.epsilon is None:
        raise InputError(Fault("privacy.epsilon", "none", "an ε to weigh methods at", "privacy=dp privacy.epsilon=8"))
    kept = [*(line for key, line in keys if key.split(".")[0] not in ("plan", "output")), *grid]
    if declared:
        n = config.privacy.n or config.plan.patients or 0
        classes = len(config.data.classes or ["all"])
        return Asked(n, config.data.unit, _unit(config.data.unit), config.data.images_per_patient, classes,
                     config.data.modality or "CT", False, config, kept)  # fmt: skip
    manifest, _ = build_manifest(config.data)
    if not grid and (grid := grid_for(keys, manifest.modality)):
        config, kept = door.from_overrides("plan", [*overrides, *grid]), [*kept, *grid]
    flat, axes = is_flat(manifest), len(config.preprocess.shape)
    if flat != (axes == 2):
        usual = "[64,64]" if flat else "[32,32,32]"
        raise InputError(Fault("preprocess.shape", f"{axes} axes, for {'planes' if flat else 'volumes'}",
                               f"{2 if flat else 3} axes", f"preprocess.shape={usual} preprocess.spacing=null "
                               "preprocess.fit=resize"))  # fmt: skip
    images = round(statistics.median(len(items) for items in manifest.by_patient.values()))
    unit = "case" if manifest.unit == "patient" and manifest.ids == "case" else manifest.unit
    n = config.privacy.n or len(manifest.patients("train"))
    return Asked(n, unit, manifest.unit, images, len(manifest.classes), manifest.modality, True, config, kept)


def _unit(unit: str) -> Unit:
    return "image" if unit == "image" else "patient"


def grid_for(keys: Sequence[tuple[str, str]], modality: str) -> list[str]:
    """The override that gives a modality its grid; none where the command names one, or the modality has none."""
    named = any(key in NO_GRID for key, _ in keys)
    return [] if named or modality not in GROUPS else [f"preprocess={GROUPS[modality]}"]
