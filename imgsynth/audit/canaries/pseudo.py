"""Pseudo-patients beside the real ones: to sampler, feed and step they are patients like any other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from imgsynth.cohort.dataset import PatientDataset
from imgsynth.types import PatientBatch


class WithCanaries:
    """The patients of ``patients``, and after them one pseudo-patient for each of the ``included`` canaries.

    A canary's label is ``classes`` + its number, by which the network's wrapper knows it; where not ``marked``, the
    class that the number leaves on division, as for a network without a wrapper. It brings as many images as
    a patient can, all of them ``image_MC[its number]``, with equal weights: clipping image by image would show.
    """

    def __init__(self, patients: PatientDataset, classes: int, included: Sequence[int], image_MC: Tensor,
                 marked: bool = True):  # fmt: skip
        self.grid = patients.grid
        self._patients, self._classes = patients, classes
        self._included = torch.tensor(included, dtype=torch.long)
        self._image_MC, self._marked = image_MC, marked

    def __len__(self) -> int:
        return len(self._patients) + len(self._included)

    def rows(self, patients: int) -> int:
        return self._patients.rows(patients)

    def batch(self, indices: Sequence[int], buffer_BC: Tensor | None = None) -> PatientBatch:
        """As ``PatientDataset.batch``; ``indices`` from ``len(patients)`` on are canaries, and come last."""
        real = [i for i in indices if i < len(self._patients)]
        canary_Q = self._included[torch.tensor([i - len(self._patients) for i in indices if i >= len(self._patients)],
                                               dtype=torch.long)]  # fmt: skip
        images = self.rows(1)
        if buffer_BC is None:
            buffer_BC = torch.empty(self.rows(len(indices)), self.grid.channels, *self.grid.shape)
        batch = self._patients.batch(real, buffer_BC)
        x_BC = buffer_BC[: self.rows(len(indices))]
        x_BC[self.rows(len(real)) :] = self._image_MC[canary_Q].repeat_interleave(images, 0)
        label_Q = self._classes + canary_Q if self._marked else canary_Q % self._classes
        y_QK = label_Q[:, None].expand(-1, images)
        w_QK = torch.full((len(canary_Q), images), 1 / images)
        return PatientBatch(
            x_BC.view(len(indices), images, *x_BC.shape[1:]),
            torch.cat([batch.y_PK, y_QK]),
            torch.cat([batch.w_PK, w_QK]),
        )


def canary_patients(batch: PatientBatch, classes: int) -> Tensor:
    """[P] which patients of a batch are canaries. A patient's first image is never a generated one."""
    return batch.y_PK[:, 0] >= classes
