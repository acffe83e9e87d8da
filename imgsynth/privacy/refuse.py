"""Layers that break the privacy proof, refused by name with the reason and the fix, all at once and before any work."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from imgsynth.types import Fault, InputError

_PER_IMAGE = "layers that treat every image by itself and keep nothing of it"


def check_networks(private: nn.Module, *, beside: nn.Module | None = None) -> None:
    """InputError naming every layer through which one patient would reach others' gradients, or leave unclipped.

    ``beside`` is the whole model where its generated images enter the patients' units (``privacy.fakes`` "joint"): as
    many are made as patients were drawn, so that what couples them, or keeps something of them, knows that number.
    """
    networks = [("private network", private, _reason_and_fix)]
    if beside is not None:
        networks.append(("model", beside, _reason_and_fix_beside))
    faults, seen = [], set[nn.Module]()
    for where, network, judge in networks:
        for name, layer in network.named_modules():
            found = None if layer in seen else judge(layer)
            if found is not None:
                got = f"{type(layer).__name__}, which {found[0]}"
                faults.append(Fault(f"{where}, layer {name or '(whole)'}", got, _PER_IMAGE, found[1]))
        seen.update(network.modules())
    if faults:
        raise InputError(*faults)


def _reason_and_fix_beside(layer: nn.Module) -> tuple[str, str] | None:
    """Of a layer outside the private network that may have a part in the patients' fakes."""
    if isinstance(layer, _BatchNorm):
        return (
            "mixes fakes that different patients are clipped with, so that one patient moves all others' gradients",
            "GroupNorm(groups, channels), or privacy.fakes=plain",
        )
    if isinstance(layer, _InstanceNorm) and layer.track_running_stats:
        return (
            "keeps running statistics of as many fakes as patients were drawn",
            "track_running_stats=False, or privacy.fakes=plain",
        )
    return None


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
