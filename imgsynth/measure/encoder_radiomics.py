"""Radiomics: the intensity and texture features that the Image Biomarker Standardisation Initiative defines (Zwanenburg
et al. 2020, doi:10.1148/radiol.2020191145), as computed by mirp. No weights, so public; 2D and 3D.

The Fréchet distance on them is the Fréchet radiomics distance (Konz et al. 2024, arXiv:2412.01496) up to which
features are taken: here those of whole images on the public grid.
"""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgsynth.measure.encoders import Encoder
from imgsynth.types import Fault, InputError

BINS = 32  # fixed bin number, of the discretised intensities (IBSI 1, 2.7)
FAMILIES = ("statistics", "cm", "rlm", "szm", "ngtdm")  # names of mirp: intensity, and four kinds of texture
PREFIXES = ("stat_", "cm_", "rlm_", "szm_", "ngt_")


class Radiomics(Encoder):
    """Some hundred features of each image, by sign(f) ln(1 + |f|), as they span ten orders of magnitude.

    A feature that is undefined (of a constant image, say) is 0. Slow: about half a second for a volume of 32³.
    """

    has_units = True

    def __init__(self, dims: int):
        super().__init__()
        if find_spec("mirp") is None:
            raise InputError(
                Fault("encoder.name", "radiomics, without the package mirp", "the package that computes the features",
                      "pip install imgsynth[radiomics], or encoder=random_conv")
            )  # fmt: skip
        self.dims = dims
        self.name = f"radiomics-ibsi-{dims}d-{BINS}bins"
        logging.getLogger("mirp").setLevel(logging.WARNING)
        self._extract: Any = import_module("mirp").extract_features

    def _features(self, x_BC: Tensor) -> Tensor:
        return torch.from_numpy(np.stack([self._of_image(x.numpy()) for x in x_BC[:, 0]]))

    def _of_image(self, x: np.ndarray) -> np.ndarray:
        volume = x[None] if self.dims == 2 else x
        (found,) = self._extract(
            image=volume.astype(np.float64), mask=np.ones(volume.shape, bool), by_slice=self.dims == 2, num_cpus=1,
            base_feature_families=list(FAMILIES), base_discretisation_method="fixed_bin_number",
            base_discretisation_n_bins=BINS,
        )  # fmt: skip
        columns = sorted(name for name in found.columns if name.startswith(PREFIXES))
        values = found[columns].to_numpy(dtype=np.float64)[0]
        values = np.where(np.isfinite(values), values, 0.0)
        return (np.sign(values) * np.log1p(np.abs(values))).astype(np.float32)
