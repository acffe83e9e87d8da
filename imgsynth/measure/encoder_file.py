"""The user's own encoder (RadImageNet, MedicalNet, DINO, …), loaded without running a line of code from the file.

An ONNX file is a graph of known operators, so that it holds any network. A file of PyTorch weights is opened by
``weights_only`` and must fit, name by name, one of MONAI's residual networks, as MedicalNet's do.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from monai.networks import nets
from torch import Tensor, nn

from imgsynth.files import sha256
from imgsynth.measure.encoders import Encoder, midplanes
from imgsynth.types import Fault, InputError

NETWORKS = ("resnet10", "resnet18", "resnet34", "resnet50")
ONNX, WEIGHTS = (".onnx",), (".pt", ".pth")


class Graph(nn.Module):
    """An ONNX graph with one input [B, C, *] and, as its first output, features [B, D] or maps [B, D, *]."""

    def __init__(self, path: Path):
        super().__init__()
        self.session: Any = import_module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (given,) = self.session.get_inputs()
        self.given, self.rank, self.shape = given.name, len(given.shape), given.shape
        self.channels = given.shape[1] if isinstance(given.shape[1], int) else 1

    def forward(self, x_BC: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {self.given: x_BC.numpy()})[0])


class FromFile(Encoder):
    """Features of ``network``; a 2D network sees a volume's three middle planes. Its input is our [-1, 1], the same in
    every channel; where the graph states a size, images are resampled to it."""

    def __init__(
        self, dims: int, network: nn.Module, rank: int, channels: int, size: tuple[int, ...] | None, name: str
    ):
        super().__init__()
        self.dims, self.network, self.channels, self.size, self.name = dims, network, channels, size, name
        self.by_planes = rank == 4 and dims == 3
        self.planes = 3 if self.by_planes else 1

    def _features(self, x_BC: Tensor) -> Tensor:
        parts = midplanes(x_BC) if self.by_planes else [x_BC]
        return torch.cat([self._pooled(part) for part in parts], dim=1)

    def _pooled(self, x_BC: Tensor) -> Tensor:
        if self.size is not None:
            mode = "bilinear" if x_BC.ndim == 4 else "trilinear"
            x_BC = nn.functional.interpolate(x_BC, self.size, mode=mode, align_corners=False)
        out = self.network(x_BC.expand(-1, self.channels, *x_BC.shape[2:]).contiguous())
        return out.flatten(2).mean(2) if out.ndim > 2 else out


def from_file(dims: int, path: str | None, network: str | None) -> Encoder:
    """The encoder in ``path``. Raises InputError naming what does not fit."""
    where, file = "encoder.path", Path(path or "")
    if path is None or not file.is_file() or file.suffix not in ONNX + WEIGHTS:
        raise InputError(
            Fault(where, repr(path), f"a file: {', '.join(ONNX)} (any network) or {', '.join(WEIGHTS)} (weights)",
                  "encoder.path=FILE")
        )  # fmt: skip
    name = f"file-{file.name}-{sha256(file)[:12]}"
    if file.suffix in ONNX:
        return _graph(dims, file, name)
    return _weights(dims, file, network, name)


def _graph(dims: int, file: Path, name: str) -> Encoder:
    if find_spec("onnxruntime") is None:
        raise InputError(Fault("encoder.path", f"{file}, without the package onnxruntime", "the package that runs it",
                               "pip install onnxruntime"))  # fmt: skip
    try:
        graph = Graph(file)
    except Exception as error:  # onnxruntime's own types, one for each of the things that a file can be
        raise InputError(
            Fault("encoder.path", f"{file}: {' '.join(str(error).split())[:200]}",
                  "an ONNX graph with one input [batch, channels, *spatial]", "export the network again")
        ) from error  # fmt: skip
    if graph.rank not in {4, dims + 2}:
        raise InputError(
            Fault("encoder.path", f"{file}, for inputs of {graph.rank} axes", f"4 or {dims + 2} axes",
                  "a 2D network, or one for volumes")
        )  # fmt: skip
    spatial = graph.shape[2:]
    size = tuple(spatial) if all(isinstance(n, int) for n in spatial) else None
    return FromFile(dims, graph, graph.rank, graph.channels, size, name)


def _weights(dims: int, file: Path, network: str | None, name: str) -> Encoder:
    if network not in NETWORKS:
        raise InputError(
            Fault("encoder.network", repr(network), f"one of {', '.join(NETWORKS)}, which the weights are of",
                  "encoder.network=resnet10, or export the network to ONNX")
        )  # fmt: skip
    try:
        stored: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle that holds more than weights, or no file of torch's at all
        raise InputError(
            Fault("encoder.path", f"{file}: {' '.join(str(error).split())[:200]}", "a file of weights and nothing else",
                  "torch.save(network.state_dict(), FILE)")
        ) from error  # fmt: skip
    state = {str(key).removeprefix("module."): value for key, value in stored.get("state_dict", stored).items()}
    first = state.get("conv1.weight")
    channels = first.shape[1] if isinstance(first, Tensor) else 1
    rank = first.ndim if isinstance(first, Tensor) else dims + 2
    bias = any(key.endswith("downsample.0.bias") for key in state)
    built = getattr(nets, network)(
        pretrained=False, spatial_dims=rank - 2, n_input_channels=channels, feed_forward=False,
        shortcut_type="B" if any("downsample.0" in key for key in state) else "A", bias_downsample=bias,
    )  # fmt: skip
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    wanted = built.state_dict()
    both = wanted.keys() & state.keys()
    unlike = sorted((wanted.keys() ^ state.keys()) | {k for k in both if wanted[k].shape != state[k].shape})
    if unlike:
        raise InputError(
            Fault("encoder.network", f"weights that are not of {network}: {len(unlike)} are missing, too many or of "
                  f"another shape ({', '.join(unlike[:3])}, …)", "MONAI's names and shapes for each weight",
                  "encoder.network of the file, or export the network to ONNX")
        )  # fmt: skip
    built.load_state_dict(state)
    return FromFile(dims, built.eval(), rank, channels, None, f"{name}-{network}")
