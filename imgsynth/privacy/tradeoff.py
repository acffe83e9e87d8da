"""The trade-off curve that a plan claims: f(α), the least false negative rate of any test with false positive rate α.

A mechanism that is (ε, δ(ε))-DP for every ε at once bounds every test by each of these pairs (Wasserman & Zhou 2010,
arXiv:0811.2501, theorem 2.4; Dong, Roth & Su 2019, arXiv:1905.02383, propositions 2.4 and 2.12):

    f(α) ≥ max{0, 1 − δ(ε) − e^ε α, e^{−ε}(1 − δ(ε) − α)}.

The maximum over finitely many ε, with upper bounds in the place of δ(ε), lies below the true curve: it claims less than
the accountant does, so a test that rejects it rejects the accountant's claim too. It is symmetric, as neighbours differ
by one unit added *or* removed.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from dp_accounting import dp_event as dp

from imgsynth.privacy import accounting
from imgsynth.privacy.events import event_from_json, event_to_json
from imgsynth.privacy.plan import PrivacyPlan

_POINTS = 2000
_HARDEST = 1e-13  # δ below which no more ε are tried
_STEEPEST = 12.0  # ε beyond which 1 − δ − e^ε α is left out: doubles cannot hold the difference; leaving out is safe


@dataclass(frozen=True, eq=False)
class TradeOff:
    """The maximum of 0 and of the pairs' lines. ``epsilon_E`` ≥ 0, ``delta_E`` [E]; with E = 0 nothing is claimed."""

    epsilon_E: np.ndarray
    delta_E: np.ndarray

    def fnr(self, fpr: np.ndarray | float) -> np.ndarray:
        """f: the least false negative rate at each false positive rate; the shape of ``fpr``."""
        alpha = np.asarray(fpr, dtype=np.float64)[..., None]
        steep = self.epsilon_E <= _STEEPEST
        left = 1 - self.delta_E[steep] - np.exp(self.epsilon_E[steep]) * alpha
        right = np.exp(-self.epsilon_E) * (1 - self.delta_E - alpha)
        return np.max(np.concatenate([left, right], axis=-1), axis=-1, initial=0.0)

    @cached_property
    def blow_up_inverse(self) -> Callable[[float], float]:
        """y ↦ f(1 − y): the least probability that an event of probability y can have without the unit.

        Fast for one number at a time: of the lines only those are kept that are the highest somewhere.
        """
        steep = self.epsilon_E <= _STEEPEST
        slope = np.concatenate([[0.0], np.exp(-self.epsilon_E), np.exp(self.epsilon_E[steep])])
        offset = np.concatenate([[0.0], -np.exp(-self.epsilon_E) * self.delta_E,
                                 1 - self.delta_E[steep] - np.exp(self.epsilon_E[steep])])  # fmt: skip
        slopes, offsets, starts = _upper_envelope(slope, offset)

        def inverse(y: float) -> float:
            line = bisect_right(starts, y) - 1
            return max(0.0, offsets[line] + slopes[line] * y)

        return inverse


def trade_off(plan: PrivacyPlan) -> TradeOff:
    """The curve of the plan's training and queries; what is no Gaussian mechanism, label histogram and choice of
    weights, is left out.

    Without noise nothing is claimed: the curve is 0.
    """
    if plan.mode == "none":
        return NOTHING_CLAIMED
    return trade_off_of(replace(plan, histogram_epsilon=0.0, selection=None).event())


def trade_off_of(event: dp.DpEvent) -> TradeOff:
    """The curve of any event that the accountant knows, by privacy loss distribution."""
    return _of_json(json.dumps(event_to_json(event)))


@lru_cache(maxsize=64)
def _of_json(event_json: str) -> TradeOff:
    """The event comes as text because composed events hold lists, which no cache takes as a key."""
    event = event_from_json(json.loads(event_json))
    widest = accounting.rdp_epsilon(event, _HARDEST)
    if not math.isfinite(widest):
        return NOTHING_CLAIMED
    epsilon_E = np.linspace(0.0, widest, _POINTS)
    return TradeOff(epsilon_E, accounting.pld_deltas(event, epsilon_E))


def _upper_envelope(slope_L: np.ndarray, offset_L: np.ndarray) -> tuple[list[float], list[float], list[float]]:
    """Of L lines those that are the maximum somewhere on y ≥ 0, by ascending slope.

    Returns their slopes, offsets, and the y at which each begins.
    """
    kept: list[tuple[float, float, float]] = []
    order = np.lexsort((offset_L, slope_L))
    for slope, offset in zip(slope_L[order].tolist(), offset_L[order].tolist(), strict=True):
        start = 0.0
        while kept:
            flatter, height, since = kept[-1]
            if slope > flatter:
                start = (height - offset) / (slope - flatter)
                if start > since:
                    break
            kept.pop()  # the new line is above it from where it begins
            start = 0.0
        kept.append((slope, offset, max(start, 0.0)))
    slopes, offsets, starts = (list(column) for column in zip(*kept, strict=True))
    return slopes, offsets, starts


NOTHING_CLAIMED = TradeOff(np.zeros(0), np.zeros(0))
