"""The geometry of a convolution, and the ways to a patient's gradient of its weight.

Symbols
    a [B, Cin, *sp], g [B, Cout, *out]   input, and gradient at the output, of B images; of a transposed convolution too
    U [B, G, R, T], V [B, G, S, T]       per group: unfolded input and output gradient at T output positions, so that
                                         image b's gradient of the weight is Σ_t V[b, g, s, t] U[b, g, r, t]
In a transposed convolution input and output change places: U is unfolded from g, and V is a.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
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

    def pixel_grid(self, out: Sizes) -> Sizes:
        """How many pixels of one stride phase ``out`` positions see along each axis."""
        reach = (d * (k - 1) // s for d, k, s in zip(self.dilation, self.kernel, self.stride, strict=True))
        return tuple(n + r for n, r in zip(out, reach, strict=True))

    def norms2_by_phase(self, a_PkC: Tensor, g_PkC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Σ_tt' (UᵀU)(VᵀV) [P] from Gram matrices of pixels; |U_t|² and |V_t|² [P, G·T].

        ⟨U_t, U_t'⟩ = Σ_taps ⟨x[s·t + d·tap], x[s·t' + d·tap]⟩. All taps of one stride phase read one and the same Gram
        matrix of the pixels s·m + phase, each from another place on. Phases whose taps have the same offsets are
        further channels of one (all of them, for kernel 4 and stride 2): up to ∏kernel/∏stride times fewer
        multiplications than from U. Positions are counted on the grid of the pixels, so that a place is one number;
        those that this adds at the rows' ends have V = 0.
        """
        unfolded, other = (g_PkC, a_PkC) if self.transposed else (a_PkC, g_PkC)
        patients, images, groups, out = *other.shape[:2], self.groups, other.shape[3:]
        grid = self.pixel_grid(out)
        pitch, pixels = [math.prod(grid[axis + 1 :]) for axis in range(self.dims)], math.prod(grid)
        length = 1 + sum((n - 1) * p for n, p in zip(out, pitch, strict=True))
        v = other.reshape(patients, images, groups, -1, math.prod(out)).permute(0, 2, 3, 1, 4)
        v = v.reshape(patients * groups, v.shape[2], -1)
        to_grid = [n for side, n_out in zip(grid[::-1], out[::-1], strict=True) for n in (0, side - n_out)]
        vv = F.pad(torch.bmm(v.mT, v).view(-1, *out, images, *out), [*to_grid, 0, 0, *to_grid])
        vv = vv.view(-1, images, pixels, images, pixels)[:, :, :length, :, :length]
        uu = _sum_of(self._pixel_grams(unfolded, grid, pitch, length))
        u2, v2 = (t.diagonal(dim1=2, dim2=4).diagonal(dim1=1, dim2=2).mT for t in (uu, vv))
        u2 = u2 * F.pad(u2.new_ones(out), to_grid).view(-1)[:length]  # pixels beside which V is 0 are no positions
        u2, v2 = (t.reshape(patients, -1) for t in (u2, v2))
        return uu.mul_(vv).view(patients, -1).sum(1), u2, v2

    def _pixel_grams(self, x_PkC: Tensor, grid: Sizes, pitch: list[int], length: int) -> Iterator[Tensor]:
        """The parts of UᵀU [P·G, k, length, k, length], one for each offset: views of pixels' Gram matrices."""
        images, pixels, x = x_PkC.shape[1], math.prod(grid), self._by_phase(x_PkC, grid)
        for offsets, phases in _phases(self.kernel, self.stride, self.dilation).items():
            channels = (x if len(phases) == x.shape[1] else x[:, phases]).flatten(1, 2)
            gram = torch.bmm(channels.mT, channels).view(-1, images, pixels, images, pixels)
            for offset in offsets:
                start = sum(o * p for o, p in zip(offset, pitch, strict=True))
                own = slice(start, start + length)
                yield gram[:, :, own, :, own]

    def _by_phase(self, x_PkC: Tensor, grid: Sizes) -> Tensor:
        """The pixels of each stride phase, 0 in the padding: [P·G, phases, C/G, k·pixels], phases as ``product`` has
        them."""
        patients, images, channels, *size = x_PkC.shape
        pads: list[int] = []
        for side, stride, before, there in zip(grid, self.stride, self.padding, size, strict=True):
            pads = [before, side * stride - there - before, *pads]  # a negative pad crops
        x = F.pad(x_PkC.flatten(0, 1), pads) if any(pads) else x_PkC
        sides = [n for pair in zip(grid, self.stride, strict=True) for n in pair]
        x = x.reshape(patients, images, self.groups, -1, *sides)
        pixel, phase = range(4, x.ndim, 2), range(5, x.ndim, 2)
        return x.permute(0, 2, *phase, 3, 1, *pixel).reshape(
            patients * self.groups, math.prod(self.stride), channels // self.groups, -1
        )


def _sum_of(parts: Iterator[Tensor]) -> Tensor:
    """A new tensor."""
    total = next(parts).clone()
    for part in parts:
        total += part
    return total


@lru_cache
def _phases(kernel: Sizes, stride: Sizes, dilation: Sizes) -> dict[tuple[Sizes, ...], list[int]]:
    """Stride phases, numbered as ``product`` has them, by how many strides their taps lie beyond the phase."""
    of_phase: dict[Sizes, list[Sizes]] = {}
    for tap in product(*(range(k) for k in kernel)):
        offset = tuple(d * k for d, k in zip(dilation, tap, strict=True))
        phase = tuple(o % s for o, s in zip(offset, stride, strict=True))
        of_phase.setdefault(phase, []).append(tuple(o // s for o, s in zip(offset, stride, strict=True)))
    together: dict[tuple[Sizes, ...], list[int]] = {}
    for number, phase in enumerate(product(*(range(s) for s in stride))):
        if phase in of_phase:
            together.setdefault(tuple(of_phase[phase]), []).append(number)
    return together
