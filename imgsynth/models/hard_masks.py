"""From probabilities of structures to a mask whose structures have the volumes that the probabilities add up to.

The most probable label of each voxel loses what is uncertain: where a structure is somewhere near, but at no voxel more
probable than the background, it is nowhere at all. Here a structure gets as many voxels as its probabilities sum to,
those where it is most probable. Where a network is sure of every voxel, both masks are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

ABSENT = 0.05  # a structure that is nowhere more probable than this is left out, not scattered over a few voxels


def mask_probabilities(logit_BM: Tensor) -> Tensor:
    """[B, m, *] of each structure, from its logits beside the background's, which is 0."""
    zero_B1 = torch.zeros_like(logit_BM[:, :1])
    return torch.softmax(torch.cat([zero_B1, logit_BM], dim=1), dim=1)[:, 1:]


def hard_mask(p_BM: Tensor) -> Tensor:
    """Probabilities [B, m, *] to channels [B, m, *] of 1 inside and -1 outside; each image follows itself alone.

    Structures take their voxels in turn, the smallest first, each where the product of its probability and of its share
    among all structures' is largest: where it is likely, and likelier than the others.
    """
    shape, p_BMV = p_BM.shape, p_BM.flatten(2)
    p_BMV = p_BMV * (p_BMV.amax(2, keepdim=True) > ABSENT)
    volume_BM = p_BMV.sum(2).round()
    order_BM = volume_BM.argsort(dim=1, stable=True)
    score_BMV = p_BMV.square() / p_BMV.sum(1, keepdim=True).clamp(min=1e-12)
    label_BV = torch.full_like(score_BMV[:, 0], -1, dtype=torch.long)
    for m_B1 in order_BM.split(1, dim=1):
        score_BV = score_BMV.gather(1, m_B1[..., None].expand(-1, 1, score_BMV.shape[2]))[:, 0]
        taken_BV = _largest(score_BV.masked_fill(label_BV >= 0, -1.0), volume_BM.gather(1, m_B1)[:, 0])
        label_BV = torch.where(taken_BV & (label_BV < 0), m_B1, label_BV)
    inside_BMV = label_BV[:, None] == torch.arange(shape[1], device=p_BM.device)[:, None]
    return (2.0 * inside_BMV - 1.0).view(shape).to(p_BM.dtype)


def _largest(value_BV: Tensor, count_B: Tensor) -> Tensor:
    """[B, V] which are the ``count_B`` largest of each row."""
    rank_BV = value_BV.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank_BV < count_B[:, None]
