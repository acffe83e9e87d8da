"""The oracle: one forward and backward per image, as plainly as it can be written. Slow, and takes any network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imgsynth.privacy.engines.base import Aux, Clipped, Engine, Parameters, check_losses, clip_factors
from imgsynth.types import PatientBatch


class LoopEngine(Engine):
    name = "loop"

    def _sum(
        self,
        module: nn.Module,
        parameters: Parameters,
        batch: PatientBatch,
        aux_PK: Aux,
        clipping_norm: float,
        physical_batch: int,
    ) -> Clipped:
        sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
        norms, losses = [], []
        for p in range(len(batch)):
            gradient, loss = self._patient_gradient(module, parameters, batch, aux_PK, p)
            norm = torch.stack([g.norm() for g in gradient]).norm()
            if norm.isfinite():
                factor = clip_factors(norm, clipping_norm)
                for total, g in zip(sums.values(), gradient, strict=True):
                    total += factor * g
            norms.append(norm)
            losses.append(loss)
        return Clipped(sums, torch.stack(norms), torch.stack(losses))

    def _patient_gradient(
        self, module: nn.Module, parameters: Parameters, batch: PatientBatch, aux_PK: Aux, p: int
    ) -> tuple[list[Tensor], Tensor]:
        """Gradient and value of patient p's weighted mean loss, image after image."""
        gradient = [torch.zeros_like(q) for q in parameters.values()]
        loss = batch.w_PK.new_zeros(())
        for k in batch.w_PK[p].nonzero().flatten().tolist():
            x_1, y_1 = batch.x_PKC[p, k].unsqueeze(0).clone(), batch.y_PK[p, k].unsqueeze(0)
            loss_1 = self.losses(module, x_1, y_1, *(a[p, k].unsqueeze(0) for a in aux_PK))
            check_losses(loss_1, 1)
            weighted = (batch.w_PK[p, k] * loss_1).sum()
            parts = torch.autograd.grad(weighted, list(parameters.values()), allow_unused=True, materialize_grads=True)
            for total, part in zip(gradient, parts, strict=True):
                total += part
            loss = loss + weighted.detach()
        return gradient, loss
