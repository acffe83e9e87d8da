"""Batches for the loop, of which the next is made while the device works on the last."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from imgsynth.privacy.sampling import PoissonPatients
from imgsynth.types import Grid, PatientBatch


class Patients(Protocol):
    """Where batches come from: ``PatientDataset``, or what an audit puts beside one."""

    grid: Grid

    def rows(self, patients: int) -> int: ...

    def batch(self, indices: Sequence[int], buffer_BC: Tensor | None = None) -> PatientBatch: ...


class Feed:
    """Poisson batches on ``device``: ``take`` gives the next one, ``prepare`` begins to make the one after it.

    A batch is drawn when it is begun, in the order in which batches are taken, so that preparing changes when a batch
    is made and not what is in it. Whoever stores the state of sampler and dataset must not have prepared: the batch
    would be drawn and lost, and a seeded run would not repeat. A batch that is never taken is never stepped; what went
    wrong with one is raised by ``take``.

    Images are gathered in two buffers in turn, page-locked where the device is CUDA, so that they are copied while the
    host goes on. A batch is good until the next ``take``.
    """

    def __init__(self, dataset: Patients, sampler: PoissonPatients, device: torch.device):
        self.waited = 0.0  # seconds that the last ``take`` took
        self._dataset, self._sampler, self._device = dataset, sampler, device
        self._thread = ThreadPoolExecutor(1, "imgsynth-feed")
        self._prepared: Future[PatientBatch] | None = None
        self._buffers = [torch.empty(0), torch.empty(0)]  # the first one is the next to be written to
        self._copied: list[torch.cuda.Event | None] = [None, None]  # when the device has what was in a buffer

    def take(self) -> PatientBatch:
        """The next batch. Raises InputError for an image that cannot be read, and beyond the plan's last step."""
        began = time.perf_counter()
        prepared, self._prepared = self._prepared, None
        batch = self._make(self._sampler.draw()) if prepared is None else prepared.result()
        if self._device.type == "cuda":
            batch = PatientBatch(
                *(t.to(self._device, non_blocking=True) for t in (batch.x_PKC, batch.y_PK, batch.w_PK))
            )
            self._copied[1] = torch.cuda.current_stream(self._device).record_event()
        self.waited = time.perf_counter() - began
        return batch

    def prepare(self) -> None:
        """Draw the next batch and begin to make it in the background."""
        assert self._prepared is None, "one batch ahead, not two"
        self._prepared = self._thread.submit(self._make, self._sampler.draw())

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _make(self, patients: list[int]) -> PatientBatch:
        return self._dataset.batch(patients, self._buffer(self._dataset.rows(len(patients))))

    def _buffer(self, rows: int) -> Tensor:
        """The buffer whose turn it is, with room for ``rows`` images; it changes places with the other."""
        if self._copied[0] is not None:
            self._copied[0].synchronize()
        if len(self._buffers[0]) < rows:
            shape = rows + rows // 4, self._dataset.grid.channels, *self._dataset.grid.shape
            self._buffers[0] = torch.empty(shape, pin_memory=self._device.type == "cuda")
        self._buffers.reverse()
        self._copied.reverse()
        return self._buffers[1]
