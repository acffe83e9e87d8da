"""Images from the trained generator, in batches that fit in memory."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator

import numpy as np
import torch

from imgsynth.models.base import GenerativeModel
from imgsynth.release.streams import Streams
from imgsynth.training.run import Run

VOXELS_AT_ONCE = 1 << 22  # 16 MiB of float32 output; a decoder's feature maps take some ten times that
BLOCK = 64  # images of a release that are made together, at most


def generate(run: Run, labels_B: np.ndarray, random: torch.Generator) -> np.ndarray:
    """``images_of`` the run's model, whose generator has the averaged (EMA) weights."""
    return images_of(run.model, labels_B, random)


def images_of(model: GenerativeModel, labels_B: np.ndarray, random: torch.Generator) -> np.ndarray:
    """Sample one image for each class index of ``labels_B``.

    Returns float32 [B, C, *spatial] in [-1, 1], a channel for each structure of a mask after the image's. Sees no data:
    this is post-processing of the private training and costs no privacy, however many images are drawn (Dwork and Roth
    2014, proposition 2.1).
    """
    labels_B = np.asarray(labels_B, dtype=np.int64)
    if labels_B.ndim != 1 or (len(labels_B) and not 0 <= labels_B.min() <= labels_B.max() < model.classes):
        raise ValueError(f"Expected class indices [B] below {model.classes}, got {labels_B!r}.")
    device = next(model.parameters()).device
    at_once = max(1, VOXELS_AT_ONCE // math.prod(model.shape))
    batches = [np.empty((0, model.image_channels, *model.shape), np.float32)]
    model.eval()
    with torch.no_grad():
        for start in range(0, len(labels_B), at_once):
            y_B = torch.from_numpy(labels_B[start : start + at_once]).to(device)
            batches.append(model.sample(y_B, random).clamp(-1, 1).cpu().float().numpy())
    return np.concatenate(batches)


def block_size(shape: tuple[int, ...]) -> int:
    """How many images of ``shape`` a release makes at once: by their shape alone, because convolutions round otherwise
    in a batch of another size, and no setting may change a byte of what a seed gives."""
    return max(1, min(BLOCK, VOXELS_AT_ONCE // math.prod(shape)))


def images_in_blocks(
    model: GenerativeModel, labels_N: np.ndarray, streams: Streams, wanted: Callable[[int], bool]
) -> Iterator[tuple[int, np.ndarray]]:
    """The images of a release: ``(index, x_C)`` in the order of ``labels_N``, for each index that is ``wanted``.

    Each block has random numbers of its own and is made whole or not at all, so that an image is the same whichever
    others are wanted, and after whatever interruption. At most one block is in memory.
    """
    size = block_size(model.shape)
    for block, start in enumerate(range(0, len(labels_N), size)):
        indices = [index for index in range(start, min(start + size, len(labels_N))) if wanted(index)]
        if indices:
            x_BC = images_of(model, labels_N[start : start + size], streams.images(block))
            yield from ((index, x_BC[index - start]) for index in indices)


def fresh_generator() -> torch.Generator:
    """A CPU random generator seeded from the operating system's entropy; the seed is kept nowhere."""
    return torch.Generator().manual_seed(secrets.randbits(63))
