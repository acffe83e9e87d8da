"""From a trained run to a release: labels, images, tables, card and checksums, in a folder that appears whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgsynth import __version__, console
from imgsynth.files import sha256
from imgsynth.models.base import GenerativeModel
from imgsynth.release.bids import bids_suffix
from imgsynth.release.card import build_card, cohort_ledger, judged_burned_in, write_card
from imgsynth.release.card_audit import audit_part
from imgsynth.release.documents import write_documents
from imgsynth.release.generate import images_in_blocks
from imgsynth.release.images import provenance_of
from imgsynth.release.labels import draw_labels
from imgsynth.release.metadata import Table, draw_metadata
from imgsynth.release.paint import before_and_after, on_supplied, painter_of
from imgsynth.release.partial import Partial, resumable_folder
from imgsynth.release.patients import SyntheticPatient, patient_id, write_cohort
from imgsynth.release.provenance import write_provenance
from imgsynth.release.sbom import write_sbom
from imgsynth.release.sign import private_key, seal
from imgsynth.release.streams import Streams, entropy
from imgsynth.release.supplied_masks import Supplied, supplied_masks
from imgsynth.release.writers import Recipe, Sampled, write_all, writers_for
from imgsynth.release.zarr_store import needs_zarr, write_store
from imgsynth.schema import Config, SampleConfig
from imgsynth.training.device import choose_device
from imgsynth.training.folder import RunFolder
from imgsynth.training.run import Run, load_run
from imgsynth.types import Fault, InputError
from imgsynth.volumes.dicom_seg import missing_writer
from imgsynth.volumes.dicom_write import DicomForm
from imgsynth.volumes.provenance import Provenance


def sample_release(run_dir: Path, cfg: Config) -> Path:
    """Write ``cfg.sample.n`` synthetic patients of the run in ``run_dir`` to ``run_dir/release``; returns that folder.

    The same weights, settings and ``cfg.sample.seed`` give the same bytes, however many processes write, and whether or
    not the work was interrupted. Where there is no such seed, one comes from the operating system's entropy; it is in
    the journal of the unfinished release and nowhere else, and goes with it, so that every call gives other patients.

    A call that was killed or interrupted is gone on with by the next one of the same weights and settings. An older
    release is replaced when, and only when, the new one is complete.

    Raises:
        InputError: if the run is not trained to its last step, took no label histogram though one is asked for, cannot
            be written in a format that is asked for, the disk is full, or another process writes this release; an
            older release is as it was.
    """
    run = load_run(run_dir)
    require_finished(run)
    if run.grid.structures and "dicom" in cfg.sample.formats and (fault := missing_writer()) is not None:
        raise InputError(fault)
    run.model.to(choose_device(cfg.trainer))
    classes = run.manifest.classes
    watermark, burned_in = cfg.release.watermark, judged_burned_in(run.plan, cfg.sample.burned_in)
    made = provenance_of(run.plan, type(run.model).__name__, burned_in, watermark)
    suffix = bids_suffix(run.grid, cfg.sample.bids_suffix)
    found = audit_part(run_dir, None)
    _ready(cfg)
    supplied = _supplied(run, cfg.sample)
    made_of = _made_of(run, cfg.sample, made, supplied)
    seed = entropy() if cfg.sample.seed is None else cfg.sample.seed
    with resumable_folder(run_dir / "release", made_of, seed) as partial:
        folder, streams = partial.folder, Streams(partial.seed, made_of)
        histogram = RunFolder(run_dir).label_histogram
        each = 2 if cfg.sample.edits else 1  # before and after
        drawn = draw_labels(cfg.sample.labels, cfg.sample.n // each, len(classes), histogram, streams.labels())
        labels_N = drawn.repeat(each)
        names = [classes[index] if len(classes) > 1 else None for index in labels_N]
        table = draw_metadata(cfg.sample, run.manifest, labels_N, histogram, streams.metadata())
        record = None if supplied is None else supplied.record
        card = build_card(
            run.plan,
            cfg.sample.labels,
            cohort_ledger(run),
            found,
            cfg.sample.burned_in,
            table.record,
            watermark,
            record,
        )
        form = DicomForm(cfg.sample.dicom, cfg.sample.transfer_syntax)
        formats = tuple(cfg.sample.formats)
        recipe = Recipe(folder, run.grid, made, formats, suffix, form, cfg.sample.uid_root, streams)
        source = _source(run.model, labels_N, recipe, partial, cfg.sample.edits, supplied)
        patients = _write_patients(source, names, table, recipe, partial, cfg.sample)
        if "zarr" in formats:
            write_store(folder, run.grid, names, classes, made)
        write_cohort(folder, patients, run.grid, classes, formats)
        write_provenance(folder, run, cfg)
        write_sbom(folder)
        write_card(folder, card)
        write_documents(folder)
        seal(folder, cfg.sample.sign, partial.sums)
    return run_dir / "release"


def _ready(cfg: Config) -> None:
    """Raises InputError where a package or a key is missing that the release needs, before any work."""
    if "zarr" in cfg.sample.formats:
        needs_zarr()
    if cfg.sample.sign is not None:
        private_key(Path(cfg.sample.sign))


def _supplied(run: Run, sample: SampleConfig) -> Supplied | None:
    """The masks of ``sample.masks``; InputError where they, or the model, are not fit for it."""
    if sample.masks is None and not sample.edits:
        return None
    painter_of(run.model)
    if sample.masks is None:
        return None
    return supplied_masks(Path(sample.masks), str(sample.masks_origin), sample.n, run)


def _source(
    model: GenerativeModel, labels_N: np.ndarray, recipe: Recipe, partial: Partial, edits: Sequence[Any],
    supplied: Supplied | None,
) -> Iterator[tuple[int, np.ndarray]]:  # fmt: skip
    """``(index, x_C)`` of every patient that is not done yet."""

    def wanted(index: int) -> bool:
        return patient_id(index + 1) not in partial.done

    if supplied is not None:
        return on_supplied(model, labels_N, recipe.streams, wanted, supplied.label_K)
    if edits:
        return before_and_after(model, labels_N, recipe.streams, wanted, edits, recipe.grid)
    return images_in_blocks(model, labels_N, recipe.streams, wanted)


def _write_patients(
    source: Iterator[tuple[int, np.ndarray]], names: Sequence[str | None], table: Table, recipe: Recipe,
    partial: Partial, sample: SampleConfig,
) -> list[SyntheticPatient]:  # fmt: skip
    """Write every patient that is not ``partial.done`` already; all of them in the order of their numbers."""
    todo = len(names) - len(partial.done)
    if partial.done:
        console.say(f"Going on with an unfinished release: {len(partial.done)} of {len(names)} patients are written.")
    sampled = _sampled(source, names, table, bool(sample.edits))
    written = write_all(sampled, recipe, writers_for(sample.writers, todo, recipe.grid, recipe.formats))
    for one in console.track(written, "sampling", total=todo):
        partial.record(one.patient.id, {"patient": dataclasses.asdict(one.patient), "sums": one.sums})
    ids = [patient_id(number) for number in range(1, len(names) + 1)]
    return [SyntheticPatient.from_json(partial.done[name]["patient"]) for name in ids]


def _sampled(
    source: Iterator[tuple[int, np.ndarray]], names: Sequence[str | None], table: Table, edits: bool
) -> Iterator[Sampled]:
    with torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        for index, x_C in source:
            before = patient_id(index) if edits and index % 2 else None
            yield Sampled(index + 1, names[index], x_C, table.of(index + 1), before)


def _made_of(run: Run, sample: SampleConfig, made: Provenance, supplied: Supplied | None) -> str:
    """SHA-256 of all that a release's bytes follow from beside its seed, and of the seed where the user set one."""
    settings = {
        key: value for key, value in dataclasses.asdict(sample).items() if key not in ("writers", "sign", "masks")
    }
    histogram = RunFolder(run.root).label_histogram
    parts: dict[str, Any] = {
        "sample": settings,
        "masks": None if supplied is None else supplied.record,
        "weights": weights_digest(run.model),
        "made": dataclasses.asdict(made),
        "grid": dataclasses.asdict(run.grid),
        "classes": run.manifest.classes,
        "histogram": sha256(histogram) if histogram.is_file() else None,
        "imgsynth": __version__,
        "torch": torch.__version__,
        "device": next(run.model.parameters()).device.type,  # which rounds otherwise than another kind
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over name, type, shape and bytes of every parameter and buffer."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
