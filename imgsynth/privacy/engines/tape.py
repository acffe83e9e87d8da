"""Watching a forward pass: every use of a trainable parameter becomes a layer whose backward pass we write ourselves.

While a ``Tape`` is entered, each torch function is seen before it runs (``TorchFunctionMode``). One that is given a
trainable parameter must be a layer that we know, with the images of the batch along its first axis; everything else
raises ``Unsupported``. The parameter itself never enters the graph: ``Tape.stray_parameters`` finds one that did, past
the watch (a compiled module, a view made earlier).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from imgsynth.privacy.engines.base import Parameters
from imgsynth.privacy.engines.contributions import Contribution
from imgsynth.privacy.engines.layers import LAYERS, Layer, Unsupported
from imgsynth.privacy.engines.patients import Images

# Reading these off a parameter is no use of its values, or, detached from it, one that has no gradient.
_HARMLESS = {
    getattr(getattr(Tensor, name), "__get__", getattr(Tensor, name))
    for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_cuda", "layout", "is_leaf", "grad")
} | {Tensor.size, Tensor.dim, Tensor.numel, Tensor.stride, Tensor.is_floating_point, Tensor.__len__, Tensor.__hash__}
_HARMLESS.add(Tensor.detach)

Arrived = Callable[[str, list[Contribution]], None]


class Tape(TorchFunctionMode):
    """Records the layers of one forward pass over ``images``.

    ``arrived(name, contributions)`` is called in the backward pass as soon as all uses of a parameter are there.
    """

    def __init__(self, parameters: Parameters, images: Images, arrived: Arrived):
        super().__init__()
        self.names = {id(p): name for name, p in parameters.items()}
        self.images, self.arrived = images, arrived
        self.anchor: Tensor = next(iter(parameters.values())).new_zeros((), requires_grad=True)
        self.uses: dict[str, int] = {}
        self.waiting: dict[str, list[Contribution]] = {}
        self.forward_is_over = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self._given_parameter((args, kwargs)) or func in _HARMLESS:
            return func(*args, **kwargs)
        if func not in LAYERS:
            raise Unsupported(f"{getattr(func, '__name__', func)} on a trainable parameter")
        if not torch.is_grad_enabled():
            raise Unsupported("a trainable layer under no_grad")
        x, layer = LAYERS[func](self.name_of, *args, **kwargs)
        if x.shape[:1] != (len(self.images),):
            raise Unsupported(f"a layer on an input of shape {tuple(x.shape)} for {len(self.images)} images")
        for name in layer.names():
            self.uses[name] = self.uses.get(name, 0) + 1
        return _Watched.apply(self.anchor, x, layer, self)

    def name_of(self, parameter: Any) -> str | None:
        """The name of a trainable parameter, or None."""
        return self.names.get(id(parameter))

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a scalar; ``arrived`` is called for every parameter that has a gradient."""
        self.forward_is_over = True
        if loss.requires_grad:
            torch.autograd.grad(loss, self.anchor, allow_unused=True)
        for name, parts in self.waiting.items():  # some uses have no part in the loss
            self.arrived(name, parts)
        self.waiting = {}

    def record(self, contributions: Iterable[tuple[str, Contribution]]) -> None:
        for name, contribution in contributions:
            parts = self.waiting.setdefault(name, [])
            parts.append(contribution)
            if len(parts) == self.uses[name]:
                self.arrived(name, self.waiting.pop(name))

    def stray_parameters(self, loss: Tensor) -> list[str]:
        """Trainable parameters that the loss depends on by a way that was not watched."""
        found, seen, ahead = [], set(), [loss.grad_fn]
        while ahead:
            node = ahead.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            name = self.name_of(getattr(node, "variable", None))
            if name is not None:
                found.append(name)
            ahead += [following for following, _ in node.next_functions]
        return found

    def _given_parameter(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            return id(value) in self.names
        if isinstance(value, (tuple, list)):
            return any(map(self._given_parameter, value))
        return isinstance(value, dict) and any(map(self._given_parameter, value.values()))


class _Watched(torch.autograd.Function):
    """One use of a layer. The anchor makes its output need a gradient, whatever its input."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, x: Tensor, layer: Layer, tape: Tape) -> Tensor:
        y, saved = layer.forward(x)
        # Not save_for_backward: it would hold the input until this node is done, which is later than we need it.
        ctx.saved, ctx.versions = saved, [t._version for t in saved]
        ctx.layer, ctx.tape = layer, tape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        tape, layer, saved = ctx.tape, ctx.layer, ctx.saved
        ctx.saved = None
        if not tape.forward_is_over:
            raise Unsupported("a gradient taken within the loss")
        if saved is None or [t._version for t in saved] != ctx.versions:
            raise Unsupported("a layer's input changed in place, or its gradient taken twice")
        # Detached: what is kept of a pass must not keep its graph, which leads back to the tape and to what is kept.
        saved, needed = [t.detach() for t in saved], ctx.needs_input_grad[1]
        first = needed and layer.outgrows(saved, g, tape.images)
        gradient = layer.input_gradient(saved, g) if first else None
        tape.record(layer.contributions(saved, g, tape.images))
        if needed and not first:
            saved = layer.for_input(saved)
            gradient = layer.input_gradient(saved, g)
        return None, gradient, None, None
