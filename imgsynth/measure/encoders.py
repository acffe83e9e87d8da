"""Encoders of images into feature vectors. Their names travel with every number that is computed from them.

``random_conv``: a convolutional network with fixed random weights, two or three dimensions. It knows no images at all,
so it is public by construction; it sees texture and coarse shape.
``efficientnet_lite``: EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946) with ImageNet weights that come inside a
package. Two dimensions directly; a volume by the three planes through its middle (2.5D), features concatenated.
``radiomics``: the texture and intensity features of the Image Biomarker Standardisation Initiative, by mirp.
``file``: the user's own network. ``classifier``: one trained on the cohort's training patients: a private-data output.
``inception``: the Inception-v3 of the literature. With the others no number is an "FID".
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from imgsynth import console
from imgsynth.features.networks import efficientnet_lite, random_convolutions
from imgsynth.measure.kept import kept
from imgsynth.types import Fault, InputError

NAMES = ("efficientnet_lite", "radiomics", "inception", "random_conv", "file", "classifier")
TrainOn = Callable[[], tuple[np.ndarray, np.ndarray, int]]  # images [N, 1, *spatial], class indices, how many classes


class Encoder(ABC):
    """Images [N, 1, *spatial] in [-1, 1] to features [N, D] float32. ``name`` says all that the features depend on."""

    name: str
    dims: int
    planes = 1  # of how many planes the features are, one after another
    has_units = False  # features of different units and sizes, which only compare when they are standardised
    about = ""  # what whoever reads a number of this encoder must know
    standard_fid = False  # the network, weights and preparation that "FID" stands for

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[int, ...], str], np.ndarray] = {}
        self.folder: Path | None = None  # where features are kept, too: local, as they are of patients

    @abstractmethod
    def _features(self, x_BC: Tensor) -> Tensor: ...

    def encode(self, x_NC: np.ndarray, batch: int = 16) -> np.ndarray:
        """[N, D] features, kept by content: several metrics and attacks ask for those of the same images.

        A batch's size changes memory, never the result.
        """
        key = (x_NC.shape, hashlib.sha256(np.ascontiguousarray(x_NC).data).hexdigest())
        if key not in self._known:
            self._known[key] = kept(self.folder, f"{self.name} {x_NC.dtype} {key}", lambda: self._encode(x_NC, batch))
        return self._known[key].copy()

    @torch.inference_mode()
    def _encode(self, x_NC: np.ndarray, batch: int) -> np.ndarray:
        if x_NC.ndim != self.dims + 2 or x_NC.shape[1] != 1:
            raise ValueError(f"Expected images [N, 1, {self.dims} spatial axes], got shape {x_NC.shape}.")
        parts = [
            self._features(torch.from_numpy(np.ascontiguousarray(x_NC[i : i + batch])).float()).numpy()
            for i in console.track(range(0, len(x_NC), batch), "encoding")
        ]
        return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)


class RandomConv(Encoder):
    """Mean and spread of every channel of four random convolutions."""

    def __init__(self, dims: int, seed: int):
        super().__init__()
        self.dims = dims
        self.name = f"random_conv-{dims}d-seed{seed}"
        self.layers = random_convolutions(dims, seed)

    def _features(self, x_BC: Tensor) -> Tensor:
        pooled = []
        for layer in self.layers:
            x_BC = F.leaky_relu(layer(x_BC), 0.2)
            flat = x_BC.flatten(2)
            mean = flat.mean(-1)
            pooled += [mean, _spread(flat, mean)]
        return torch.cat(pooled, dim=1)


def _spread(x_BCV: Tensor, mean_BC: Tensor) -> Tensor:
    """[B, C] standard deviation over voxels, an image at a time: four times as fast as ``torch.std`` of them all."""
    pairs = zip(x_BCV, mean_BC.unsqueeze(-1), strict=True)
    return torch.stack([(x_CV - mean_C1).square_().mean(-1).sqrt_() for x_CV, mean_C1 in pairs])


def midplanes(x_BC: Tensor) -> list[Tensor]:
    """The planes [B, C, a, b] through the middle of volumes, across each axis."""
    return [x_BC.select(axis, x_BC.shape[axis] // 2) for axis in (2, 3, 4)]


class EfficientNetLite(Encoder):
    """1280 features of EfficientNet-Lite0 in 2D, 3 × 1280 in 3D. Raises InputError where its packages are absent."""

    def __init__(self, dims: int):
        super().__init__()
        self.dims = dims
        self.name = f"efficientnet_lite0-imagenet-{'2d' if dims == 2 else '2.5d-midplanes'}"
        self.planes = 1 if dims == 2 else 3
        self.network = efficientnet_lite()

    def _features(self, x_BC: Tensor) -> Tensor:
        if self.dims == 2:
            return self._plane_features(x_BC)
        return torch.cat([self._plane_features(plane) for plane in midplanes(x_BC)], dim=1)

    def _plane_features(self, x_BC: Tensor) -> Tensor:
        # The Lite networks were trained on (pixel − 127) / 128: our [-1, 1]. 224 pixels is their size; small planes
        # are only enlarged to 128, which loses nothing and costs a third.
        side = 224 if max(x_BC.shape[2:]) > 128 else 128
        x_BC = F.interpolate(x_BC, size=(side, side), mode="bilinear", antialias=True).expand(-1, 3, -1, -1)
        return self.network.extract_features(x_BC).mean((2, 3))  # type: ignore[operator]


def get_encoder(
    name: str, dims: int, seed: int, path: str | None = None, network: str | None = None, train: TrainOn | None = None
) -> Encoder:
    """The encoder ``name`` for images of ``dims`` spatial axes; ``seed`` is of random_conv's and classifier's weights.

    ``path`` is the file of ``file`` and ``inception``, ``network`` what a file of weights is of. ``train``: images and
    labels for ``classifier``, where whoever measures may train on them.

    Raises:
        InputError: for an unknown name, a package that is not installed (with how to install it), a file that cannot be
            used, or a classifier without images to be trained on.
    """
    if name == "random_conv":
        return RandomConv(dims, seed)
    if name == "efficientnet_lite":
        return EfficientNetLite(dims)
    if name == "radiomics":
        return import_module("imgsynth.measure.encoder_radiomics").Radiomics(dims)
    if name == "file":
        return import_module("imgsynth.measure.encoder_file").from_file(dims, path, network)
    if name == "inception":
        return import_module("imgsynth.measure.encoder_inception").Inception(dims, path)
    if name == "classifier":
        return import_module("imgsynth.measure.encoder_classifier").trained(dims, seed, train)
    raise InputError(Fault("encoder.name", repr(name), f"one of {', '.join(NAMES)}", "encoder.name=random_conv"))
