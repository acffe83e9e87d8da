"""One private step: clipped sum, noise, public normaliser, and out comes ``.grad`` for any optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imgsynth.privacy.engines import Engine
from imgsynth.privacy.engines.base import Clipped, check_losses, trainable_parameters
from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.ranks import ALONE, Ranks, Sums
from imgsynth.types import PatientBatch

Aux = tuple[Tensor, ...]


@dataclass(frozen=True)
class StepInfo:
    """``public`` holds functions of the noised gradient, free to be shown. ``local`` holds private-data statistics:
    it stays in the run's ``local`` folder, and neither it nor the batch's size may be published."""

    public: dict[str, float]
    local: dict[str, float]


def private_step(
    plan: PrivacyPlan,
    engine: Engine,
    module: nn.Module,
    batch: PatientBatch,
    aux: Aux,
    companion: tuple[PatientBatch, Aux] | None,
    noise: NoiseSource,
    ranks: Ranks = ALONE,
) -> StepInfo:
    """Write to ``.grad`` of every trainable parameter of ``module``

        (Σ_p min(1, C/‖g_p‖) g_p + N(0, (σC)²)) / (q·n)  +  (1/m) Σ_j min(1, C/‖f_j‖) f_j

    with p over the drawn patients and j over the m companions. Call ``optimizer.step()`` after it.

    ``batch`` is this rank's share of the drawn patients, ``companion`` all m of them, the same on every rank; sums are
    added over ``ranks``, noise enters the total once, and ``.grad`` is the same on every rank bit for bit.

    Companions are units made without data (generated images). Their gradients f_j depend on private data only through
    what earlier steps released, and m is ``plan.companion_size``, a constant: they are post-processing and cost
    nothing. Were m tied to the drawn batch, or were they clipped *within* the patients' sum, it would be otherwise.

    Formal guarantee: ``.grad`` is the Gaussian mechanism of noise multiplier σ applied to the drawn batch.

    | case            | what happens                                                                                |
    |-----------------|---------------------------------------------------------------------------------------------|
    | empty batch     | noise alone (and companions)                                                                |
    | mode "none"     | the same sums without clipping and noise                                                    |
    | σ = 0           | clipping without noise                                                                      |
    | several images  | the patient's weighted mean is clipped, once                                                |
    """
    images = batch.w_PK.shape[1]
    assert images == plan.images_per_patient, f"the batch has K = {images}, the plan {plan.images_per_patient}"
    real = _sum(plan, engine, module, batch, aux)
    groups = [real.sums]
    if companion is not None:
        made = len(companion[0])
        assert made == plan.companion_size, f"{made} companions, but the plan's public number is {plan.companion_size}"
        groups.append(_sum(plan, engine, module, *ranks.share(companion)).sums)
    gradients = ranks.combine(groups, lambda *totals: _gradients(plan, noise, *totals))
    squares = []
    for name, parameter in trainable_parameters(module).items():
        parameter.grad = gradients[name].to(parameter.dtype)
        squares.append(gradients[name].square().sum())
    public = {"noisy_gradient_norm": torch.stack(squares).sum().sqrt().item()}
    return StepInfo(public, _local(plan, real))


def _gradients(plan: PrivacyPlan, noise: NoiseSource, real: Sums, fake: Sums | None = None) -> Sums:
    """The step's gradient from the totals over all ranks, in double precision; the one place where noise is drawn."""
    gradients = {}
    for name, total in real.items():
        noisy = noise.add(total, plan.noise_std) if plan.noise_std > 0 else total.double()
        gradients[name] = noisy / plan.normaliser
        if fake is not None:
            gradients[name] = gradients[name] + fake[name].double() / plan.companion_size
    return gradients


def _sum(plan: PrivacyPlan, engine: Engine, module: nn.Module, batch: PatientBatch, aux: Aux) -> Clipped:
    if plan.mode == "none":
        return plain_sum(module, batch, aux, plan.physical_batch)
    return engine.clipped_sum(module, batch, aux, plan.clipping_norm, plan.physical_batch)


def plain_sum(module: nn.Module, batch: PatientBatch, aux: Aux, physical_batch: int) -> Clipped:
    """Mode "none": Σ_p Σ_k w_pk ∇ℓ_pk by ordinary backward passes, without clipping; norms are not computed."""
    parameters = trainable_parameters(module)
    patients, images = batch.w_PK.shape
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    losses = [batch.w_PK.new_zeros(0)]
    for start in range(0, patients, physical_batch):
        w_PK = batch.w_PK[start : start + physical_batch]
        keep_B = w_PK.flatten().nonzero().flatten() + start * images
        loss_B = module(batch.x_PKC.flatten(0, 1)[keep_B], batch.y_PK.flatten()[keep_B], *(a[keep_B] for a in aux))
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


def _local(plan: PrivacyPlan, real: Clipped) -> dict[str, float]:
    """Statistics of the drawn patients; an empty batch has none."""
    if len(real.loss_P) == 0:
        return {}
    local = {"loss": real.loss_P.mean().item()}
    if plan.mode == "dp":
        finite_P = real.norms_P[real.norms_P.isfinite()]
        local["mean_norm"] = finite_P.mean().item() if len(finite_P) else 0.0
        local["clipped_share"] = (real.norms_P > plan.clipping_norm).double().mean().item()
        local["dropped_share"] = 1.0 - len(finite_P) / len(real.norms_P)
    return local
