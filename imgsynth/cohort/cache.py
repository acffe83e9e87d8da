"""Preprocessed images, each made once and kept in memory or on disk; random transforms run at each access."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import monai
import monai.data
import numpy as np
import torch
from monai.transforms import RandomizableTrait, Transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import imgsynth
from imgsynth.cohort.load import Pair, load_pair, load_volume
from imgsynth.cohort.manifest import Item, Manifest
from imgsynth.cohort.transforms import Pipeline
from imgsynth.console import track
from imgsynth.schema import PreprocessConfig
from imgsynth.types import Fault, InputError
from imgsynth.volumes.volume import Volume

PARALLEL_FROM = 64  # images; below, starting processes costs more than it saves
PADDING = -1  # the row of an image that is not there: zeros


class Images(ABC):
    """The images of a list of items, [C, *shape] each, by their row in that list."""

    @abstractmethod
    def __getitem__(self, row: int) -> Tensor: ...

    def fill(self, rows_B: Tensor, out_BC: Tensor) -> None:
        """Write the images of ``rows_B`` [B] to ``out_BC`` [B, C, *shape], zeros where the row is ``PADDING``."""
        for row, out_C in zip(rows_B.tolist(), out_BC, strict=True):
            if row == PADDING:
                out_C.zero_()
            else:
                out_C.copy_(self[row])


class InMemory(Images):
    """One contiguous tensor [images + 1, C, *shape], of which the last image is the padding; ``later`` are the
    transforms from the first random one on. Without any, a batch is one call, whatever it holds."""

    def __init__(self, stack_NC: Tensor, later: Sequence[Callable[..., Any]]):
        self._stack_NC = stack_NC
        self._later = Pipeline(later) if later else None

    def __getitem__(self, row: int) -> Tensor:
        image_C = self._stack_NC[row]
        return image_C if self._later is None else self._later(image_C.clone())

    def fill(self, rows_B: Tensor, out_BC: Tensor) -> None:
        if self._later is not None:
            super().fill(rows_B, out_BC)
        else:
            torch.index_select(self._stack_NC, 0, rows_B % len(self._stack_NC), out=out_BC)


class OneByOne(Images):
    """Images that are read (or made) when they are wanted."""

    def __init__(self, images: Dataset[Any]):
        self._images = images

    def __getitem__(self, row: int) -> Tensor:
        return torch.as_tensor(self._images[row])


def cached(
    manifest: Manifest,
    items: list[Item],
    steps: Sequence[Callable[..., Any]],
    shape: tuple[int, ...],
    cache: str,
    folder: Path | None,
) -> Images:
    """The images of ``items`` after ``steps`` (Volume, or Pair where there are masks, to ``shape``); with a cache all
    are read here, in parallel.

    "memory" holds what the steps before the first random one make; "disk" the same as files in ``folder`` (MONAI
    PersistentDataset; readable by its owner alone: private data); "none" nothing. Raises InputError with the faults of
    all images that cannot be read.
    """
    whole = Pipeline([_Load(manifest), *steps])
    if cache == "none":
        return OneByOne(monai.data.Dataset(items, whole))
    if cache == "disk":
        if folder is None:
            raise ValueError("Expected cache_dir with cache='disk'.")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        images = _DiskCache(items, whole, folder, hash_func=_key)
        for _ in _read_all(_Attempts(images, keep=False)):
            pass
        return OneByOne(images)
    first_random = whole.get_index_of_first(_runs_each_time)
    fixed = monai.data.Dataset(items, Pipeline(whole.transforms[:first_random]))
    stack_NC = torch.zeros(len(items) + 1, *shape)
    for row, array in enumerate(_read_all(_Attempts(fixed, keep=True))):
        stack_NC[row] = torch.from_numpy(array)
    return InMemory(stack_NC, whole.transforms[first_random:] if first_random is not None else ())


def cache_folder(
    manifest: Manifest, preprocess: PreprocessConfig, extra: Sequence[Any], cache_dir: Path | None
) -> Path | None:
    """A folder of its own for each cohort, preprocessing and state of this code: nothing stale is ever read.

    The code counts as it is, the source of ``cohort/`` and ``volumes/`` and of the ``extra`` transforms, not as a
    version that somebody may have forgotten to raise.
    """
    if cache_dir is None:
        return None
    versions = [imgsynth.__version__, monai.__version__, torch.__version__, _source()]
    made_by = [versions, manifest.fingerprint, manifest.modality, dataclasses.asdict(preprocess), [*map(_step, extra)],
               [dataclasses.asdict(structure) for structure in manifest.structures]]  # fmt: skip
    return cache_dir / hashlib.sha256(json.dumps(made_by, default=repr).encode()).hexdigest()[:32]


def _source() -> str:
    package = Path(imgsynth.__file__).parent
    files = sorted(path for room in ("cohort", "volumes") for path in (package / room).glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _step(step: Any) -> list[str]:
    """A transform by its class, that class' source, and those of its settings that are plain values."""
    cls = type(step)
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):  # written in C, or at a prompt
        source = ""
    plain = {k: v for k, v in vars(step).items() if isinstance(v, (str, int, float, bool, tuple, list, type(None)))}
    return [f"{cls.__module__}.{cls.__qualname__}", source, repr(sorted(plain.items()))]


class _Load(Transform):
    """Item -> Volume, or Pair where masks are used, as the first step of a MONAI pipeline."""

    def __init__(self, manifest: Manifest):
        self.manifest = dataclasses.replace(manifest, items=())  # worker processes need no list of patients

    def __call__(self, item: Item) -> Volume | Pair:
        return load_pair(self.manifest, item) if self.manifest.structures else load_volume(self.manifest, item)


class _DiskCache(monai.data.PersistentDataset):
    def _cachecheck(self, item: Item) -> Tensor:
        try:
            return super()._cachecheck(item)
        except RuntimeError:  # a file cut short: killed while it was moved in from another file system
            (Path(self.cache_dir) / f"{_key(item).decode()}.pt").unlink(missing_ok=True)
            return super()._cachecheck(item)


def _key(item: Item) -> bytes:
    """An image by its content and its mask's, and by which frames of its file it is and where they lie."""
    content = item.digest, item.mask_digest, item.frames, item.affine, item.modality
    return hashlib.sha256(repr(content).encode()).hexdigest().encode()


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


def _runs_each_time(step: Any) -> bool:
    """MONAI's own rule for where its caches end."""
    return isinstance(step, RandomizableTrait) or not isinstance(step, Transform)


def _read_all(attempts: _Attempts) -> Iterator[np.ndarray]:
    """Go through all images, in worker processes where it pays; at the end raise the faults of all of them together."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)  # of one run on this machine, which share its cores
    workers = min((os.cpu_count() or 1) // processes, 8) if len(attempts) >= PARALLEL_FROM else 0
    loader = DataLoader(attempts, batch_size=None, num_workers=workers, collate_fn=_as_is)
    faults: list[Fault] = []
    for outcome in track(loader, "Preprocessing images", total=len(attempts)):
        if isinstance(outcome, tuple):
            faults += outcome
        elif not faults:
            yield outcome
    if faults:
        raise InputError(*faults)


def _as_is(image: Any) -> Any:
    return image
