"""Inception-v3 as the literature's FID has it (Heusel et al. 2017): the weights of 2015, and how images are prepared.

By the package torch-fidelity, which downloads the weights where the network allows.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from imgsynth.measure.encoders import Encoder, midplanes
from imgsynth.types import Fault, InputError


class Inception(Encoder):
    """2048 features; of a volume those of its three middle planes, one after another (then no number is an FID)."""

    def __init__(self, dims: int, path: str | None):
        super().__init__()
        if find_spec("torch_fidelity") is None:
            raise InputError(
                Fault("encoder.name", "inception, without the package torch-fidelity",
                      "the package that has the network", "pip install torch-fidelity, or encoder=efficientnet_lite")
            )  # fmt: skip
        extractor = import_module("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
        try:
            self.network: Any = extractor("inception-v3-compat", ["2048"], feature_extractor_weights_path=path).eval()
        except (OSError, RuntimeError) as error:
            raise InputError(
                Fault("encoder.name", f"inception, whose weights cannot be had: {' '.join(str(error).split())[:200]}",
                      "a connection to where torch-fidelity gets them, or their file",
                      "encoder.path=FILE of the weights, or encoder=efficientnet_lite")
            ) from error  # fmt: skip
        self.dims = dims
        self.planes = 1 if dims == 2 else 3
        self.standard_fid = dims == 2
        self.name = f"inception_v3-fid-{'2d' if dims == 2 else '2.5d-midplanes'}"

    def _features(self, x_BC: Tensor) -> Tensor:
        planes = [x_BC] if self.dims == 2 else midplanes(x_BC)
        bytes_ = [((p.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).expand(-1, 3, -1, -1) for p in planes]
        return torch.cat([self.network(p.contiguous())[0].float().flatten(1) for p in bytes_], dim=1)
