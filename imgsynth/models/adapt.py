"""Training few parameters of a private network that began with public weights: some of them, or low-rank adapters.

The noise that makes training private has a norm that grows with √d for d trained parameters. Weights that already know
how such images look need little change, and a change of low rank has few parameters: Hu et al. 2021, "LoRA: Low-Rank
Adaptation of Large Language Models" (arXiv:2106.09685), here for convolutions too; under differential privacy as in
Yu et al. 2022 (arXiv:2110.06500).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from imgsynth.models.base import GenerativeModel, the_private
from imgsynth.models.lipschitz import HalvingConvolution
from imgsynth.types import Fault, InputError

_ONE_BY_ONE = {
    nn.Linear: nn.Linear,
    nn.Conv1d: nn.Conv1d, nn.Conv2d: nn.Conv2d, nn.Conv3d: nn.Conv3d,
    nn.ConvTranspose1d: nn.Conv1d, nn.ConvTranspose2d: nn.Conv2d, nn.ConvTranspose3d: nn.Conv3d,
}  # fmt: skip


class LowRank(nn.Module):
    """``layer(x) + B(A(x))``: the frozen layer, and beside it a change of rank r that is 0 at first.

    A is a layer like it with r outputs, B takes those to its outputs, voxel by voxel; neither has a bias. r is at most
    the number of outputs. B begins at 0, and A as any new layer does.
    """

    def __init__(self, layer: nn.Module, rank: int):
        super().__init__()
        kind, weight = type(layer), layer.get_parameter("weight")
        made: dict[str, Any] = {"bias": False, "device": weight.device, "dtype": weight.dtype}
        self.layer = layer.requires_grad_(False)
        if isinstance(layer, nn.Linear):
            rank = min(rank, layer.out_features)
            self.A: nn.Module = nn.Linear(layer.in_features, rank, **made)
            self.B: nn.Module = nn.Linear(rank, layer.out_features, **made)
        else:
            outputs = int(layer.out_channels)  # type: ignore[arg-type]
            rank = min(rank, outputs)
            names = ["in_channels", "kernel_size", "stride", "padding", "dilation", "padding_mode"]
            names += ["output_padding"] if "Transpose" in kind.__name__ else []
            self.A = kind(out_channels=rank, **{name: getattr(layer, name) for name in names}, **made)
            self.B = _ONE_BY_ONE[kind](rank, outputs, 1, **made)
        nn.init.zeros_(self.B.get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.B(self.A(x))


def restrict(model: GenerativeModel, train: str | Sequence[str] = "all", rank: int = 0) -> None:
    """Freeze the parameters of the private network that no expression in ``train`` is found in ("all": none).

    With ``rank`` above 0 the layers whose weights ``train`` names learn by ``LowRank`` adapters, and nothing else in
    the network learns. What sees no patient learns as ever. Raises InputError, naming the parameters, for an expression
    that is found in none; where no layer can have an adapter; and for a summary, which has nothing that could stay.
    """
    if train == "all" and not rank:
        return
    private = the_private(model.objectives())
    if private.rounds is not None:
        raise InputError(
            Fault("init.train, init.rank", f"{train}, {rank}, for a model whose private part is one noised mean",
                  "a private network, of which parts can stay as they are", "init.train=all init.rank=0")
        )  # fmt: skip
    trained = {name: p for name, p in private.module.named_parameters() if p.requires_grad}
    chosen = _chosen(list(trained), train)
    if rank:
        _adapt(model, private.module, chosen, rank)
    for name, parameter in trained.items():
        if rank or name not in chosen:
            parameter.requires_grad_(False)


def _chosen(names: list[str], train: str | Sequence[str]) -> set[str]:
    if train == "all":
        return set(names)
    found = {expression: {name for name in names if re.search(expression, name)} for expression in train}
    faults = [
        Fault("init.train", repr(expression), f"a part of one of: {', '.join(names)}", "init.train=[head]")
        for expression, its in found.items()
        if not its
    ]
    if faults:
        raise InputError(*faults)
    return set[str]().union(*found.values())


def _adapt(model: nn.Module, private: nn.Module, chosen: set[str], rank: int) -> None:
    bounded = [name for name, layer in private.named_modules() if isinstance(layer, HalvingConvolution)]
    if bounded:
        raise InputError(
            Fault("init.rank", f"{rank}, for {', '.join(bounded)}", "layers without a bound on their slope",
                  "init.rank=0, with init.train for few parameters")
        )  # fmt: skip
    adapters = {
        layer: LowRank(layer, rank)
        for name, layer in list(private.named_modules())
        if type(layer) in _ONE_BY_ONE and f"{name}.weight" in chosen
    }
    if not adapters:
        raise InputError(
            Fault("init.rank", f"{rank}, with init.train naming {', '.join(sorted(chosen))}",
                  "the weight of a linear layer or a convolution among them", "init.train=all, or init.rank=0")
        )  # fmt: skip
    parents = {
        parent for network in (private, model) for parent in network.modules() if not isinstance(parent, LowRank)
    }
    for parent in parents - {part for one in adapters.values() for part in one.modules()}:
        for name, child in list(parent.named_children()):
            if child in adapters:
                setattr(parent, name, adapters[child])
