"""The processes ("ranks") that take one private step together, each on its own share of the drawn patients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor

from imgsynth.types import PatientBatch

Sums = dict[str, Tensor]
Units = tuple[PatientBatch, tuple[Tensor, ...]]


class Ranks(ABC):
    """What one rank needs of the others. Whatever is noised is summed first and noised once: never rank by rank, never
    twice, so that the noise multiplier of the plan is that of the step however many ranks there are."""

    @abstractmethod
    def combine(self, groups: Sequence[Sums], finish: Callable[..., Sums]) -> Sums:
        """``finish(*totals)``, where ``totals`` are the ``groups`` of all ranks added up. ``finish`` is called once, on
        one rank (so that noise is drawn once), and its outcome, bit for bit, is what every rank gets.

        ``finish`` returns double precision under the names and in the shapes of the first group. All ranks call it with
        the same names and shapes (in whatever order a group lists them), in the same order of calls.
        """

    @abstractmethod
    def share(self, units: Units) -> Units:
        """This rank's part of units (with their aux tensors) of which every rank holds all; the parts are disjoint."""


class Alone(Ranks):
    """One process: its sums are the totals, its share is the whole."""

    def combine(self, groups: Sequence[Sums], finish: Callable[..., Sums]) -> Sums:
        return finish(*groups)

    def share(self, units: Units) -> Units:
        return units


ALONE = Alone()
