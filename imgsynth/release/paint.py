"""Images painted onto masks that were supplied, or onto the generator's own before and after they were edited."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgsynth.models.base import GenerativeModel, MaskToImage
from imgsynth.release.edit_masks import edited
from imgsynth.release.generate import block_size
from imgsynth.release.streams import Streams
from imgsynth.types import Fault, Grid, InputError

Wanted = Callable[[int], bool]


def painter_of(model: GenerativeModel) -> MaskToImage:
    """InputError for a model that makes no image from a mask."""
    if isinstance(model, MaskToImage):
        return model
    raise InputError(
        Fault("sample.masks, sample.edits", f"a mask to paint, with {type(model).__name__}",
              "a model that paints images onto masks", "model=pix2pix, and a run of it; or leave them out")
    )  # fmt: skip


def on_supplied(
    model: GenerativeModel, labels_N: np.ndarray, streams: Streams, wanted: Wanted, label_K: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """``(index, x_C)`` as ``images_in_blocks``: image i on mask i mod K of ``label_K`` [K, *spatial]."""
    for block, indices in _blocks(model, len(labels_N)):
        if any(map(wanted, indices)):
            label_B = label_K[np.array(indices) % len(label_K)]
            x_BC = _painted(model, label_B, labels_N[indices], streams.images(block))
            yield from ((index, x_C) for index, x_C in zip(indices, x_BC, strict=True) if wanted(index))


def before_and_after(
    model: GenerativeModel, labels_N: np.ndarray, streams: Streams, wanted: Wanted, edits: Sequence[Mapping[str, Any]],
    grid: Grid,
) -> Iterator[tuple[int, np.ndarray]]:  # fmt: skip
    """``(index, x_C)``: images 2i and 2i + 1 are one sample before and after its mask was edited, painted with the same
    random numbers, so that the mask is all in which they differ."""
    device, painter = next(model.parameters()).device, painter_of(model)
    for block, indices in _blocks(model, len(labels_N) // 2):
        if not any(wanted(2 * i) or wanted(2 * i + 1) for i in indices):
            continue
        y_B, random = labels_N[[2 * i for i in indices]], streams.images(block)
        model.eval()
        label_B = _labels(painter.masks(torch.from_numpy(y_B).to(device), random))
        state = random.get_state()
        before_BC = _painted(model, label_B, y_B, random)
        random.set_state(state)
        after_BC = _painted(model, np.stack([edited(label, edits, grid) for label in label_B]), y_B, random)
        for i, before_C, after_C in zip(indices, before_BC, after_BC, strict=True):
            yield from ((index, x_C) for index, x_C in ((2 * i, before_C), (2 * i + 1, after_C)) if wanted(index))


def _blocks(model: GenerativeModel, n: int) -> Iterator[tuple[int, list[int]]]:
    size = block_size(model.shape)
    return ((block, list(range(start, min(start + size, n)))) for block, start in enumerate(range(0, n, size)))


def _painted(model: GenerativeModel, label_B: np.ndarray, y_B: np.ndarray, random: torch.Generator) -> np.ndarray:
    """Pairs [B, 1 + m, *spatial] of these label maps."""
    device = next(model.parameters()).device
    mask_BM = np.stack([np.where(label_B == k, 1, -1) for k in range(1, 1 + model.structures)], axis=1)
    mask = torch.from_numpy(mask_BM.astype(np.float32)).to(device)
    model.eval()
    with torch.no_grad():
        x_B1 = painter_of(model).paint(mask, torch.from_numpy(np.asarray(y_B, np.int64)).to(device), random)
    return torch.cat([x_B1.clamp(-1, 1), mask], dim=1).cpu().float().numpy()


def _labels(mask_BM: Tensor) -> np.ndarray:
    """uint8 [B, *spatial] of masks of 1 and -1."""
    inside_BM = mask_BM.cpu().numpy() > 0
    return np.where(inside_BM.any(1), inside_BM.argmax(1) + 1, 0).astype(np.uint8)
