"""Evaluations in seconds, for tests that do not ask what a classifier learns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from imgsynth.evaluate import dp_classifier, segmentation
from imgsynth.measure import small_cnn


@contextmanager
def brief_trainings() -> Iterator[None]:
    """Every network that an evaluation trains is trained for a few steps; all else is done as ever."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (small_cnn, dp_classifier, segmentation):
            patch.setattr(module, "STEPS", 4)
        yield
