"""One private step: clipped sum, noise, public normaliser, and out comes ``.grad`` for any optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imgsynth.privacy.clipping import ClippingNorm, count_within
from imgsynth.privacy.engines import Engine
from imgsynth.privacy.engines.base import Aux, Clipped, trainable_parameters
from imgsynth.privacy.fakes import Fakes, joined, plain_sums
from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.plain import plain_sum
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.ranks import ALONE, Ranks, Sums
from imgsynth.types import PatientBatch

_COUNT = "(drawn patients within the clipping norm)"  # beside the parameters' names, none of which can be this


@dataclass(frozen=True)
class StepInfo:
    """``public`` holds functions of the noised gradient, free to be shown. ``local`` holds private-data statistics:
    it stays in the run's ``local`` folder, and neither it nor the batch's size may be published. ``noise_std`` is the
    standard deviation of the noise in each coordinate of ``.grad``, σ_g C / (q n), as public as C."""

    public: dict[str, float]
    local: dict[str, float]
    noise_std: float


def private_step(
    plan: PrivacyPlan,
    engine: Engine,
    module: nn.Module,
    batch: PatientBatch,
    aux: Aux,
    fakes: Fakes | None,
    noise: NoiseSource,
    ranks: Ranks = ALONE,
    clipping: ClippingNorm | None = None,
) -> StepInfo:
    """Write to ``.grad`` of every trainable parameter of ``module``

        (Σ_p min(1, C/‖g_p‖) g_p + N(0, (σ_g C)²)) / (q·n)  +  (1/m) Σ_j f_j

    with p over the drawn patients. Call ``optimizer.step()`` after it.

    ``batch`` is this rank's share of the drawn patients; sums are added over ``ranks``, noise enters the total once,
    and ``.grad`` is the same on every rank bit for bit.

    ``fakes`` are single generated images with their aux tensors, of no patient. With ``plan.fakes`` "joint" they are
    part of the g_p, as many for each patient of this rank (``fakes.joined``), and the last term is not there; they must
    be independent of each other and of their number. With
    "plain" they are that term: f_j is the gradient of fake j, not clipped; m is ``plan.companion_size``, a constant;
    every rank holds all of them. It depends on private data only through what earlier steps released, so it is
    post-processing and costs nothing. Were m tied to the drawn batch, it would be otherwise.

    ``clipping`` holds C; where the plan lets C adapt, it is needed, and moved for the next step.

    Formal guarantee: ``.grad`` and the next C together are the Gaussian mechanism of noise multiplier σ applied to the
    drawn batch.

    | case            | what happens                                                                                |
    |-----------------|---------------------------------------------------------------------------------------------|
    | empty batch     | noise alone (and plain fakes)                                                               |
    | mode "none"     | the same sums without clipping and noise                                                    |
    | σ = 0           | clipping without noise                                                                      |
    | several images  | the patient's weighted mean is clipped, once                                                |
    """
    assert plan.teachers is None, "a plan of votes has no gradients of patients"
    assert clipping is not None or plan.clipping_quantile is None, "a norm that adapts must be kept between steps"
    clipping = clipping or ClippingNorm(plan)
    images = batch.w_PK.shape[1]
    assert images == plan.images_per_step, f"the batch has {images} images a patient, the plan {plan.images_per_step}"
    if fakes is not None and plan.fakes == "joint":
        batch, aux = joined(plan, batch, aux, fakes)
    module.zero_grad(set_to_none=True)  # the last step's gradients, whose memory is needed now
    parameters = trainable_parameters(module)
    norm, noise_std = clipping.value, clipping.noise_std
    real = _sum(plan, engine, module, batch, aux, norm)
    # Engines list parameters as they meet them; noise is drawn in the module's order, whatever the engine or the batch.
    groups = [{name: real.sums[name] for name in parameters}]
    if plan.clipping_quantile is not None:
        groups[0][_COUNT] = count_within(real.norms_P, norm)
    if fakes is not None and plan.fakes == "plain":
        groups.append(plain_sums(plan, engine, module, fakes, ranks))
    gradients = ranks.combine(groups, lambda *totals: _gradients(plan, clipping, noise, *totals))
    norms = []
    for name, parameter in parameters.items():
        parameter.grad = gradients[name].to(parameter.dtype)
        norms.append(torch.linalg.vector_norm(parameter.grad).double())
    public = {"noisy_gradient_norm": torch.stack(norms).norm().item()}
    if plan.clipping_quantile is not None:
        public["clipping_norm"] = norm
        clipping.follow(gradients[_COUNT].item())
    return StepInfo(public, _local(plan, real, norm), noise_std / plan.normaliser)


def _gradients(
    plan: PrivacyPlan, clipping: ClippingNorm, noise: NoiseSource, real: Sums, fake: Sums | None = None
) -> Sums:
    """The step's gradient, and its noised count where there is one, from the totals over all ranks, in double
    precision; the one place where noise is drawn."""
    names = [name for name in real if name != _COUNT]  # as one vector: noise for many small parameters is slow
    sizes = [real[name].numel() for name in names]
    total = torch.cat([real[name].reshape(-1) for name in names])
    noisy = _noised(total, clipping.noise_std, noise, plan.normaliser)
    if fake is not None:
        noisy.add_(torch.cat([fake[name].reshape(-1) for name in names]), alpha=1 / plan.companion_size)
    gradients = {n: part.view(real[n].shape) for n, part in zip(names, noisy.split(sizes), strict=True)}
    if _COUNT in real:
        gradients[_COUNT] = _noised(real[_COUNT], clipping.count_noise_std, noise)
    return gradients


def _noised(total: Tensor, std: float, noise: NoiseSource, divisor: float = 1.0) -> Tensor:
    """A new tensor in double precision."""
    return noise.add(total, std, divisor) if std > 0 else total.to(torch.float64, copy=True).div_(divisor)


def _sum(
    plan: PrivacyPlan, engine: Engine, module: nn.Module, batch: PatientBatch, aux: Aux, clipping_norm: float
) -> Clipped:
    if plan.mode == "none":
        return plain_sum(engine, module, batch, aux, plan.physical_batch)
    return engine.clipped_sum(module, batch, aux, clipping_norm, plan.physical_batch)


def _local(plan: PrivacyPlan, real: Clipped, clipping_norm: float) -> dict[str, float]:
    """Statistics of the drawn patients; an empty batch has none."""
    if len(real.loss_P) == 0:
        return {}
    local = {"loss": real.loss_P.mean().item()}
    if plan.mode == "dp":
        finite_P = real.norms_P[real.norms_P.isfinite()]
        local["mean_norm"] = finite_P.mean().item() if len(finite_P) else 0.0
        local["clipped_share"] = (real.norms_P > clipping_norm).double().mean().item()
        local["dropped_share"] = 1.0 - len(finite_P) / len(real.norms_P)
    return local
