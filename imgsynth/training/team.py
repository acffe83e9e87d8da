"""The processes that train one run together, as the loop sees them; and the usual case, one process."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from imgsynth.privacy.ranks import Alone, Ranks
from imgsynth.schema import TrainerConfig
from imgsynth.training.device import choose_device
from imgsynth.types import ImgsynthError

T = TypeVar("T")


class RankFailed(ImgsynthError):
    """A rank died, hung or broke (exit code 1). The run itself is well: it goes on from its last checkpoint."""


class Team(Ranks):
    """``size`` ranks, of which this process is number ``rank``. Rank 0, the *first*, alone has the run's folder, the
    ledger and the terminal. Every method that talks is called by all ranks, in the same order.

    The training patients are dealt out by their place in the manifest, modulo ``size``: a public rule, so that the
    union of what the ranks draw is one Poisson sample.
    """

    rank: int
    size: int

    @property
    def first(self) -> bool:
        return self.rank == 0

    @abstractmethod
    def together(self) -> AbstractContextManager[None]:
        """An error of one rank in the block becomes the error of all of them, at the next thing that they do together;
        where several fail at once, their faults are reported together."""

    @abstractmethod
    def tell(self, make: Callable[[], T]) -> T:
        """What the first rank makes, on every rank."""

    @abstractmethod
    def gather(self, value: T) -> list[T]:
        """What every rank has, by rank, on every rank."""

    @abstractmethod
    def same(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The first rank's tensors, bit for bit, on every rank; shapes and types are those given."""

    @abstractmethod
    def device(self, trainer: TrainerConfig) -> torch.device:
        """This rank's device. Raises InputError."""


class Solo(Alone, Team):
    """One process."""

    rank, size = 0, 1

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def tell(self, make: Callable[[], T]) -> T:
        return make()

    def gather(self, value: T) -> list[T]:
        return [value]

    def same(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors)

    def device(self, trainer: TrainerConfig) -> torch.device:
        return choose_device(trainer)


SOLO = Solo()


def merged_rows(ranks_rows: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each rank's local rows of the same steps as one: patients are added, seconds are the slowest rank's, and what is
    a mean over a rank's patients is weighted by them."""
    return [_merged(list(rows)) for rows in zip(*ranks_rows, strict=True)]


def _merged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [(row[name], row.get("patients", 0)) for row in rows if row.get(name) is not None]
        if name == "step":
            merged[name] = rows[0][name]
        elif name == "patients":
            merged[name] = sum(value for value, _ in values)
        elif name in ("seconds", "data_seconds"):
            merged[name] = max(value for value, _ in values)
        else:
            weight = sum(patients for _, patients in values)
            merged[name] = sum(value * patients for value, patients in values) / weight if weight else None
    return merged
