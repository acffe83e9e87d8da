"""What there is to see: the images of a release, and beside a run those of its real patients, by number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from imgsynth.cohort.grid import grid_of
from imgsynth.cohort.load import load_volume
from imgsynth.cohort.manifest import Item, Manifest
from imgsynth.cohort.transforms import Pipeline, build_transforms
from imgsynth.files import read_json
from imgsynth.release.images import release_volume
from imgsynth.release.patients import COHORT_JSON, SyntheticPatient, grid_from_json
from imgsynth.training.folder import RunFolder
from imgsynth.training.run import read_config
from imgsynth.types import Fault, Grid, InputError
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.nifti import read_nifti
from imgsynth.volumes.volume import Volume

SHOWN = 12  # of a real patient's hash: enough for imgsynth whois


@dataclass(frozen=True)
class Entry:
    """One image that can be looked at; ``read`` loads it when somebody does. ``note``: the split of a real one."""

    kind: Literal["real", "synthetic"]
    name: str
    label: str | None
    read: Callable[[], Volume]
    note: str | None = None


@dataclass(frozen=True)
class Shelf:
    """All images, in the order of their numbers; ``window`` is the intensity range that the grid declares."""

    title: str
    entries: tuple[Entry, ...]
    window: tuple[float, float]

    @property
    def local(self) -> bool:
        """Whether there are real patients on it."""
        return any(entry.kind == "real" for entry in self.entries)

    def listing(self) -> dict[str, Any]:
        """What the page shows before any image is read."""
        return {
            "title": self.title,
            "local": self.local,
            "window": self.window,
            "entries": [{"kind": e.kind, "name": e.name, "label": e.label, "note": e.note} for e in self.entries],
        }


def shelf_of(folder: Path, extra: Callable[[Any], Sequence[Any]]) -> Shelf:
    """The shelf of ``folder``: a release, or a run with its release where it has one.

    ``extra`` instantiates a run's further transforms from its configuration. Real images are shown as the generator was
    shown them, on the public grid, so that both sides have one scale.

    Raises:
        InputError: if ``folder`` is neither, or lists files outside itself.
    """
    folder = Path(folder)
    if (folder / COHORT_JSON).is_file():
        grid, entries = _synthetic(folder)
        return Shelf(f"release {folder.resolve().name}", tuple(entries), (grid.low, grid.high))
    run = RunFolder(folder)
    if not run.begun:
        raise InputError(
            Fault(str(folder), f"no {COHORT_JSON} and no config.json", "a release, or the folder of a run",
                  "imgsynth show RUN/release, or imgsynth show RUN")
        )  # fmt: skip
    grid, entries = _real(run, extra)
    if (folder / "release" / COHORT_JSON).is_file():
        entries += _synthetic(folder / "release")[1]
    return Shelf(f"run {folder.resolve().name}", tuple(entries), (grid.low, grid.high))


def _synthetic(release: Path) -> tuple[Grid, list[Entry]]:
    cohort = read_json(release / COHORT_JSON)
    patients = [SyntheticPatient.from_json(entry) for entry in cohort["patients"]]
    inside = release.resolve()
    outside = [
        name
        for patient in patients
        for name in (*patient.dicom, *patient.nifti)
        if not (release / name).resolve().is_relative_to(inside)
    ]
    if outside:
        raise InputError(
            *(Fault(f"{release / COHORT_JSON}", repr(name), "a file of the release", "get the release again")
              for name in outside[:10])
        )  # fmt: skip
    entries = [Entry("synthetic", p.id, p.label, partial(_released, release, p)) for p in patients]
    return grid_from_json(cohort["grid"]), entries


def _released(release: Path, patient: SyntheticPatient) -> Volume:
    if patient.nifti:
        return read_nifti(release / patient.nifti[0])
    return read_dicom_series([release / name for name in patient.dicom])


def _real(run: RunFolder, extra: Callable[[Any], Sequence[Any]]) -> tuple[Grid, list[Entry]]:
    config, manifest = read_config(run.config), Manifest.load(run.manifest)
    grid = grid_of(config.preprocess, manifest.modality)
    transforms = build_transforms(config.preprocess, grid, extra(config))
    entries = []
    for patient, items in manifest.by_patient.items():
        for number, item in enumerate(items, 1):
            who = patient[:SHOWN]
            name = f"{who} ({number}/{len(items)})" if len(items) > 1 else who
            read = partial(_prepared, manifest, item, transforms, grid)
            entries.append(Entry("real", name, item.label, read, item.split))
    return grid, entries


def _prepared(manifest: Manifest, item: Item, transforms: Pipeline, grid: Grid) -> Volume:
    return release_volume(transforms(load_volume(manifest, item)).numpy(), grid)
