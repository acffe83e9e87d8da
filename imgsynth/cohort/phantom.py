"""Digital phantoms: a procedural thorax-CT cohort, public because there is no patient behind it.

``make_phantoms`` writes the whole cohort as a clinical export would look; ``phantom_volume`` renders one study.
"""

from __future__ import annotations

import csv
import io
import math
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from imgsynth.cohort.phantom_anatomy import PatientAnatomy, Study
from imgsynth.cohort.phantom_export import write_patient
from imgsynth.cohort.phantom_plan import FORMAT, Job, config_key, plan_cohort
from imgsynth.cohort.phantom_render import render
from imgsynth.cohort.phantom_scanner import FOV_MM
from imgsynth.console import track
from imgsynth.files import read_json, write_json, write_text
from imgsynth.schema import PhantomConfig
from imgsynth.types import Fault, InputError
from imgsynth.volumes.volume import Volume

CLASSES = ("normal", "lesion")
MARKER = "phantoms.json"  # written last: the folder is whole
_PATIENTS_PER_PROCESS = 40  # fewer do not pay for starting one
_STALE_AFTER_S = 3600.0
_README = """\
DIGITAL PHANTOMS - NO PATIENT BEHIND THEM

Every image in this folder was computed by imgsynth from random numbers: ellipsoids, tubes and shells arranged as a
thorax. No scan of a person was used. Names, ids, dates, sites and scanners are invented. The files look like a
scanner's export (ORIGINAL\\PRIMARY, no de-identification) because they stand in for one in tutorials, tests and
controls. Not for clinical use.

labels.csv: one row per patient. phantoms.json: the configuration that makes the same files again.
"""


def make_phantoms(folder: Path, config: PhantomConfig) -> Path:
    """Write the cohort of ``config`` as DICOM series below ``folder``, with labels.csv; return ``folder``.

    The same configuration gives the same bytes, however many processes write them. A folder that already holds this
    cohort is returned as it is. The cohort appears whole, by renaming: a killed run leaves nothing under ``folder``.

    Raises InputError where the configuration is out of range, where ``folder`` holds something else, and where it
    cannot be written.
    """
    _check(config)
    folder = Path(folder)
    if _holds(folder, config):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
        try:
            scratch.chmod(0o755)  # mkdtemp makes folders that only their owner may read
            _write_cohort(scratch, config)
            _move_into_place(scratch, folder, config)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise InputError(
            Fault(str(folder), f"{type(error).__name__}: {error}", "a folder that can be written, with room for the "
                  f"cohort (about {_megabytes(config)} MB)", "another output folder or fewer data.phantom.patients")
        ) from error  # fmt: skip
    return folder


def phantom_volume(anatomy: PatientAnatomy, study: Study, size: int) -> Volume:
    """One study as a CT volume [size, size, size] in HU on an RAS+ grid centred on the isocentre. Deterministic."""
    spacing = FOV_MM / size
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -(size - 1) / 2 * spacing
    meta = {"PatientSex": anatomy.sex, "PatientAge": f"{anatomy.age:03d}Y", "InstitutionName": study.scanner.site}
    return Volume(render(anatomy, study, size), affine, "CT", "HU", meta | {"BodyPartExamined": "CHEST"})


def _check(config: PhantomConfig) -> None:
    ranges = (
        ("patients", 1, 99_999),
        ("size", 8, 256),
        ("lesion_share", 0.0, 1.0),
        ("extra_studies", 0.0, 1.0),
        ("seed", 0, 2**63 - 1),
    )
    faults = []
    for name, low, high in ranges:
        value = getattr(config, name)
        if not low <= value <= high:  # also catches NaN
            faults.append(
                Fault(f"data.phantom.{name}", str(value), f"{low} to {high}", f"data.phantom.{name}={_default(name)}")
            )
    if faults:
        raise InputError(*faults)


def _default(name: str) -> object:
    return getattr(PhantomConfig(), name)


def _holds(folder: Path, config: PhantomConfig) -> bool:
    """Whether ``folder`` is this very cohort; InputError when it is something else that must not be overwritten."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    marker = folder / MARKER
    if not marker.is_file():
        got, remedy = "files that imgsynth did not make, or not whole", "another folder, or remove this one"
    elif read_json(marker).get("key") == config_key(config):
        return True
    else:
        got = f"phantoms of another configuration ({MARKER} there says which)"
        remedy = "the same data.phantom settings, another folder, or remove this one"
    raise InputError(Fault(str(folder), got, "an empty or a new folder, or these same phantoms", remedy))


def _write_cohort(root: Path, config: PhantomConfig) -> None:
    jobs = plan_cohort(config)
    rows = list(track(_write_patients(root, jobs), "Making phantoms", total=len(jobs)))
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(root / "labels.csv", table.getvalue())
    write_text(root / "README.txt", _README)
    write_json(root / MARKER, {"key": config_key(config), "format": FORMAT, "config": asdict(config)})


def _write_patients(root: Path, jobs: list[Job]) -> Iterator[dict[str, str]]:
    """Labels rows in the order of the jobs; several processes where the cohort is large enough."""
    workers = min(os.cpu_count() or 1, math.ceil(len(jobs) / _PATIENTS_PER_PROCESS))
    write = partial(write_patient, root)
    if workers == 1:
        yield from map(write, jobs)
        return
    # "spawn": a fork of a process in which torch has started threads may hang.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(write, jobs, chunksize=8)


def _move_into_place(scratch: Path, folder: Path, config: PhantomConfig) -> None:
    try:
        scratch.rename(folder)  # also replaces an empty folder
    except OSError:
        if not _holds(folder, config):  # else another process was faster, with the same bytes
            raise


def _remove_stale(folder: Path) -> None:
    """Remove what killed runs left behind: partial folders that nobody has added to for an hour."""
    for partial_folder in folder.parent.glob(f".{folder.name}.*.partial"):
        if time.time() - partial_folder.stat().st_mtime > _STALE_AFTER_S:
            shutil.rmtree(partial_folder, ignore_errors=True)


def _megabytes(config: PhantomConfig) -> int:
    images = config.patients * (1 + 1.5 * config.extra_studies) * config.size
    return math.ceil(images * (4096 * math.ceil((2 * config.size**2 + 1500) / 4096)) / 1e6)
