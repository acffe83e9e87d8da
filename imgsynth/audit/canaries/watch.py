"""What the auditor knows of a step beside its result: the real patients' clipped sum, and that of plain fakes.

A known sum may be subtracted: the proof of one patient's privacy holds against those who know all about the others.
Without it the canaries drown in what the patients have in common (a run without any noise would pass).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imgsynth.audit.canaries.pseudo import canary_patients
from imgsynth.models.base import FakeSource
from imgsynth.privacy.engines import Engine
from imgsynth.privacy.engines.base import Aux, Clipped, Parameters
from imgsynth.privacy.plain import plain_sum
from imgsynth.privacy.ranks import Sums
from imgsynth.types import PatientBatch


class Watched(Engine):
    """``inner``, the run's engine, called as it would be; and, if ``twice``, once more on the patients who are no
    canaries, with the same images, fakes and random inputs. Neither sum leaves the auditor.

    Before that, the generated images in a canary's unit are marked as the canary's (by labels from ``classes`` + M on):
    they are its own affair, and would only blur it.
    """

    name = "watched"

    def __init__(self, inner: Engine, classes: int, canaries: int, twice: bool):
        super().__init__(inner.precision)
        self.inner, self.classes, self.canaries, self._twice = inner, classes, canaries, twice
        self.known: Sums = {}

    def _sum(
        self,
        module: nn.Module,
        parameters: Parameters,
        batch: PatientBatch,
        aux_PK: Aux,
        clipping_norm: float,
        physical_batch: int,
    ) -> Clipped:
        canary_P = canary_patients(batch, self.classes)
        fakes_PK = canary_P[:, None] & (batch.y_PK < self.classes)
        batch = PatientBatch(batch.x_PKC, batch.y_PK.where(~fakes_PK, batch.y_PK[:, :1] + self.canaries), batch.w_PK)
        result = self.inner._sum(module, parameters, batch, aux_PK, clipping_norm, physical_batch)
        real_P = ~canary_P
        if self._twice and real_P.any():
            real = PatientBatch(batch.x_PKC[real_P], batch.y_PK[real_P], batch.w_PK[real_P])
            aux = tuple(a[real_P] for a in aux_PK)
            self.add(self.inner._sum(module, parameters, real, aux, clipping_norm, physical_batch).sums)
        return result

    def add(self, sums: Sums, times: float = 1.0) -> None:
        for name, value in sums.items():
            self.known[name] = self.known.get(name, 0.0) + value.detach().double() * times

    def forget(self) -> None:
        """To be called before every step."""
        self.known = {}


def watched_fakes(
    source: FakeSource, module: nn.Module, engine: Watched, normaliser: float, physical_batch: int
) -> FakeSource:
    """``source`` whose images are also added to what ``engine`` knows: for fakes whose mean gradient enters a step
    beside the patients' ("plain")."""

    def make(*drawn_B: Tensor) -> tuple[Tensor, ...]:
        x_BC, y_B, *aux_B = source.make(*drawn_B)
        fakes = PatientBatch(x_BC[:, None], y_B[:, None], x_BC.new_ones(len(x_BC), 1))
        with torch.enable_grad():  # the trainer makes fakes without
            summed = plain_sum(engine.inner, module, fakes, tuple(aux_B), physical_batch).sums
        engine.add(summed, normaliser / len(x_BC))
        return x_BC, y_B, *aux_B

    return FakeSource(source.draw, make)
