"""What a gradient engine promises: the sum over patients of clipped gradients, and nothing else.

Shape legend: P patients, K images of a patient, C channels, B = P·K images, * spatial axes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor, nn

from imgsynth.types import Fault, InputError, PatientBatch

Parameters = dict[str, nn.Parameter]
Aux = tuple[Tensor, ...]
Precision = Literal["float32", "bf16"]


class Clipped(NamedTuple):
    """What an engine returns. All of it is private: only the noised sums may leave ``private_step``."""

    sums: dict[str, Tensor]  # by parameter name: Σ_p min(1, C/‖g_p‖) g_p, shaped like the parameter
    norms_P: Tensor  # ‖g_p‖ over all trainable parameters together, before clipping
    loss_P: Tensor  # weighted mean loss of each patient


class Engine(ABC):
    """One way to compute the sum of clipped per-patient gradients. Engines differ in time and memory only.

    With g_p the gradient of patient p's weighted mean loss Σ_k w_pk ℓ_pk over *all* trainable parameters, the result
    is Σ_p min(1, C/‖g_p‖₂) g_p.

    Formal guarantee: adding or removing one patient, with whatever images, moves the sums (as one long vector) by at
    most C in the Euclidean norm, up to floating-point rounding.

    | case                                      | what happens                                                  |
    |-------------------------------------------|---------------------------------------------------------------|
    | P = 0                                     | zeros                                                         |
    | an image of weight 0 (padding)            | contributes nothing, even where its pixels or loss are NaN    |
    | a patient's gradient is NaN or infinite   | that patient contributes zero; its norm is reported as it is  |
    | losses not shaped (K,), as (K, 1) or ()   | InputError                                                    |
    | a buffer changes in the forward pass      | InputError                                                    |
    | frozen parameters                         | no entry in ``sums``                                          |
    | a hook on a parameter's gradient          | InputError                                                    |
    | precision "bf16"                          | forward and input gradients by autocast, norms and sums float32 |
    """

    name: str

    def __init__(self, precision: Precision = "float32"):
        self.precision = precision

    @final
    def clipped_sum(
        self, module: nn.Module, batch: PatientBatch, aux: Aux, clipping_norm: float, physical_batch: int
    ) -> Clipped:
        """Σ_p of the clipped gradients; ``aux`` tensors lead with B = P·K, ``physical_batch`` is in patients."""
        parameters = trainable_parameters(module)
        patients, images = batch.w_PK.shape
        assert all(len(a) == patients * images for a in aux), "aux tensors must lead with P*K"
        if patients == 0:
            zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
            return Clipped(zeros, batch.w_PK.new_zeros(0), batch.w_PK.new_zeros(0))
        aux_PK = tuple(a.reshape(patients, images, *a.shape[1:]) for a in aux)
        with unchanged_buffers(module):
            result = self._sum(module, parameters, batch, aux_PK, clipping_norm, physical_batch)
        assert result.sums.keys() == parameters.keys(), "an engine must cover every trainable parameter"
        return result

    @final
    def losses(self, network: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """``network(*inputs)``, a loss for each image, its forward pass in the engine's precision."""
        if self.precision == "float32":
            return network(*inputs)
        with torch.autocast(inputs[0].device.type, dtype=torch.bfloat16):
            return network(*inputs).float()

    @abstractmethod
    def _sum(
        self,
        module: nn.Module,
        parameters: Parameters,
        batch: PatientBatch,
        aux_PK: Aux,
        clipping_norm: float,
        physical_batch: int,
    ) -> Clipped:
        """As ``clipped_sum``, for P >= 1 and with aux tensors [P, K, ...]."""


def trainable_parameters(module: nn.Module) -> Parameters:
    """Name -> parameter that requires a gradient; shared ones once. InputError when there is none."""
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    hooked = [name for name, p in parameters.items() if p._backward_hooks or p._post_accumulate_grad_hooks]
    if hooked:
        raise InputError(
            Fault(
                where=f"parameters {', '.join(hooked)} of {type(module).__name__}",
                got="hooks on their gradients",
                expected="no hooks: they would act after the clipping, or on a sum of patients, or not at all",
                remedy="remove the hooks; freeze parameters with requires_grad_(False)",
            )
        )
    if not parameters:
        raise InputError(
            Fault(
                where=type(module).__name__,
                got="no trainable parameter",
                expected="at least one parameter with requires_grad=True in the private network",
                remedy="unfreeze the layers that are to learn",
            )
        )
    return parameters


def clip_factors(norms_P: Tensor, clipping_norm: float) -> Tensor:
    """min(1, C/‖g_p‖), and 0 where the norm is not finite."""
    factors_P = (clipping_norm / norms_P.clamp(min=torch.finfo(norms_P.dtype).tiny)).clamp(max=1.0)
    return torch.where(norms_P.isfinite(), factors_P, torch.zeros_like(factors_P))


def check_losses(losses: Tensor, images: int) -> None:
    """One scalar per image, or InputError: (B, 1) losses broadcast against (B,) weights would break the clipping."""
    if losses.shape != (images,):
        raise InputError(
            Fault(
                where="loss of the private network",
                got=f"a tensor of shape {tuple(losses.shape)} for {images} images",
                expected=f"one loss for each image, shape ({images},)",
                remedy="reduce each image's loss over all axes but the first, as with .flatten(1).mean(1)",
            )
        )


@contextmanager
def unchanged_buffers(module: nn.Module) -> Iterator[None]:
    """Refuse a forward pass that writes to a buffer: running statistics would carry unclipped, unnoised data out."""
    before = {name: (id(b), b._version) for name, b in module.named_buffers()}
    yield
    changed = [name for name, b in module.named_buffers() if before.get(name) != (id(b), b._version)]
    if changed:
        raise InputError(
            Fault(
                where=f"buffers {', '.join(changed)} of {type(module).__name__}",
                got="values that change in the forward pass",
                expected="buffers that stay as they are: their changes would pass the clipping and the noise by",
                remedy="drop the running statistics: GroupNorm for BatchNorm, track_running_stats=False",
            )
        )
