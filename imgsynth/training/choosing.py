"""Which method to take: a ranking by what was measured on phantoms (methods.csv), and whether any is worth its ε.

The score. A method is scored by how far it comes from noised class means, which cost the same ε and learn nothing (0),
towards real images (1), in each of two respects:

    utility   (AUC − AUC of class means) / (AUC of real images − AUC of class means)
    fidelity  (√F of class means − √F) / (√F of class means − √F of real images),   F the Fréchet distance

each cut off at −1 and 1. The score is their mean. Utility is left out where class means come within ROOM of real
images: nothing can be told there. The score's interval takes both respects at the bad and at the good ends of their
95 % intervals. **A method is worth its ε where it is above class means in each respect by its whole interval**: pretty
images that teach no class are not, however large their score. Nothing is extrapolated: the score at the nearest
measured grid, ε and n is shown as what it is, with the n measured on either side.

What it is not: the intervals of class means and of real images are not in it, phantoms are no patients, and coverage
and MS-SSIM stand beside without weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imgsynth.training.method_table import Row

ROOM = 0.02  # of AUC between class means and real images, below which a classifier cannot tell methods apart


@dataclass(frozen=True)
class Score:
    """``value`` with its interval; ``utility`` and ``fidelity`` are what it is the mean of, None where left out;
    ``worst`` is the lowest bad end of these."""

    value: float
    low: float
    high: float
    utility: float | None
    fidelity: float | None
    worst: float

    @property
    def worth(self) -> bool:
        """Above class means in each respect, by its whole interval."""
        return self.worst > 0


@dataclass(frozen=True)
class Place:
    """Where it was measured: ``below`` and ``above`` are the measured n around the one asked for, None beyond them."""

    dims: int
    grid: int
    epsilon: float
    nearest: int
    below: int | None
    above: int | None

    @property
    def further(self) -> int | None:
        """The end of the bracket that is not the nearest."""
        return next((n for n in (self.below, self.above) if n is not None and n != self.nearest), None)


@dataclass(frozen=True)
class Ranked:
    """``row`` is at the nearest n where the method was measured there, else at the bracket's other end."""

    row: Row
    score: Score
    other: Score | None  # at the bracket's other end

    @property
    def worth(self) -> bool:
        return self.score.worth


@dataclass(frozen=True)
class Ranking:
    """``methods`` best first; ``unscored`` were measured there without anything to compare with; ``missing`` not.
    ``elsewhere`` are the rows of as many axes that were worth their ε at another n, ε or grid."""

    place: Place
    methods: list[Ranked]
    unscored: list[str]
    missing: list[str]
    elsewhere: list[Row]

    def best(self, public: bool, able: Iterable[str] | None = None) -> Ranked | None:
        """The first that is worth its ε among those that can be taken: those of ``able`` (None: all), and without
        ``public`` images none that begins with them."""
        names = None if able is None else set(able)
        return next((one for one in self.methods if one.worth and (public or not one.row.needs_public)
                     and (names is None or one.row.method in names)), None)  # fmt: skip


def score(row: Row) -> Score | None:
    """None where neither respect was measured beside class means and real images."""
    utility = _shares(row.auc_trivial, row.auc_real, row.auc, row.auc_low, row.auc_high, ROOM)
    fidelity = _shares(*map(_root, (row.frechet_trivial, row.frechet_floor, row.frechet, row.frechet_high,
                                    row.frechet_low)))  # fmt: skip
    known = [shares for shares in (utility, fidelity) if shares is not None]
    if not known:
        return None
    value, low, high = (sum(ends) / len(known) for ends in zip(*known, strict=True))
    return Score(value, low, high, utility and utility[0], fidelity and fidelity[0], min(bad for _, bad, _ in known))


def _root(frechet: float) -> float:
    """−√F: a distance, and larger is better. The estimate of F can fall below 0; NaN stays."""
    return frechet if math.isnan(frechet) else -math.sqrt(max(0.0, frechet))


def _shares(
    trivial: float, real: float, value: float, bad: float, good: float, room: float = 0.0
) -> tuple[float, float, float] | None:
    """(value, bad, good) as shares of the way up from ``trivial`` to ``real``; None where one is not known, or the way
    is no longer than ``room``."""
    if any(math.isnan(x) for x in (trivial, real, value, bad, good)) or real - trivial <= room:
        return None
    a, b, c = (min(1.0, max(-1.0, (x - trivial) / (real - trivial))) for x in (value, bad, good))
    return a, b, c


def place_for(rows: Sequence[Row], n: int, epsilon: float, dims: int, grid: float) -> Place | None:
    """The nearest measured grid of ``dims`` axes, then ε, then n, each by its ratio; of two as near the smaller one.
    None where nothing has so many axes."""
    here = [row for row in rows if row.dims == dims]
    if not here:
        return None
    nearest_grid = _nearest({row.grid for row in here}, grid)
    here = [row for row in here if row.grid == nearest_grid]
    nearest_epsilon = _nearest({row.epsilon for row in here}, epsilon)
    counts = {row.n for row in here if row.epsilon == nearest_epsilon}
    return Place(
        dims, int(nearest_grid), nearest_epsilon, int(_nearest(counts, n)),
        max((count for count in counts if count <= n), default=None),
        min((count for count in counts if count >= n), default=None),
    )  # fmt: skip


def _nearest(among: Iterable[float], asked: float) -> float:
    return min(sorted(among), key=lambda one: (round(abs(math.log(one / asked)), 9), one))


def rank(rows: Sequence[Row], n: int, epsilon: float, dims: int, grid: float, known: Iterable[str]) -> Ranking | None:
    """``known`` are the names of all methods there are; ``grid`` is voxels along an axis (the geometric mean).

    Methods that were measured at the nearest n come first, then those of the bracket's other end; each by its score.
    None where nothing of ``dims`` axes was measured.
    """
    place = place_for(rows, n, epsilon, dims, grid)
    if place is None:
        return None
    at = {(row.method, row.n): row for row in rows
          if (row.dims, row.grid, row.epsilon) == (place.dims, place.grid, place.epsilon)}  # fmt: skip
    found: list[Ranked] = []
    unscored = []
    for method in dict.fromkeys(name for name, _ in at):
        near, far = at.get((method, place.nearest)), at.get((method, place.further or 0))
        row = near or far
        if row is None:  # measured at an n outside of the bracket alone
            continue
        if (own := score(row)) is None:
            unscored.append(method)
            continue
        found.append(Ranked(row, own, score(far) if near is not None and far is not None else None))
    found.sort(key=lambda one: (one.row.n != place.nearest, -one.score.value, one.row.method))
    seen = {*(one.row.method for one in found), *unscored}
    here = (place.dims, place.grid, place.nearest, place.epsilon)
    elsewhere = [row for row in rows if row.dims == dims and row.key[:4] != here and (s := score(row)) and s.worth]
    return Ranking(place, found, unscored, [name for name in known if name not in seen], elsewhere)


def along_axis(shape: Sequence[int]) -> float:
    """Voxels along an axis: the geometric mean."""
    return float(math.prod(shape) ** (1 / len(shape)))
