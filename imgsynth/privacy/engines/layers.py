"""The layers that the ghost engine knows: forward, gradient of the input, and contributions to patients' gradients.

Each is made from the arguments of a torch function, so that ``nn`` modules, MONAI blocks and functional code are alike;
``padding_mode`` other than zeros, for one, arrives here as padding followed by an unpadded convolution.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imgsynth.privacy.engines.choice import KEEP
from imgsynth.privacy.engines.contributions import (
    Contribution,
    ConvWeight,
    EmbeddingWeight,
    LinearWeight,
    Stored,
    exact,
)
from imgsynth.privacy.engines.convolution import Geometry
from imgsynth.privacy.engines.patients import Images

NameOf = Callable[[Any], str | None]
Saved = tuple[Tensor, ...]


class Unsupported(Exception):
    """This objective cannot be taken by the ghost engine; the message says what stands in the way."""


def lowered(t: Tensor) -> Tensor:
    """In the precision of autocast where that is on: its list of functions has not all that we call."""
    kind = t.device.type
    return t.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) and t.dtype == torch.float32 else t


def _over_pixels(t_BC: Tensor) -> Tensor:
    """[B, C, *] summed to [B, C], in any memory format."""
    axes = tuple(range(2, t_BC.ndim))
    return t_BC.sum(axes) if axes else t_BC


class Layer(ABC):
    """One use of a layer with trainable parameters."""

    def __init__(self, weight: Tensor | None, bias: Tensor | None, name_of: NameOf):
        self.weight = None if weight is None else weight.detach()
        self.bias = None if bias is None else bias.detach()
        self.weight_name, self.bias_name = name_of(weight), name_of(bias)
        for tensor, name in ((weight, self.weight_name), (bias, self.bias_name)):
            if tensor is not None and tensor.requires_grad and name is None:
                raise Unsupported("a layer whose weight or bias is computed, not a parameter")

    @property
    def given_weight(self) -> Tensor:
        """The weight of a layer that always has one."""
        assert self.weight is not None
        return self.weight

    def names(self) -> list[str]:
        return [name for name in (self.weight_name, self.bias_name) if name is not None]

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        """The output, and what the backward pass needs."""

    @abstractmethod
    def weight_contribution(self, saved: Saved, g: Tensor, images: Images) -> Contribution:
        """What this use adds to patients' gradients of the weight."""

    def bias_gradient(self, saved: Saved, g: Tensor) -> Tensor:
        """Each image's own gradient of the bias, [B, *shape]."""
        raise NotImplementedError(f"{type(self).__name__} has no bias")

    def outgrows(self, saved: Saved, g: Tensor, images: Images) -> bool:
        """Whether what is kept of this use takes more memory than the input, so that it had better be made after the
        input's gradient."""
        return False

    def for_input(self, saved: Saved) -> Saved:
        """What ``input_gradient`` still needs of ``saved``."""
        return saved

    @abstractmethod
    def input_gradient(self, saved: Saved, g: Tensor) -> Tensor:
        """The gradient of the input."""

    def contributions(self, saved: Saved, g: Tensor, images: Images) -> Iterator[tuple[str, Contribution]]:
        """Of each trainable parameter, one after the other."""
        if self.weight_name is not None:
            yield self.weight_name, self.weight_contribution(saved, g, images)
        if self.bias_name is not None:
            yield self.bias_name, Stored(images, images.sum_by_patient(self.bias_gradient(saved, g)))


class Convolution(Layer):
    def __init__(self, geometry: Geometry, weight: Tensor, bias: Tensor | None, name_of: NameOf):
        super().__init__(weight, bias, name_of)
        self.geometry = geometry

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        x, weight, bias = lowered(x), lowered(self.given_weight), None if self.bias is None else lowered(self.bias)
        return self.geometry.apply(x, weight, bias), (x,)

    def weight_contribution(self, saved: Saved, g: Tensor, images: Images) -> Contribution:
        return ConvWeight(self.geometry, saved[0], g, self.given_weight.shape, images)

    def bias_gradient(self, saved: Saved, g: Tensor) -> Tensor:
        return _over_pixels(exact(g))

    def outgrows(self, saved: Saved, g: Tensor, images: Images) -> bool:
        inputs, weights = saved[0].numel(), images.patients * self.given_weight.numel()
        return self.weight_name is not None and inputs < weights <= KEEP * (inputs + g.numel())

    def for_input(self, saved: Saved) -> Saved:
        return (torch.empty_like(saved[0]),)  # its shape and layout only; memory that is never touched

    def input_gradient(self, saved: Saved, g: Tensor) -> Tensor:
        return self.geometry.input_gradient(g, saved[0], self.given_weight.to(g.dtype))


