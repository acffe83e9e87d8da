"""What a gradient engine promises: the sum over patients of clipped gradients, and nothing else.

Shape legend: P patients, K images of a patient, C channels, B = P·K images, * spatial axes.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal, NamedTuple, final
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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
    | a buffer or parameter changes in forward  | InputError                                                    |
    | parameters in half precision, complex     | InputError                                                    |
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
        with unchanged(module):
            result = self._sum(module, parameters, batch, aux_PK, clipping_norm, physical_batch)
        assert result.sums.keys() == parameters.keys(), "an engine must cover every trainable parameter"
        return result

    @final
    def losses(self, network: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """``network(*inputs)``, a loss for each image, its forward pass in the engine's precision."""
        if self.precision == "float32":
            return network(*inputs)
        with torch.autocast(inputs[0].device.type, dtype=torch.bfloat16), _InstanceNormInFull():
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


class _InstanceNormInFull(TorchFunctionMode):
    """torch.func has no instance norm of half precision with weights in single precision."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.instance_norm:
            x, args = (args[0], args[1:]) if args else (kwargs.pop("input"), ())
            return func(x.float(), *args, **kwargs)
        return func(*args, **kwargs)


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
    coarse = [f"{name} ({p.dtype})" for name, p in parameters.items() if p.dtype not in (torch.float32, torch.float64)]
    if coarse:
        raise InputError(
            Fault(
                where=f"parameters {', '.join(coarse)} of {type(module).__name__}",
                got="trained in another precision than float32 or float64",
                expected="weights in which clipped gradients can be summed without rounding past the clipping norm",
                remedy="module.float(), and trainer.precision=bf16 for the speed",
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
def unchanged(module: nn.Module) -> Iterator[None]:
    """Refuse a forward pass that writes to a buffer or a parameter: what it leaves there passes the clipping and the
    noise by (running statistics, a codebook's averages).

    Replacements and ordinary writes are seen in every call, writes past torch's book-keeping (``.data``) in calls 1, 2,
    4, 8, …, in which the contents are compared.
    """
    calls = _calls[module] = _calls.get(module, 0) + 1
    state = _state(module)
    before = {name: (id(t), t._version) for name, t in state.items()}
    content = {name: _fingerprint(t) for name, t in state.items()} if calls & (calls - 1) == 0 else {}
    yield
    state = _state(module)
    changed = [name for name, t in state.items() if before.get(name) != (id(t), t._version)]
    changed += [name for name, found in content.items() if name in state and _fingerprint(state[name]) != found]
    changed += [name for name in before if name not in state]
    if changed:
        raise InputError(
            Fault(
                where=f"{', '.join(sorted(set(changed)))} of {type(module).__name__} (buffer or parameter)",
                got="values that change in the forward pass",
                expected="a network that stays as it is: changes would pass the clipping and the noise by",
                remedy="drop what is kept of the images: GroupNorm for BatchNorm, track_running_stats=False",
            )
        )


_calls: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_buffers()), **dict(module.named_parameters())}


def _fingerprint(t: Tensor) -> tuple[torch.Size, int]:
    """Of shape and contents, bit for bit: a sum of its bytes, eight at a time, with random odd weights modulo 2⁶⁴.

    Contents that differ have the same sum once in 2⁶⁴ (for weights drawn after them; ours are drawn once a process).
    In parts: a copy of all weights would be the largest thing in the memory of a step.
    """
    data = t.detach().reshape(-1).view(torch.uint8)
    whole = len(data) // 8 * 8
    total = int((data[whole:].long() * _weights(t.device)[: len(data) - whole]).sum())
    words, weights = data[:whole].view(torch.int64), _weights(t.device)
    for start in range(0, len(words), len(weights)):
        part = words[start : start + len(weights)]
        total = total * _ODD + int((part * weights[: len(part)]).sum())
    return t.shape, total % 2**64


_ODD = 0x9E3779B97F4A7C15  # 2⁶⁴ over the golden ratio: parts of a tensor in another order have another sum


@lru_cache
def _weights(device: torch.device) -> Tensor:
    words = torch.frombuffer(bytearray(os.urandom(8 * 2**15)), dtype=torch.int64)
    return (words | 1).to(device)
