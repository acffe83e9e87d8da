"""Layers that break the privacy proof, refused by name with the reason and the fix, all at once and before any work."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from imgsynth.types import Fault, InputError

_PER_IMAGE = "layers that treat every image by itself and keep nothing of it"


def check_private_network(module: nn.Module) -> None:
    """InputError naming every layer through which one patient would reach others' gradients, or leave unclipped."""
    reasons = [(name or "(whole)", layer, _reason_and_fix(layer)) for name, layer in module.named_modules()]
    faults = [
        Fault(f"private network, layer {name}", f"{type(layer).__name__}, which {found[0]}", _PER_IMAGE, found[1])
        for name, layer, found in reasons
        if found is not None
    ]
    if faults:
        raise InputError(*faults)


def _reason_and_fix(layer: nn.Module) -> tuple[str, str] | None:
    if isinstance(layer, _BatchNorm):
        return (
            "mixes the images of a batch, so that one patient moves all others' gradients and clipping bounds nothing",
            "GroupNorm(groups, channels); a frozen pre-trained one can be folded by torch.nn.utils.fuse_conv_bn_eval",
        )
    if isinstance(layer, _InstanceNorm) and layer.track_running_stats:
        return ("keeps running statistics of the images, unclipped and without noise", "track_running_stats=False")
    if isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse):
        return (
            "lets weights or gradients depend on which labels are in the batch (max_norm, scale_grad_by_freq, sparse)",
            "a plain Embedding(classes, width)",
        )
    spectral = isinstance(layer, _SpectralNorm) or any(
        isinstance(hook, SpectralNorm) for hook in layer._forward_pre_hooks.values()
    )
    if spectral:
        return (
            "rewrites buffers in every forward pass (power iteration of the spectral norm)",
            "torch.nn.utils.parametrizations.weight_norm, or no normalisation of weights",
        )
    return None
