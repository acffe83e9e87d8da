"""Batches of patients: one item is one patient, the privacy unit, with at most K of the patient's images."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import monai.data
import numpy as np
import torch
from monai.transforms import RandomizableTrait, Transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import imgsynth
from imgsynth.cohort.grid import grid_of
from imgsynth.cohort.load import load_volume
from imgsynth.cohort.manifest import Item, Manifest
from imgsynth.cohort.transforms import Pipeline, build_transforms
from imgsynth.console import track
from imgsynth.schema import PreprocessConfig
from imgsynth.types import Fault, InputError, PatientBatch, Split
from imgsynth.volumes.volume import Volume

PARALLEL_FROM = 64  # images; below, starting processes costs more than it saves


class PatientDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The patients of one split, preprocessed.

    ``dataset[i]`` is ``(x_KC [K, 1, *shape], y_K [K], w_K [K])``: K images drawn without replacement where the patient
    has more; where fewer, padding of weight 0; the weights of a patient sum to 1. Which images are drawn is decided by
    the operating system's entropy, or by ``generator`` for a repeatable (not releasable) run.

    With ``copies`` M above 1 (augmentation multiplicity, De et al. 2022, arXiv 2204.13650) each image comes M times in
    a row, with random transforms drawn anew for every copy, and each copy has an M-th of the image's weight: K below
    is then K·M. It is one patient's mean all the same, clipped once, and so costs no privacy.

    ``cache`` holds preprocessed images in "memory" (MONAI CacheDataset), on "disk" under ``cache_dir`` (MONAI
    PersistentDataset, in a folder named after cohort and preprocessing, readable by its owner alone: private data), or
    "none". With a cache every image is read here, in parallel, so that all faults are known before training starts.

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
        self.grid = grid_of(preprocess, manifest.modality)
        self.images_per_patient = images_per_patient
        self.generator = generator
        self.copies = copies
        wanted = set(manifest.patients(split))
        patients = {patient: items for patient, items in manifest.by_patient.items() if patient in wanted}
        rank, ranks = part
        patients = {patient: patients[patient] for patient in list(patients)[rank::ranks]}
        self._patients = list(patients)
        self._items = [item for items in patients.values() for item in items]
        ends = np.cumsum([len(items) for items in patients.values()]).tolist()
        self._ranges = [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        transform = Pipeline([_Load(manifest), *build_transforms(preprocess, self.grid, extra).transforms])
        self._images = _cached(self._items, transform, cache, _cache_folder(manifest, preprocess, cache_dir))

    def __len__(self) -> int:
        return len(self._patients)

    def patient(self, index: int) -> str:
        return self._patients[index]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        own = self._ranges[index]
        drawn = [image for image in self._draw(own) for _ in range(self.copies)]
        size = self.images_per_patient * self.copies
        x_KC, y_K, w_K = torch.zeros(size, 1, *self.grid.shape), torch.zeros(size, dtype=torch.long), torch.zeros(size)
        for k, image in enumerate(drawn):
            x_KC[k] = self._images[image]
            y_K[k] = self.manifest.class_index(self._items[image])
            w_K[k] = 1 / len(drawn)
        return x_KC, y_K, w_K

    def batch(self, indices: Sequence[int]) -> PatientBatch:
        """The patients at ``indices`` as one batch; no indices give a batch of 0 patients with the usual other axes."""
        k = self.images_per_patient * self.copies
        if not len(indices):
            return PatientBatch(
                torch.zeros(0, k, 1, *self.grid.shape), torch.zeros(0, k, dtype=torch.long), torch.zeros(0, k)
            )
        x, y, w = zip(*(self[int(index)] for index in indices), strict=True)
        return PatientBatch(torch.stack(x), torch.stack(y), torch.stack(w))

    def all_images(self) -> Iterator[tuple[str, Tensor, int]]:
        """Every image of every patient once, as (patient id, x_C [1, *shape], class index), patients in order."""
        for patient, own in zip(self._patients, self._ranges, strict=True):
            for image in own:
                yield patient, torch.as_tensor(self._images[image]), self.manifest.class_index(self._items[image])

    def _draw(self, own: range) -> list[int]:
        if len(own) <= self.images_per_patient:
            return list(own)
        if self.generator is None:
            return random.SystemRandom().sample(own, self.images_per_patient)
        chosen = torch.randperm(len(own), generator=self.generator)[: self.images_per_patient]
        return [own[int(place)] for place in chosen]


class _Load(Transform):
    """Item -> Volume, as the first step of a MONAI pipeline."""

    def __init__(self, manifest: Manifest):
        self.manifest = dataclasses.replace(manifest, items=())  # worker processes need no list of patients

    def __call__(self, item: Item) -> Volume:
        return load_volume(self.manifest, item)


class _DiskCache(monai.data.PersistentDataset):
    def _cachecheck(self, item: Item) -> Tensor:
        try:
            return super()._cachecheck(item)
        except RuntimeError:  # a file cut short: killed while it was moved in from another file system
            (Path(self.cache_dir) / f"{item.digest}.pt").unlink(missing_ok=True)
            return super()._cachecheck(item)


class _Attempts(Dataset[Any]):
    """Images one by one, for worker processes: the array, or the faults that kept it from being read."""

    def __init__(self, images: Dataset[Any], keep: bool):
        self.images = images
        self.keep = keep

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> np.ndarray | tuple[Fault, ...] | None:
        try:
            image = self.images[index]
        except InputError as error:
            return error.faults
        return np.asarray(image) if self.keep else None


def _cached(items: list[Item], transform: Pipeline, cache: str, folder: Path | None) -> Dataset[Any]:
    """The images of ``items`` behind MONAI's cache of that name, filled; random transforms run at each access."""
    if cache == "none":
        return monai.data.Dataset(items, transform)
    if cache == "disk":
        if folder is None:
            raise ValueError("Expected cache_dir with cache='disk'.")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        images = _DiskCache(items, transform, folder, hash_func=_digest)
        _read_all(_Attempts(images, keep=False))
        return images
    first_random = transform.get_index_of_first(_runs_each_time)
    fixed = monai.data.Dataset(items, Pipeline(transform.transforms[:first_random]))
    arrays = _read_all(_Attempts(fixed, keep=True))
    filled = [torch.from_numpy(array) for array in arrays]
    return monai.data.CacheDataset(items, transform, progress=False, runtime_cache=filled)


