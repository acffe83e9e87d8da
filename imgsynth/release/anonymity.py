"""k-anonymity, l-diversity and t-closeness of a table: measured, and reached by generalising, then suppressing.

None of the three is differential privacy: they say how small and how telling the groups of a table are, to somebody who
knows the quasi-identifiers of a person and nothing else, and they do not compose over several releases.

- k-anonymity (Sweeney 2002): every combination of quasi-identifiers that occurs has k rows or more.
- distinct l-diversity (Machanavajjhala et al. 2007, ACM TKDD 1:3): each such class has l different sensitive values.
- t-closeness (Li et al. 2007, ICDE): the sensitive values of each class are distributed as in the whole table to within
  an Earth Mover's Distance of t. All values are equally far apart here, so that it is the total variation distance.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SUPPRESSED = "*"
Row = tuple[str, ...]  # the quasi-identifiers of one person


@dataclass(frozen=True)
class Anonymity:
    """What a table has: ``k`` and ``l`` the least, ``t`` the largest over its classes."""

    k: int
    l: int
    t: float

    def keeps(self, asked: Anonymity) -> bool:
        return self.k >= asked.k and self.l >= asked.l and self.t <= asked.t + 1e-9


def measure(rows: Sequence[Row], sensitive: Sequence[str]) -> Anonymity:
    """k, l and t of a table with quasi-identifiers ``rows`` and one ``sensitive`` value for each of them.

    Raises ValueError for an empty table.
    """
    if not rows:
        raise ValueError("Expected a table with rows, got none.")
    values = sorted(set(sensitive))
    whole = _shares(Counter(sensitive), values)
    classes = list(_classes(rows, sensitive).values())
    return Anonymity(
        k=min(counts.total() for counts in classes),
        l=min(len(counts) for counts in classes),
        t=max(equal_distance(_shares(counts, values), whole) for counts in classes),
    )


def equal_distance(p: np.ndarray, q: np.ndarray) -> float:
    """Earth Mover's Distance where all values are 1 apart: ½ Σ |pᵢ - qᵢ| (Li et al. 2007, section 5.2)."""
    return float(np.abs(p - q).sum() / 2)


def anonymised(
    rows: Sequence[Row], sensitive: Sequence[str], asked: Anonymity, hierarchies: Sequence[Sequence[Mapping[str, str]]]
) -> list[Row]:
    """``rows`` with values generalised, and all values of rows whose class still fails suppressed, so that every other
    class keeps ``asked``.

    ``hierarchies`` has for each column its levels, from fine to coarse: what each value becomes. Of all combinations of
    levels the one that loses least is taken, a value at level i of m losing i / m and a suppressed one all.
    """

    def made(levels: Sequence[int]) -> tuple[float, list[Row]]:
        kept = suppressed([_at(row, levels, hierarchies) for row in rows], sensitive, asked, together=False)
        assert kept is not None
        share = [level / (len(steps) + 1) for level, steps in zip(levels, hierarchies, strict=True)]
        lost = [1.0 if value == SUPPRESSED else own for row in kept for value, own in zip(row, share, strict=True)]
        return sum(lost), kept

    every = itertools.product(*(range(len(steps) + 1) for steps in hierarchies))
    return min(map(made, every), key=lambda pair: pair[0])[1]


def suppressed(
    rows: Sequence[Row], sensitive: Sequence[str], asked: Anonymity, together: bool = True
) -> list[Row] | None:
    """``rows`` with all values of each class that fails ``asked`` replaced.

    With ``together`` the suppressed rows must keep it as one class, too: while they do not, the smallest other class
    joins them. None where not even the whole table does.
    """
    values = sorted(set(sensitive))
    whole = _shares(Counter(sensitive), values)

    def good(counts: Counter[str]) -> bool:
        own = Anonymity(counts.total(), len(counts), equal_distance(_shares(counts, values), whole))
        return own.keeps(asked)

    nothing = (SUPPRESSED,) * len(rows[0]) if rows else ()
    classes = _classes(rows, sensitive)
    gone = {name for name, counts in classes.items() if name == nothing or not good(counts)}
    left = sorted(classes.keys() - gone, key=lambda name: (classes[name].total(), name))
    while together and gone and not good(sum((classes[name] for name in gone), Counter())):
        if not left:
            return None
        gone.add(left.pop(0))
    return [nothing if row in gone else tuple(row) for row in rows]


def _at(row: Row, levels: Sequence[int], hierarchies: Sequence[Sequence[Mapping[str, str]]]) -> Row:
    steps = zip(row, levels, hierarchies, strict=True)
    return tuple(value if level == 0 else own[level - 1].get(value, SUPPRESSED) for value, level, own in steps)


def _classes(rows: Sequence[Row], sensitive: Sequence[str]) -> dict[Row, Counter[str]]:
    found: dict[Row, Counter[str]] = defaultdict(Counter)
    for row, value in zip(rows, sensitive, strict=True):
        found[tuple(row)][value] += 1
    return dict(found)


def _shares(counts: Counter[str], values: Sequence[str]) -> np.ndarray:
    return np.array([counts[value] for value in values], dtype=float) / counts.total()
