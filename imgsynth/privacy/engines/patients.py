"""Which images of a batch belong to which patient, after padding images were left out."""

from __future__ import annotations

import torch
from torch import Tensor

from imgsynth.types import PatientBatch


class Images:
    """The B images of weight above zero of P patients, in order; patient p has ``count_P[p]`` of them.

    ``uniform`` is the number of images that every patient has, or None where they differ.
    """

    def __init__(self, w_PK: Tensor):
        self.patients, slots = w_PK.shape
        self.keep_B = w_PK.flatten().nonzero().flatten()  # index into P·K
        self.w_B = w_PK.flatten()[self.keep_B]
        self.patient_B = self.keep_B // slots
        self.ends: list[int] = torch.bincount(self.patient_B, minlength=self.patients).cumsum(0).tolist()
        self._count()

    def _count(self) -> None:
        counts = [end - start for start, end in zip([0, *self.ends], self.ends, strict=False)]
        self.most = max(counts)
        self.uniform = self.most if len(self.patient_B) == self.patients * self.most else None
        if self.uniform is None:
            first_P = torch.tensor([0, *self.ends[:-1]], device=self.patient_B.device)
            place_B = torch.arange(len(self.patient_B), device=self.patient_B.device) - first_P[self.patient_B]
            self.place_B = self.patient_B * self.most + place_B

    def __len__(self) -> int:
        return len(self.patient_B)

    def take(self, batch: PatientBatch, aux: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """x_BC, y_B and aux of the images; ``aux`` tensors are [P, K, ...]. Copies, so that no layer in place harms."""
        tensors = (batch.x_PKC, batch.y_PK, *aux)
        return tuple(t.flatten(0, 1).index_select(0, self.keep_B) for t in tensors)

    def by_patient(self, t_B: Tensor) -> Tensor:
        """[B, ...] as [P, k, ...], k the most images that a patient has; zeros where a patient has fewer."""
        if self.uniform is not None:
            return t_B.view(self.patients, self.uniform, *t_B.shape[1:])
        padded = t_B.new_zeros(self.patients * self.most, *t_B.shape[1:])
        padded.index_copy_(0, self.place_B, t_B)
        return padded.view(self.patients, self.most, *t_B.shape[1:])

    def sum_by_patient(self, t_B: Tensor) -> Tensor:
        """[B, ...] summed over each patient's images: [P, ...]."""
        if self.uniform == 1:
            return t_B
        if self.uniform:
            return self.by_patient(t_B).sum(1)
        return t_B.new_zeros(self.patients, *t_B.shape[1:]).index_add_(0, self.patient_B, t_B)

    def slice_of(self, patients: range) -> slice:
        """Where the images of some patients in a row are in B."""
        return slice(self.ends[patients.start - 1] if patients.start else 0, self.ends[patients.stop - 1])

    def of(self, patients: range) -> Images:
        """Those patients alone."""
        if len(patients) == self.patients:
            return self
        some, own = object.__new__(Images), self.slice_of(patients)
        some.patients = len(patients)
        some.patient_B = self.patient_B[own] - patients.start
        some.ends = [end - own.start for end in self.ends[patients.start : patients.stop]]
        some._count()
        return some
