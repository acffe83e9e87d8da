"""Batches of patients: one item is one patient, the privacy unit, with at most K of the patient's images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from imgsynth.cohort.cache import PADDING, cache_folder, cached
from imgsynth.cohort.grid import grid_of
from imgsynth.cohort.manifest import Manifest
from imgsynth.cohort.transforms import build_transforms
from imgsynth.schema import PreprocessConfig
from imgsynth.types import PatientBatch, Split


class PatientDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The patients of one split, preprocessed.

    ``dataset[i]`` is ``(x_KC [K, C, *shape], y_K [K], w_K [K])``: K images, with their masks, drawn without replacement
    where the patient has more; where fewer, padding of weight 0; the weights of a patient sum to 1. Which images are
    drawn is decided by the operating system's entropy, or by ``generator`` for a repeatable (not releasable) run.

    With ``copies`` M above 1 (augmentation multiplicity, De et al. 2022, arXiv 2204.13650) each image comes M times in
    a row, with random transforms drawn anew for every copy, and each copy has an M-th of the image's weight: K below
    is then K·M. It is one patient's mean all the same, clipped once, and so costs no privacy.

    ``cache`` holds preprocessed images in "memory", on "disk" under ``cache_dir`` (in a folder named after cohort,
    preprocessing and code), or "none" (``cohort/cache.py``). With a cache every image is read here, in parallel, so
    that all faults are known before training starts.

    ``part`` (r, W) takes every W-th patient from the r-th on: the share of one of W processes, which is the only one
    that it reads.

    Raises:
        InputError: with the faults of all images that cannot be read or do not fit the grid.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: Split,
        preprocess: PreprocessConfig,
        images_per_patient: int = 1,
        cache: str = "memory",
        cache_dir: Path | None = None,
        extra: Sequence[Any] = (),
        generator: torch.Generator | None = None,
        copies: int = 1,
        part: tuple[int, int] = (0, 1),
    ):
        self.manifest = manifest
        self.grid = grid_of(preprocess, manifest.modality, manifest.structures)
        self.images_per_patient = images_per_patient
        self.generator = generator
        self.copies = copies
        wanted = set(manifest.patients(split))
        patients = {patient: items for patient, items in manifest.by_patient.items() if patient in wanted}
        rank, ranks = part
        patients = {patient: patients[patient] for patient in list(patients)[rank::ranks]}
        self._patients = list(patients)
        self._items = [item for items in patients.values() for item in items]
        self._counts = np.array([len(items) for items in patients.values()])
        self._starts = np.cumsum(self._counts) - self._counts
        self._classes = torch.tensor([*(manifest.class_index(item) for item in self._items), 0])  # the last: padding
        self._images = cached(
            manifest, self._items, build_transforms(preprocess, self.grid, extra).transforms,
            (self.grid.channels, *self.grid.shape), cache,
            cache_folder(manifest, preprocess, extra, cache_dir),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._patients)

    def patient(self, index: int) -> str:
        return self._patients[index]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        batch = self.batch([index])
        return batch.x_PKC[0], batch.y_PK[0], batch.w_PK[0]

    def rows(self, patients: int) -> int:
        """Images, padding and copies included, in a batch of so many patients."""
        return patients * self.images_per_patient * self.copies

    def batch(self, indices: Sequence[int], buffer_BC: Tensor | None = None) -> PatientBatch:
        """The patients at ``indices`` as one batch; no indices give a batch of 0 patients with the usual other axes.

        Its images are put into ``buffer_BC`` [at least ``rows(P)``, C, *shape] where that is given, and stay there.
        """
        patients = np.asarray(indices, dtype=np.int64)
        rows_PK, w_PK = self._draw(patients)
        rows_PK, w_PK = rows_PK.repeat(self.copies, axis=1), w_PK.repeat(self.copies, axis=1) / self.copies
        rows_B = torch.from_numpy(rows_PK.reshape(-1))
        if buffer_BC is None:
            buffer_BC = torch.empty(len(rows_B), self.grid.channels, *self.grid.shape)
        x_BC = buffer_BC[: len(rows_B)]
        self._images.fill(rows_B, x_BC)
        x_PKC = x_BC.view(*rows_PK.shape, *x_BC.shape[1:])
        return PatientBatch(x_PKC, self._classes[rows_B].view(rows_PK.shape), torch.from_numpy(w_PK).float())

    def all_images(self) -> Iterator[tuple[str, Tensor, int]]:
        """Every image of every patient once, as (patient id, x_C [C, *shape], class index), patients in order."""
        for patient, start, count in zip(self._patients, self._starts.tolist(), self._counts.tolist(), strict=True):
            for image in range(start, start + count):
                yield patient, self._images[image], int(self._classes[image])

    def _draw(self, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and weights of K images of each patient: drawn where there are more, ``PADDING`` where fewer."""
        size, counts = self.images_per_patient, self._counts[patients]
        places = np.tile(np.arange(size), (len(patients), 1))
        there = places < counts[:, None]
        if (counts > size).any():
            places[counts > size] = self._subsets(counts[counts > size])
        rows = np.where(there, self._starts[patients][:, None] + places, PADDING)
        return rows, there / np.minimum(counts, size)[:, None]

    def _subsets(self, counts: np.ndarray) -> np.ndarray:
        """K different places below each count, all subsets equally likely: those of the smallest of random keys."""
        shape = len(counts), int(counts.max())
        if self.generator is None:
            bits = np.frombuffer(os.urandom(8 * shape[0] * shape[1]), dtype=np.uint64) >> np.uint64(2)
        else:
            bits = torch.randint(0, 2**62, shape, generator=self.generator).numpy().astype(np.uint64)
        keys = np.where(np.arange(shape[1]) < counts[:, None], bits.reshape(shape), np.uint64(2**62))
        return keys.argsort(axis=1)[:, : self.images_per_patient]
