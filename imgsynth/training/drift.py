"""Do all ranks still have the same weights? Every step leaves them alike bit for bit, unless a machine errs."""

from __future__ import annotations

import zlib
from typing import Any

import torch

from imgsynth.training.state import TrainingState
from imgsynth.training.team import RankFailed
from imgsynth.types import Fault


def refuse_drift(state: TrainingState) -> None:
    """Raises RankFailed where ranks differ, before any of it is stored. One process cannot."""
    if state.team.size == 1:
        return
    sums = state.team.gather(checksum(state))
    astray = [rank for rank, found in enumerate(sums) if found != sums[0]]
    if astray:
        raise RankFailed(
            Fault(f"step {state.step}", f"weights on rank {', '.join(map(str, astray))} that are not rank 0's",
                  "the same weights on all ranks, bit for bit",
                  "the same devices and the same version of torch on all machines (and a test of their memory); the "
                  "same command goes on from the last checkpoint")
        )  # fmt: skip


def checksum(state: TrainingState) -> int:
    """CRC-32 over weights, averages, optimizer moments and clipping norm: notices accidents, a second a gigabyte."""
    optimizers = [optimizer.state_dict() for optimizer in state.optimizers.values()]
    return _crc([state.model.state_dict(), state.ema.state_dict(), optimizers, state.clipping.state_dict()])


def _crc(value: Any, start: int = 0) -> int:
    if isinstance(value, torch.Tensor):
        content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        return zlib.crc32(content.data, start)
    if isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            start = _crc(item, start)
        return start
    return zlib.crc32(repr(value).encode(), start)
