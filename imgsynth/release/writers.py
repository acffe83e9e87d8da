"""Synthetic patients to disk, by several processes: packing and headers take longer than making the images does."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from imgsynth.files import sha256
from imgsynth.release.images import release_mask, release_volume, write_patient
from imgsynth.release.partial import hold
from imgsynth.release.patients import SyntheticPatient
from imgsynth.release.streams import Streams
from imgsynth.release.zarr_parts import part_name
from imgsynth.types import Grid
from imgsynth.volumes.dicom_write import DicomForm
from imgsynth.volumes.provenance import Provenance
from imgsynth.volumes.uids import RandomUids

TASK_VOXELS = 1 << 20  # that one process is handed at once: 4 MiB of float32, a tenth of a second's work or more
POOL_PAYS_S = 10.0  # seconds of writing below which starting processes, each of which imports torch, takes longer


@dataclass(frozen=True)
class Sampled:
    """The generator's image [1 + m, *spatial] for synthetic patient ``number`` (counted from 1), and its class."""

    number: int
    label: str | None
    x_C: np.ndarray
    facts: dict[str, str] = field(default_factory=dict)
    edited_from: str | None = None


@dataclass(frozen=True)
class Written:
    """A patient whose files are all in place, and their SHA-256 by path relative to the release."""

    patient: SyntheticPatient
    sums: dict[str, str]


@dataclass(frozen=True)
class Recipe:
    """How the patients of one release are written: what is the same for all of them."""

    folder: Path
    grid: Grid
    made: Provenance
    formats: tuple[str, ...]
    suffix: str | None  # of BIDS files
    form: DicomForm
    uid_root: str
    streams: Streams

    def write(self, sampled: Sampled) -> Written:
        """Write one patient. The bytes depend on the recipe, the number, the label and the image alone."""
        volume = release_volume(sampled.x_C[:1], self.grid, self.made.watermark)
        structures = self.grid.structures
        mask = release_mask(sampled.x_C[1:], self.grid) if structures else None
        window = (self.grid.low, self.grid.high)
        new_uid = RandomUids(self.uid_root, self.streams.uids(sampled.number))
        patient = write_patient(
            self.folder, sampled.number, sampled.label, volume, window, self.made, self.formats, self.suffix, new_uid,
            self.form, sampled.facts, mask, structures,
        )  # fmt: skip
        patient = replace(patient, edited_from=sampled.edited_from)
        parts = [part_name(sampled.number)] if "zarr" in self.formats else []
        return Written(patient, {name: sha256(self.folder / name) for name in (*patient.files, *parts)})


def write_all(sampled: Iterable[Sampled], recipe: Recipe, writers: int) -> Iterator[Written]:
    """Write all patients and yield them as they are done, in any order, with a few images in memory at a time.

    With one writer nothing is started. The writers end with this process, however it ends.
    """
    if writers == 1:
        yield from map(recipe.write, sampled)
        return
    at_once = max(1, TASK_VOXELS // math.prod(recipe.grid.shape))
    images = iter(sampled)
    tasks = iter(lambda: list(islice(images, at_once)), [])
    # "spawn": a fork of a process in which torch has started threads may hang.
    with ProcessPoolExecutor(
        writers, multiprocessing.get_context("spawn"), initializer=_begin_writer, initargs=(recipe.folder.parent,)
    ) as pool:
        running: set[Future[list[Written]]] = set()
        try:
            for task in tasks:
                running.add(pool.submit(_write_task, recipe, task))
                if len(running) > writers:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield from future.result()
            for future in running:
                yield from future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def writers_for(asked: int | None, n: int, grid: Grid, formats: Sequence[str]) -> int:
    """How many processes write ``n`` patients: as many as ``asked``, else one for each core where that is faster."""
    if asked is not None:
        return asked
    seconds = n * len(formats) * (2e-3 + 8e-8 * math.prod(grid.shape))  # measured on one core, benchmarks/generation.py
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") and seconds > POOL_PAYS_S else 1


def _write_task(recipe: Recipe, task: list[Sampled]) -> list[Written]:
    return list(map(recipe.write, task))


def _begin_writer(root: Path) -> None:
    """In a new writer: leave Ctrl-C to the parent, and end when the parent does, also if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hold(root)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_after, args=(parent.join,), daemon=True).start()


def _end_after(parents_end: Callable[[], object]) -> None:
    parents_end()
    os._exit(1)