class Linear(Layer):
    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        x, weight, bias = lowered(x), lowered(self.given_weight), None if self.bias is None else lowered(self.bias)
        return F.linear(x, weight, bias), (x,)

    def weight_contribution(self, saved: Saved, g: Tensor, images: Images) -> Contribution:
        return LinearWeight(saved[0], g, images)

    def bias_gradient(self, saved: Saved, g: Tensor) -> Tensor:
        return exact(g).reshape(len(g), -1, g.shape[-1]).sum(1)

    def input_gradient(self, saved: Saved, g: Tensor) -> Tensor:
        return g @ self.given_weight.to(g.dtype)


_GROUPS = 65_535  # of one call of group norm: on a GPU as many blocks along an axis are what there can be


class GroupNorm(Layer):
    """Group norm, and instance norm as that with one channel a group."""

    def __init__(self, groups: int, eps: float, weight: Tensor | None, bias: Tensor | None, name_of: NameOf):
        super().__init__(weight, bias, name_of)
        self.groups, self.eps = groups, eps
        self._made: tuple[Tensor, ...] | None = None  # between the first and the last of the questions below

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        x = exact(x).contiguous()
        y, mean, rstd = torch.native_group_norm(x, self.weight, self.bias, *self._sizes(x), self.eps)
        return y, (x, mean, rstd)

    def weight_contribution(self, saved: Saved, g: Tensor, images: Images) -> Contribution:
        return Stored(images, images.sum_by_patient(self._gradients(saved, g)[1]))

    def bias_gradient(self, saved: Saved, g: Tensor) -> Tensor:
        return self._gradients(saved, g)[2]

    def input_gradient(self, saved: Saved, g: Tensor) -> Tensor:
        gradient = self._gradients(saved, g)[0]
        self._made = None
        return gradient

    def _gradients(self, saved: Saved, g: Tensor) -> tuple[Tensor, ...]:
        """Of the input, and of weight and bias [B, C]: made at once, by torch's kernel for one image that has the
        channels of all."""
        if self._made is None:
            step = max(1, _GROUPS // self.groups)
            parts = [self._of_one(*some) for some in zip(*(t.split(step) for t in (g, *saved)), strict=True)]
            self._made = parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))
        return self._made

    def _of_one(self, g: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, ...]:
        images, channels = x.shape[:2]
        weight_C = x.new_ones(channels) if self.weight is None else self.weight
        g_BCT, x_BCT = (t.contiguous().view(1, images * channels, -1) for t in (g, x))
        gradient, weight_B, bias_B = torch.ops.aten.native_group_norm_backward(
            g_BCT, x_BCT, mean.reshape(1, -1), rstd.reshape(1, -1), weight_C.repeat(images),
            1, images * channels, x_BCT.shape[2], images * self.groups, [True, True, True],
        )  # fmt: skip
        return gradient.view(x.shape), weight_B.view(images, channels), bias_B.view(images, channels)

    def _sizes(self, x: Tensor) -> tuple[int, int, int, int]:
        return len(x), x.shape[1], math.prod(x.shape[2:]), self.groups


class LayerNorm(Layer):
    def __init__(self, shape: Sequence[int], eps: float, weight: Tensor | None, bias: Tensor | None, name_of: NameOf):
        super().__init__(weight, bias, name_of)
        self.shape, self.eps = list(shape), eps

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        x = exact(x)
        y, mean, rstd = torch.native_layer_norm(x, self.shape, self.weight, self.bias, self.eps)
        return y, (x, mean, rstd)

    def weight_contribution(self, saved: Saved, g: Tensor, images: Images) -> Contribution:
        x, mean, rstd = saved
        return Stored(images, images.sum_by_patient(self.bias_gradient(saved, g * ((x - mean) * rstd))))

    def bias_gradient(self, saved: Saved, g: Tensor) -> Tensor:
        return g.reshape(len(g), -1, *self.shape).sum(1)

    def input_gradient(self, saved: Saved, g: Tensor) -> Tensor:
        x, mean, rstd = saved
        gradients: tuple[Tensor, ...] = torch.ops.aten.native_layer_norm_backward(
            g, x, self.shape, mean, rstd, self.weight, self.bias, [True, False, False]
        )
        return gradients[0]


class Embedding(Layer):
    def __init__(self, weight: Tensor, padding_idx: int | None, name_of: NameOf):
        super().__init__(weight, None, name_of)
        self.padding_idx = padding_idx

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        return F.embedding(x, self.given_weight), (x,)

    def weight_contribution(self, saved: Saved, g: Tensor, images: Images) -> Contribution:
        return EmbeddingWeight(saved[0], g, self.given_weight.shape, self.padding_idx, images)

    def input_gradient(self, saved: Saved, g: Tensor) -> Tensor:
        raise NotImplementedError("indices have no gradient")


