"""From a trained run to a release: labels, images, tables, card and checksums, in a folder that appears whole."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imgsynth import console
from imgsynth.release.bids import write_bids_dataset
from imgsynth.release.card import build_card, cohort_ledger, judged_burned_in, write_card
from imgsynth.release.card_audit import audit_part
from imgsynth.release.documents import write_provenance, write_readme
from imgsynth.release.folder import atomic_folder, write_checksums
from imgsynth.release.generate import fresh_generator, generate
from imgsynth.release.images import bids_suffix, provenance_of, release_volume, write_patient
from imgsynth.release.labels import draw_labels
from imgsynth.release.patients import write_cohort
from imgsynth.schema import Config
from imgsynth.training.folder import RunFolder
from imgsynth.training.run import Run, load_run
from imgsynth.types import Fault, InputError
from imgsynth.volumes.dicom_write import DicomForm
from imgsynth.volumes.uids import RandomUids

AT_ONCE = 16  # images that are in memory together


def sample_release(run_dir: Path, cfg: Config) -> Path:
    """Write ``cfg.sample.n`` synthetic patients of the run in ``run_dir`` to ``run_dir/release``; returns that folder.

    Seeds come from the operating system's entropy and are kept nowhere, so that every call gives other patients. An
    older release is replaced when, and only when, the new one is complete.

    Raises:
        InputError: if the run is not trained to its last step, took no label histogram though one is asked for, cannot
            be written in a format that is asked for, or the disk is full; an older release is as it was.
    """
    run = load_run(run_dir)
    require_finished(run)
    classes = run.manifest.classes
    random = np.random.default_rng(secrets.randbits(128))
    histogram = RunFolder(run_dir).label_histogram
    labels_N = draw_labels(cfg.sample.labels, cfg.sample.n, len(classes), histogram, random)
    names = [classes[index] if len(classes) > 1 else None for index in labels_N]
    made = provenance_of(run.plan, type(run.model).__name__, judged_burned_in(run.plan, cfg.sample.burned_in))
    suffix = bids_suffix(run.grid, cfg.sample.bids_suffix)
    found = audit_part(run_dir, None)
    card = build_card(run.plan, cfg.sample.labels, cohort_ledger(run), found, cfg.sample.burned_in)
    window = (run.grid.low, run.grid.high)
    form = DicomForm(cfg.sample.dicom, cfg.sample.transfer_syntax)
    new_uid = RandomUids(cfg.sample.uid_root, random)
    with atomic_folder(run_dir / "release") as folder:
        patients = [
            write_patient(
                folder,
                number,
                name,
                release_volume(x_C, run.grid),
                window,
                made,
                cfg.sample.formats,
                suffix,
                new_uid,
                form,
            )
            for number, (name, x_C) in enumerate(zip(names, _images(run, labels_N), strict=True), 1)
        ]
        if suffix and "nifti" in cfg.sample.formats:
            write_bids_dataset(folder / "nifti", names, made.derivation)
        write_cohort(folder, patients, run.grid, classes)
        write_provenance(folder, run, cfg.data.defaced)
        write_readme(folder, card, run, len(patients), cfg.sample.formats, suffix is not None, cfg.data.defaced)
        write_card(folder, card)
        write_checksums(folder)
    return run_dir / "release"


def _images(run: Run, labels_N: np.ndarray) -> Iterator[np.ndarray]:
    """The images [1, *spatial] one by one, a few at a time in memory."""
    random = fresh_generator()
    starts = range(0, len(labels_N), AT_ONCE)
    for start in console.track(starts, "sampling", total=len(starts)):
        yield from generate(run, labels_N[start : start + AT_ONCE], random)


def require_finished(run: Run) -> None:
    """Raises InputError for a run that is not trained to its last step: its weights are going to be others."""
    if not run.finished:
        raise InputError(
            Fault(
                where=str(run.root),
                got=f"a run at step {run.step} of {run.config.trainer.all_steps}",
                expected="a run that is trained to its end",
                remedy=f"imgsynth train output={run.root}",
            )
        )
