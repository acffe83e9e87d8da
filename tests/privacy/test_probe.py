"""The ghost engine's comparison with the functional one, where a patient's gradient is not finite."""

import math

import pytest
import torch

from imgsynth.privacy.engines.base import Clipped
from imgsynth.privacy.engines.probe import alike


def clipped(*norms, total=1.0):
    return Clipped({"weight": torch.tensor([total])}, torch.tensor(norms), torch.zeros(len(norms)))


@pytest.mark.parametrize("lost", [math.inf, math.nan])
def test_patients_left_out_by_both_engines_are_no_disagreement(lost):
    """A run that diverges must not be told that its patients mix."""
    assert alike(clipped(2.0, lost, 0.5), clipped(2.0, lost, 0.5), 5.0, 1e-3)
    assert alike(clipped(lost, total=0.0), clipped(lost, total=0.0), 5.0, 1e-3)
    assert not alike(clipped(2.0, lost, 0.5), clipped(2.1, lost, 0.5), 5.0, 1e-3)
    assert not alike(clipped(2.0, lost, 0.5), clipped(2.0, lost, 0.5, total=1.1), 5.0, 1e-3)
    assert not alike(clipped(2.0, 3.0), clipped(2.0, lost), 5.0, 1e-3)
    assert not alike(clipped(2.0, lost), clipped(2.0, 3.0), 5.0, 1e-3)


def test_clipped_gradients_that_cancel_are_compared_by_their_length():
    """C - C is zero but for rounding, of which no relative error is asked."""
    assert alike(clipped(2.0, 2.0, total=1e-16), clipped(2.0, 2.0, total=0.0), 1.0, 1e-3)
    assert not alike(clipped(2.0, 2.0, total=1e-2), clipped(2.0, 2.0, total=0.0), 1.0, 1e-3)
