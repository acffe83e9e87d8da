"""Which class each synthetic patient is to have: from public facts, or from the histogram that was charged for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imgsynth.files import read_json
from imgsynth.types import Fault, InputError


def draw_labels(how: str, n: int, classes: int, histogram: Path, random: np.random.Generator) -> np.ndarray:
    """Class indices [n]. ``how`` is "uniform" over the public classes or "histogram", the stored noisy counts.

    A histogram whose noisy counts are all 0 says nothing, and gives uniform labels. Raises InputError where the
    run took no histogram: one cannot be taken afterwards, because its ε is part of the run's plan.
    """
    shares = np.full(classes, 1 / classes)
    if how == "histogram":
        if not histogram.is_file():
            raise InputError(
                Fault(str(histogram), "no such file", "the noisy counts of a run with sample.labels=histogram",
                      "sample.labels=uniform, or train a new run with sample.labels=histogram")
            )  # fmt: skip
        counts = np.array(read_json(histogram)["counts"], dtype=float)
        shares = counts / counts.sum() if counts.sum() > 0 else shares
    return random.choice(classes, size=n, p=shares)
