"""The geometry of a convolution, and the ways to a patient's gradient of its weight.

Symbols
    a [B, Cin, *sp], g [B, Cout, *out]   input, and gradient at the output, of B images; of a transposed convolution too
    U [B, G, R, T], V [B, G, S, T]       per group: unfolded input and output gradient at T output positions, so that
                                         image b's gradient of the weight is Σ_t V[b, g, s, t] U[b, g, r, t]
In a transposed convolution input and output change places: U is unfolded from g, and V is a.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Geometry:
    """What ``torch.nn.functional.conv*d`` and ``conv_transpose*d`` are told, without tensors."""

    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int
    transposed: bool = False
    output_padding: Sizes = ()

    @property
    def dims(self) -> int:
        return len(self.kernel)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        added = self.output_padding or (0,) * self.dims
        return torch.convolution(
            x, weight, bias, self.stride, self.padding, self.dilation, self.transposed, added, self.groups
        )

    def input_gradient(self, g: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        return self._backward(g, a, weight, self.groups, (True, False, False))[0]

    def weight_gradient(self, g: Tensor, a: Tensor, weight: Tensor, groups: int | None = None) -> Tensor:
        """Σ over the images of a batch; ``weight`` gives its shape only."""
        return self._backward(g, a, weight, groups or self.groups, (False, True, False))[1]

    def _backward(self, g: Tensor, a: Tensor, weight: Tensor, groups: int, mask: tuple[bool, bool, bool]) -> Tensor:
        added = self.output_padding or (0,) * self.dims
        gradients: Tensor = torch.ops.aten.convolution_backward(
            g, a, weight, None, self.stride, self.padding, self.dilation, self.transposed, added, groups, mask
        )
        return gradients

    def positions(self, a: Tensor, g: Tensor) -> int:
        """T."""
        return math.prod((a if self.transposed else g).shape[-self.dims :])

    def padded(self, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """What is unfolded, its padding explicit, of the very size that T positions see; and the tensor of V."""
        unfolded, other = (g, a) if self.transposed else (a, g)
        out, pads = other.shape[-self.dims :], []
        for axis in reversed(range(self.dims)):
            needed = (out[axis] - 1) * self.stride[axis] + self.dilation[axis] * (self.kernel[axis] - 1) + 1
            size = unfolded.shape[-self.dims + axis]
            pads += [self.padding[axis], needed - size - self.padding[axis]]  # a negative pad crops
        return (F.pad(unfolded, pads) if any(pads) else unfolded), other

    def windows(self, x: Tensor, out: Sizes) -> Tensor:
        """A view [B, C, *kernel, *out] of a padded ``x`` [B, C, *sp]."""
        steps = x.stride()[2:]
        inner = tuple(d * s for d, s in zip(self.dilation, steps, strict=True))
        outer = tuple(d * s for d, s in zip(self.stride, steps, strict=True))
        return x.as_strided((*x.shape[:2], *self.kernel, *out), (*x.stride()[:2], *inner, *outer))

    def factors(self, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """U and V."""
        unfolded, other = self.padded(a, g)
        out = other.shape[2:]
        images, groups, positions = len(other), self.groups, math.prod(out)
        u_BGRT = self.windows(unfolded, out).reshape(images, groups, -1, positions)
        return u_BGRT, other.reshape(images, groups, -1, positions)

    def phases(self) -> list[tuple[Sizes, list[Sizes]]]:
        """Stride phases of the kernel's taps: (phase, [how many strides each of its taps lies beyond it])."""
        by_phase: dict[Sizes, list[Sizes]] = {}
        for tap in product(*(range(k) for k in self.kernel)):
            offset = tuple(d * k for d, k in zip(self.dilation, tap, strict=True))
            phase = tuple(o % s for o, s in zip(offset, self.stride, strict=True))
            by_phase.setdefault(phase, []).append(tuple(o // s for o, s in zip(offset, self.stride, strict=True)))
        return list(by_phase.items())


def gram_of_windows(geometry: Geometry, x_PkC: Tensor, out: Sizes) -> Tensor:
    """UᵀU [P, G, k·T, k·T] from the Gram matrices of pixels, one for each stride phase.

    ⟨U_t, U_t'⟩ = Σ_taps ⟨x[s·t + d·tap], x[s·t' + d·tap]⟩, and all taps of one phase read one and the same Gram matrix
    of the pixels s·m + phase, shifted: up to ∏kernel/∏stride times fewer multiplications than from U itself.
    ``x_PkC`` [P, k, C, *sp] is padded.
    """
    patients, images, channels = x_PkC.shape[:3]
    groups, dims, positions = geometry.groups, geometry.dims, math.prod(out)
    x = x_PkC.view(patients, images, groups, channels // groups, *x_PkC.shape[3:])
    total = x.new_zeros(patients, groups, images, *out, images, *out)
    for phase, taps in geometry.phases():
        reach = [max(tap[axis] for tap in taps) for axis in range(dims)]
        steps = zip(phase, geometry.stride, out, reach, strict=True)
        own: tuple[slice, ...] = tuple(slice(p, p + s * (n + r - 1) + 1, s) for p, s, n, r in steps)
        pixels = x[(slice(None),) * 4 + own]
        grid = pixels.shape[4:]
        columns = pixels.permute(0, 2, 3, 1, *range(4, 4 + dims)).reshape(patients * groups, channels // groups, -1)
        gram = torch.bmm(columns.mT, columns).view(patients, groups, images, *grid, images, *grid)
        for tap in taps:
            part = tuple(slice(t, t + n) for t, n in zip(tap, out, strict=True))
            total += gram[(slice(None), slice(None), slice(None), *part, slice(None), *part)]
    return total.view(patients, groups, images * positions, images * positions)
