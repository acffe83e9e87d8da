"""Layers through which no two images come out further apart than they went in: what a Wasserstein critic asks for.

A gradient penalty holds a critic's slope near 1 where it looks, at the price of a second derivative and of engines that
can take one. These layers cannot be steeper than 1, whatever their weights (Anil, Lucas and Grosse 2019, "Sorting out
Lipschitz function approximation", arXiv:1811.05381; under differential privacy, Béthune et al. 2023, arXiv:2305.16202).

Each divides its input by a bound on its own norm, computed from the weights in every forward pass: nothing is kept, and
there is no power iteration. The bound enters as a constant, without a gradient of its own, so that to every engine the
layer is the convolution that it contains.
"""

from __future__ import annotations

import torch
from monai.networks.layers import Conv
from torch import Tensor, nn

from imgsynth.models.blocks import SLOPE
from imgsynth.types import Fault, InputError


def spectral_norm(weight_OI: Tensor) -> Tensor:
    """The largest singular value of a matrix, exactly; by the smaller of its two Gram matrices."""
    w_OI = weight_OI.double()  # which autocast leaves as it is
    gram = w_OI @ w_OI.T if len(w_OI) <= w_OI.shape[1] else w_OI.T @ w_OI
    return torch.linalg.eigvalsh(gram)[-1].clamp(min=torch.finfo(torch.float32).tiny).sqrt()


class GroupSort(nn.Module):
    """Of every two channels, the larger and the smaller: [B, 2H, *] to itself. It keeps every norm, and is no less
    able than a ReLU, which would lose half of the gradient each time (Anil et al., section 4)."""

    def forward(self, x_BC: Tensor) -> Tensor:
        one, other = x_BC.chunk(2, dim=1)
        return torch.cat([torch.maximum(one, other), torch.minimum(one, other)], dim=1)


class HalvingConvolution(nn.Module):
    """A convolution of kernel 4 and stride 2, [B, inputs, *2s] to [B, outputs, *s], of slope 1 at most.

    Each voxel is in at most two patches along each axis, so that all patches together are at most 2^(dims/2) times as
    long as the image, and their products with the kernel, seen as a matrix, at most its spectral norm times that.
    """

    def __init__(self, dims: int, inputs: int, outputs: int):
        super().__init__()
        if outputs % 2:
            raise InputError(
                Fault("model.channels, model.widest", f"{outputs} channels", "even numbers: sorted in pairs",
                      "model.critic=plain")
            )  # fmt: skip
        self.overlap = 2 ** (dims / 2)
        self.conv = Conv["conv", dims](inputs, outputs, kernel_size=4, stride=2, padding=1)
        nn.init.kaiming_normal_(self.conv.weight, a=SLOPE)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x_BC: Tensor) -> Tensor:
        bound = self.overlap * spectral_norm(self.conv.weight.detach().flatten(1))
        return self.conv(x_BC / bound.to(x_BC.dtype))


def halve_lipschitz(dims: int, inputs: int, outputs: int) -> nn.Module:
    """``blocks.halve`` of slope 1 at most: [B, inputs, *2s] to [B, outputs, *s]."""
    return nn.Sequential(HalvingConvolution(dims, inputs, outputs), GroupSort())


class ProjectionHead(nn.Linear):
    """Features [B, H] to one logit and one for each class, [B, 1 + classes]; the first plus that of any one class has
    slope 1 at most."""

    def forward(self, h_BH: Tensor) -> Tensor:
        weight = self.weight.detach()
        longest = (weight[:1] + weight[1:]).norm(dim=1).max().clamp(min=torch.finfo(torch.float32).tiny)
        return super().forward(h_BH / longest)