def _runs_each_time(step: Any) -> bool:
    """MONAI's own rule for where its caches end."""
    return isinstance(step, RandomizableTrait) or not isinstance(step, Transform)


def _read_all(attempts: _Attempts) -> list[np.ndarray]:
    """Go through all images, in worker processes where it pays, and raise the faults of all of them together."""
    workers = min(os.cpu_count() or 1, 8) if len(attempts) >= PARALLEL_FROM else 0
    loader = DataLoader(attempts, batch_size=None, num_workers=workers, collate_fn=_as_is)
    outcomes = list(track(loader, "Preprocessing images", total=len(attempts)))
    faults = [fault for outcome in outcomes if isinstance(outcome, tuple) for fault in outcome]
    if faults:
        raise InputError(*faults)
    return outcomes


def _as_is(image: Any) -> Any:
    return image


def _digest(item: Item) -> bytes:
    return item.digest.encode()


def _cache_folder(manifest: Manifest, preprocess: PreprocessConfig, cache_dir: Path | None) -> Path | None:
    """A folder of its own for each cohort, preprocessing and version of this code: nothing stale is ever read."""
    if cache_dir is None:
        return None
    made_by = [imgsynth.__version__, manifest.fingerprint, manifest.modality, dataclasses.asdict(preprocess)]
    return cache_dir / hashlib.sha256(json.dumps(made_by, default=repr).encode()).hexdigest()[:32]