class PReLU(Layer):
    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        return torch.prelu(x, self.given_weight.to(x.dtype)), (x,)

    def weight_contribution(self, saved: Saved, g: Tensor, images: Images) -> Contribution:
        below = exact(g) * exact(saved[0]).clamp(max=0)
        by_channel = below.reshape(*below.shape[:2], -1).sum(2) if below.ndim > 1 else below[:, None]
        one_slope = self.given_weight.numel() == 1
        return Stored(images, images.sum_by_patient(by_channel.sum(1, keepdim=True) if one_slope else by_channel))

    def input_gradient(self, saved: Saved, g: Tensor) -> Tensor:
        (x,) = saved
        slope = self.given_weight.to(g.dtype)
        if slope.numel() > 1:
            slope = slope.view(1, -1, *(1 for _ in x.shape[2:]))
        return torch.where(x > 0, g, g * slope)


Made = tuple[Tensor, Layer]


def _convolution(dims: int) -> Callable[..., Made]:
    def make(
        name_of: NameOf, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> Made:  # fmt: skip
        kernel, dilations = tuple(weight.shape[2:]), _each(dilation, dims)
        if input.ndim != dims + 2:
            raise Unsupported(f"a convolution on an input of {input.ndim} axes, without one for the images")
        if padding == "same":  # may be uneven
            total = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
            input = F.pad(input, [n for t in reversed(total) for n in (t // 2, t - t // 2)])
        pads = (0,) * dims if isinstance(padding, str) else _each(padding, dims)
        return input, Convolution(Geometry(kernel, _each(stride, dims), pads, dilations, groups), weight, bias, name_of)

    return make


def _transposed(dims: int) -> Callable[..., Made]:
    def make(
        name_of: NameOf, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
        output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
    ) -> Made:  # fmt: skip
        if input.ndim != dims + 2:
            raise Unsupported(f"a convolution on an input of {input.ndim} axes, without one for the images")
        geometry = Geometry(
            tuple(weight.shape[2:]), _each(stride, dims), _each(padding, dims), _each(dilation, dims), groups,
            transposed=True, output_padding=_each(output_padding, dims),
        )  # fmt: skip
        return input, Convolution(geometry, weight, bias, name_of)

    return make


def _each(value: Any, dims: int) -> tuple[int, ...]:
    """One number for each axis; torch takes a single one for all."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dims if len(values) == 1 else values


def _linear(name_of: NameOf, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Made:
    if input.ndim < 2:
        raise Unsupported("a linear layer on an input without an axis for the images")
    return input, Linear(weight, bias, name_of)


def _group_norm(
    name_of: NameOf, input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5, cudnn_enabled: bool = True,
) -> Made:  # fmt: skip
    return input, GroupNorm(num_groups, eps, weight, bias, name_of)


def _layer_norm(
    name_of: NameOf, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5, cudnn_enable: bool = True,
) -> Made:  # fmt: skip
    if input.ndim <= len(normalized_shape):
        raise Unsupported("layer norm over the axis of the images")
    return input, LayerNorm(normalized_shape, eps, weight, bias, name_of)


def _instance_norm(
    name_of: NameOf, input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1,
    eps: float = 1e-5,
) -> Made:  # fmt: skip
    if running_mean is not None or not use_input_stats:
        raise Unsupported("instance norm with running statistics")
    return input, GroupNorm(input.shape[1], eps, weight, bias, name_of)


def _embedding(
    name_of: NameOf, input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Made:  # fmt: skip
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise Unsupported("an embedding with max_norm, scale_grad_by_freq or sparse")
    return input, Embedding(weight, padding_idx, name_of)


def _prelu(name_of: NameOf, input: Tensor, weight: Tensor) -> Made:
    return input, PReLU(weight, None, name_of)


# torch function -> (name_of, its arguments) -> (input, layer)
LAYERS: dict[Callable[..., Any], Callable[..., Made]] = {
    F.conv1d: _convolution(1), F.conv2d: _convolution(2), F.conv3d: _convolution(3),
    F.conv_transpose1d: _transposed(1), F.conv_transpose2d: _transposed(2), F.conv_transpose3d: _transposed(3),
    F.linear: _linear, F.group_norm: _group_norm, F.layer_norm: _layer_norm, F.instance_norm: _instance_norm,
    F.embedding: _embedding, F.prelu: _prelu,
}  # fmt: skip
