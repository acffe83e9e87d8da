"""The ordinary sum of gradients, for mode "none" and for generated images that are no patients."""

from __future__ import annotations

import torch
from torch import nn

from imgsynth.privacy.engines.base import Aux, Clipped, Engine, check_losses, trainable_parameters
from imgsynth.types import PatientBatch


def plain_sum(engine: Engine, module: nn.Module, batch: PatientBatch, aux: Aux, physical_batch: int) -> Clipped:
    """Σ_p Σ_k w_pk ∇ℓ_pk by ordinary backward passes, without clipping; norms are not computed.

    ``aux`` tensors lead with B = P·K, ``physical_batch`` is in patients; of ``engine`` the precision is taken."""
    parameters = trainable_parameters(module)
    patients, images = batch.w_PK.shape
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    losses = [batch.w_PK.new_zeros(0)]
    for start in range(0, patients, physical_batch):
        w_PK = batch.w_PK[start : start + physical_batch]
        keep_B = w_PK.flatten().nonzero().flatten() + start * images
        inputs = batch.x_PKC.flatten(0, 1)[keep_B], batch.y_PK.flatten()[keep_B], *(a[keep_B] for a in aux)
        loss_B = engine.losses(module, *inputs)
        check_losses(loss_B, len(keep_B))
        weighted_B = batch.w_PK.flatten()[keep_B] * loss_B
        parts = torch.autograd.grad(
            weighted_B.sum(), list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        for total, part in zip(sums.values(), parts, strict=True):
            total += part
        row_B = keep_B // images - start
        losses.append(w_PK.new_zeros(len(w_PK)).index_add(0, row_B, weighted_B.detach()))
    return Clipped(sums, batch.w_PK.new_zeros(0), torch.cat(losses))
