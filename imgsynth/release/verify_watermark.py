"""Is the watermark that a release's card speaks of in its images?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from imgsynth.release.facts import Facts
from imgsynth.release.read import images_by_format
from imgsynth.release.watermark_search import p_as_made, residual
from imgsynth.types import Fault, InputError
from imgsynth.volumes.parallel import in_chunks

IN_ALL = 1e-2  # p-value of all images of a format together, above which it is not found
IN_ONE = 0.05  # of one image above which it is missing there ...
TYPICAL = 1e-9  # ... where half of the others are below this
REMEDY = "do not use this release; get it again from whoever published it"


@dataclass(frozen=True, eq=False)
class Sum:
    """Of the residuals of ``n`` images of one shape."""

    residual: np.ndarray
    n: int

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.residual + other.residual, self.n + other.n)


Sums = dict[tuple[str, tuple[int, ...]], Sum]  # by format and shape


def watermark_faults(folder: Path, facts: Facts) -> Iterator[Fault]:
    """Faults of images in which the watermark is not found, by format; none where the card speaks of none."""
    if facts.watermark is None:
        return
    total: Sums = {}
    found: dict[str, list[tuple[str, float]]] = {}
    numbers = range(1, len(facts.patients) + 1)
    for _, (sums, looked) in in_chunks(partial(_examine, folder, facts), numbers):
        for place, part in sums.items():
            total[place] = total[place] + part if place in total else part
        for kind, name, p in looked:
            found.setdefault(kind, []).append((name, p))
    for kind, rows in found.items():
        # Of the commonest shape; an image of another one is judged by itself alone.
        together = max((part for (of, _), part in total.items() if of == kind), key=lambda part: part.n).residual
        if (p := p_as_made(together)) > IN_ALL:
            yield Fault(
                f"watermark ({kind})", f"p = {p:.2g} for all images together", "the watermark of the card", REMEDY
            )
        elif np.median([p for _, p in rows]) < TYPICAL:
            for name, p in rows:
                if p > IN_ONE:
                    yield Fault(f"watermark ({kind}): {name}", f"p = {p:.2g}", "the one that the others have", REMEDY)


def _examine(folder: Path, facts: Facts, numbers: Sequence[int]) -> tuple[Sums, list[tuple[str, str, float]]]:
    """The sums of residuals by format and shape, and (format, patient, p-value) of each image. What cannot be read is
    another check's to say; an image without any structure has no noise to hide in."""
    total: Sums = {}
    looked = []
    for number in numbers:
        try:
            for kind, array in images_by_format(folder, facts, number):
                left = residual(array)
                place = kind, left.shape
                total[place] = total.get(place, Sum(np.zeros_like(left), 0)) + Sum(left, 1)
                if left.any():
                    looked.append((kind, facts.patients[number - 1].id, p_as_made(left)))
        except (InputError, OSError):
            continue
    return total, looked
