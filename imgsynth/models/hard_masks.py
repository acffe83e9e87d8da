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

    First the foreground, as many voxels as all structures' probabilities sum to; in it the structures, the smallest
    first, each where its share among those not placed yet is largest. What rounding leaves over goes to the largest.
    """
    shape, p_BMV = p_BM.shape, p_BM.flatten(2)
    p_BMV = p_BMV * (p_BMV.amax(2, keepdim=True) > ABSENT)
    volume_BM = p_BMV.sum(2).round()
    free_BV = _largest(p_BMV.sum(1), volume_BM.sum(1))
    order_BM, rest_BV = volume_BM.argsort(dim=1, stable=True), p_BMV.sum(1)
    inside_BMV = torch.zeros_like(p_BMV, dtype=torch.bool)
    for k in range(shape[1]):
        m_B11 = order_BM[:, k, None, None]
        p_BV = p_BMV.gather(1, m_B11.expand(-1, 1, p_BMV.shape[2]))[:, 0]
        share_BV = torch.where(free_BV, p_BV / rest_BV.clamp(min=1e-12), -1.0)
        last = k == shape[1] - 1
        taken_BV = free_BV if last else _largest(share_BV, volume_BM.gather(1, m_B11[:, 0])[:, 0]) & free_BV
        inside_BMV = inside_BMV | ((torch.arange(shape[1], device=p_BM.device)[None, :, None] == m_B11)
                                   & taken_BV[:, None])  # fmt: skip
        free_BV, rest_BV = free_BV & ~taken_BV, rest_BV - p_BV
    return (2.0 * inside_BMV - 1.0).view(shape).to(p_BM.dtype)


def _largest(value_BV: Tensor, count_B: Tensor) -> Tensor:
    """[B, V] which are the ``count_B`` largest of each row."""
    rank_BV = value_BV.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank_BV < count_B[:, None]
