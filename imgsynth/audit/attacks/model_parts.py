"""The model's parts for white-box attacks, with the weights that belong together, asked in batches."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from imgsynth.audit.attacks.attack import Released
from imgsynth.measure.images import Images
from imgsynth.models.white_box import WhiteBox
from imgsynth.training.run import trained_model

VOXELS_AT_ONCE = 1 << 21  # of images in one forward pass; feature maps take some ten times that


def parts_as_sampled(released: Released) -> WhiteBox:
    """Of the model as it samples: the generator's averaged weights, where there is an average."""
    return WhiteBox() if released.model is None else released.model.white_box()


def parts_as_trained(released: Released) -> WhiteBox:
    """Of the networks of the last step, none averaged, where the run is at hand; else as sampled."""
    return parts_as_sampled(released) if released.run is None else trained_model(released.run).white_box()


def per_image(ask: Callable[..., Tensor], images: Images, *more_N: Tensor, copies: int = 1) -> np.ndarray:
    """[N, …] of ``ask(x_BC, y_B, *more_B)`` [B, …], which answers for each image by itself, its mask included; float64.

    ``copies``: how many images ``ask`` makes of one; it shrinks the batch, never the result.
    """
    whole_NC = images.whole_NC
    at_once = max(1, VOXELS_AT_ONCE // (copies * math.prod(whole_NC.shape[1:])))
    answers = []
    for start in range(0, len(images), at_once):
        rows = slice(start, start + at_once)
        x_BC = torch.from_numpy(np.ascontiguousarray(whole_NC[rows], dtype=np.float32))
        y_B = torch.from_numpy(np.asarray(images.y_N[rows], dtype=np.int64))
        answers.append(ask(x_BC, y_B, *(m[rows] for m in more_N)).double().numpy())
    return np.concatenate(answers) if answers else np.zeros(0)
