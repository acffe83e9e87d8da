"""The images of a run: its patients by split, and fresh samples from its generator. Everything read here is local."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from imgsynth import console
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.grid import grid_of
from imgsynth.cohort.manifest import Manifest
from imgsynth.files import read_json
from imgsynth.measure.images import Images, stored_as, synthetic_images
from imgsynth.release.card import CARD_JSON
from imgsynth.release.generate import generate
from imgsynth.release.watermark import marked
from imgsynth.schema import PreprocessConfig
from imgsynth.training.run import Run
from imgsynth.types import Split

AT_ONCE = 128  # samples in single precision

MIN_PATIENTS = 20


def real_images(run: Run, split: Split, n: int, seed: int, extra_transforms: Sequence[Any] = ()) -> Images:
    """``patient_images`` of the run's cohort, with its preprocessing.

    ``extra_transforms`` are those of ``run.config.preprocess.extra``, instantiated; images are measured as trained on.
    """
    if len(extra_transforms) != len(run.config.preprocess.extra):
        raise ValueError(
            f"Expected the {len(run.config.preprocess.extra)} extra transforms of the run, got {extra_transforms}."
        )
    return patient_images(run.manifest, run.config.preprocess, split, n, seed, extra_transforms)


def patient_images(
    manifest: Manifest, preprocess: PreprocessConfig, split: Split, n: int, seed: int, extra: Sequence[Any] = ()
) -> Images:
    """All images of patients of ``split``, drawn at random (seeded) until the next would exceed ``n`` images; of
    MIN_PATIENTS in any case, or of all where there are fewer: patients are what counts, however many images they have.
    """
    of_patient = {p: items for p, items in manifest.by_patient.items() if items[0].split == split}
    order = np.random.default_rng(seed).permutation(np.array(sorted(of_patient), dtype=object))
    kept: set[str] = set()
    images = 0
    for patient in order:
        if len(kept) >= MIN_PATIENTS and images + len(of_patient[patient]) > n:
            break
        kept.add(patient)
        images += len(of_patient[patient])
    grid = grid_of(preprocess, manifest.modality)
    if not kept:
        none = np.empty((0, grid.channels, *grid.shape), np.float32)
        return Images.of(none, np.empty(0, np.int64), np.empty(0, dtype=str))
    subset = replace(manifest, items=tuple(item for p in sorted(kept) for item in of_patient[p]))
    dataset = PatientDataset(subset, split, preprocess, images_per_patient=1, cache="memory", extra=extra)
    patients, x, y = zip(*dataset.all_images(), strict=True)
    whole_NC = np.stack([np.asarray(image) for image in x])
    return Images.of(whole_NC, np.array(y, dtype=np.int64), np.array(patients))


def class_mix(counts: list[int], n: int, random: np.random.Generator) -> np.ndarray:
    """[n] class indices in the proportions of ``counts`` (largest remainders), in random order."""
    exact = np.array(counts) / sum(counts) * n
    whole = np.floor(exact).astype(np.int64)
    short = n - whole.sum()
    whole[np.argsort(whole - exact, kind="stable")[:short]] += 1
    return random.permutation(np.repeat(np.arange(len(counts)), whole))


def fresh_samples(run: Run, n: int, seed: int) -> Images:
    """``n`` new samples, labels in the proportions of the training patients (so that no metric measures a label shift).

    They are for measurement on the spot: seeded, and with private label counts, so they must not be released. They have
    the watermark that the run's release has (``watermark_of``), so that images are measured as they leave.
    """
    labels_N = class_mix(run.manifest.class_counts("train"), n, np.random.default_rng(seed))
    random = torch.Generator().manual_seed(seed)
    shape = run.grid.channels, *run.grid.shape
    x_NC: np.ndarray = np.empty((n, *shape), dtype=stored_as(n, shape))
    for i in console.track(range(0, n, AT_ONCE), "sampling"):
        x_NC[i : i + AT_ONCE] = generate(run, labels_N[i : i + AT_ONCE], random)
    return synthetic_images(with_watermark(x_NC, watermark_of(run)), labels_N)


def watermark_of(run: Run) -> float | None:
    """The strength of the watermark in the run's release; where there is none yet, the one that it is to have."""
    card = run.root / "release" / CARD_JSON
    if not card.is_file():
        return run.config.release.watermark
    said = read_json(card).get("watermark")
    return None if said is None else float(said["strength"])


def with_watermark(whole_NC: np.ndarray, strength: float | None) -> np.ndarray:
    """``whole_NC`` [N, 1 + m, *spatial], whose images have the watermark now if ``strength`` is not None. In place."""
    if strength is not None:
        for whole_C in whole_NC:
            whole_C[0] = marked(whole_C[0], strength)
    return whole_NC
