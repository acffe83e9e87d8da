"""Per-patient gradients by ``torch.func``: vmap over patients of the gradient of a patient's weighted mean loss.

Takes any loss that torch.func takes, gradient penalties included. Holds the gradients of ``physical_batch`` patients
at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from imgsynth.privacy.engines.base import Aux, Clipped, Engine, Parameters, check_losses, clip_factors
from imgsynth.types import Fault, InputError, PatientBatch


class FunctionalEngine(Engine):
    name = "functional"

    def _sum(
        self,
        module: nn.Module,
        parameters: Parameters,
        batch: PatientBatch,
        aux_PK: Aux,
        clipping_norm: float,
        physical_batch: int,
    ) -> Clipped:
        values = {name: p.detach() for name, p in parameters.items()}
        sums = {name: torch.zeros_like(p) for name, p in values.items()}
        norms, losses = [], []

        def patient_loss(theta: dict[str, Tensor], x_KC: Tensor, y_K: Tensor, w_K: Tensor, *aux_K: Tensor) -> Tensor:
            loss_K = self.losses(lambda *inputs: functional_call(module, theta, inputs), x_KC, y_K, *aux_K)
            check_losses(loss_K, len(w_K))
            return (w_K * loss_K).sum()

        # "different": a random layer (dropout) draws anew for every patient, as it would in an ordinary batch.
        gradients = vmap(
            grad_and_value(patient_loss), in_dims=(None, 0, 0, 0, *(0 for _ in aux_PK)), randomness="different"
        )
        for start in range(0, len(batch), physical_batch):
            chunk = slice(start, start + physical_batch)
            x_PKC, y_PK, *aux = _without_padding(
                batch.w_PK[chunk], batch.x_PKC[chunk], batch.y_PK[chunk], aux_PK, chunk
            )
            with _explained(module):
                grads, loss_P = gradients(values, x_PKC, y_PK, batch.w_PK[chunk], *aux)
            norms_P = torch.stack([g.reshape(len(g), -1).norm(dim=1) for g in grads.values()]).norm(dim=0)
            _add_clipped(sums, grads, norms_P, clipping_norm)
            norms.append(norms_P)
            losses.append(loss_P)
        return Clipped(sums, torch.cat(norms), torch.cat(losses))


@contextmanager
def _explained(module: nn.Module) -> Iterator[None]:
    """Say what to do where torch.func cannot follow a network: writing to buffers, branching on values."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if not any(word in str(error) for word in ("vmap", "transform", "functorch", "saved tensor hooks")):
            raise
        raise InputError(
            Fault(
                where=f"private network {type(module).__name__}",
                got=str(error),
                expected="a forward pass that torch.func can follow: no writing to buffers, no branching on values",
                remedy="rewrite that layer, or privacy.engine=loop, which differentiates image after image",
            )
        ) from error


def _without_padding(w_PK: Tensor, x_PKC: Tensor, y_PK: Tensor, aux_PK: Aux, chunk: slice) -> tuple[Tensor, ...]:
    """Copies in which every image of weight zero is replaced by its patient's first real image.

    vmap cannot leave images out, and zero times the NaN of a padding image is NaN. A copy of a real image with weight
    zero contributes exactly zero. (The copies also keep in-place layers off the caller's batch.)
    """
    patients, images = w_PK.shape
    real_PK = w_PK != 0
    own = torch.arange(images, device=w_PK.device).expand(patients, images)
    first = real_PK.to(torch.uint8).argmax(dim=1, keepdim=True)
    source_PK = torch.where(real_PK, own, first)
    rows = torch.arange(patients, device=w_PK.device).unsqueeze(1)
    return x_PKC[rows, source_PK], y_PK[rows, source_PK], *(a[chunk][rows, source_PK] for a in aux_PK)


def _add_clipped(sums: dict[str, Tensor], grads: dict[str, Tensor], norms_P: Tensor, clipping_norm: float) -> None:
    """Add Σ_p factor_p g_p to ``sums``; patients with a non-finite norm are left out, as 0·NaN is not 0."""
    finite_P = norms_P.isfinite()
    if not finite_P.all():
        grads = {name: g[finite_P] for name, g in grads.items()}
    factors_P = clip_factors(norms_P[finite_P], clipping_norm)
    for name, g in grads.items():
        sums[name] += torch.tensordot(factors_P.to(g.dtype), g, dims=1)
