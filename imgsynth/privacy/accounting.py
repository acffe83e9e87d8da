"""ε of a mechanism at δ, and the noise that reaches a wanted ε; neighbours differ by one unit added or removed.

Two independent upper bounds are computed and the smaller one holds:

- PLD, privacy loss distributions (Meiser & Mohammadi 2018; Doroshenko et al. 2022, arXiv 2207.04380), rounded
  pessimistically to a grid. Usually tighter; with many steps of tiny loss the rounding adds up and RDP can win.
- RDP, Rényi divergences (Mironov 2017, arXiv 1702.07476; subsampled Gaussian: Mironov et al. 2019, arXiv 1908.10530;
  conversion: Canonne et al. 2020, arXiv 2004.00010, Proposition 12).

| case                            | ε                                       |
|---------------------------------|-----------------------------------------|
| a non-private event, or σ = 0   | ∞                                       |
| nothing was run (NoOp)          | 0                                       |
| an event we do not know         | InputError, never a guess               |
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from dp_accounting import dp_event as dp
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from imgsynth.privacy.events import compose, event_from_json, event_to_json, histogram_event, training_event
from imgsynth.types import Fault, InputError

_FINE = 1e-4  # PLD grid, in units of privacy loss
_COARSE = 1e-3  # used while searching, for few steps; still a valid upper bound
_MANY_STEPS = 3000  # beyond, the coarse grid costs more than a few percent of ε
_HOPELESS = 100.0  # RDP ε beyond which the PLD is not computed: it would be as meaningless, and huge in memory


def epsilon(event: dp.DpEvent, delta: float) -> float:
    """The smallest of our valid upper bounds on ε of ``event`` at ``delta``; ∞ where there is no guarantee."""
    return _bound(event, delta, _FINE)


def pld_epsilon(event: dp.DpEvent, delta: float, interval: float = _FINE) -> float:
    """ε by privacy loss distributions, rounded up to the next multiple of ``interval`` at every step."""
    accountant = PLDAccountant(value_discretization_interval=interval)
    accountant.compose(event)
    return float(accountant.get_epsilon(delta))


def rdp_epsilon(event: dp.DpEvent, delta: float) -> float:
    """ε by Rényi differential privacy."""
    accountant = RdpAccountant()
    with _quiet():
        accountant.compose(_for_rdp(event))
        return float(accountant.get_epsilon(delta))


def calibrate_noise(
    target_epsilon: float, delta: float, sampling_rate: float, steps: int, epsilon_for_histogram: float = 0.0
) -> float:
    """The smallest noise multiplier σ (to 0.1%) for which training and label histogram together cost at most ε.

    Formal guarantee: ``epsilon(compose([training_event(rate, σ, steps), histogram]), delta) <= target_epsilon``.
    Raises InputError when no noise reaches the target, as when the histogram alone uses it up.
    """
    interval = _COARSE if steps <= _MANY_STEPS else _FINE

    def cost(sigma: float) -> float:
        return _bound(mechanism(sampling_rate, sigma, steps, epsilon_for_histogram), delta, interval)

    high = 1.0
    while cost(high) > target_epsilon:
        high *= 2
        if high > 1e6:
            raise _unreachable(target_epsilon, epsilon_for_histogram)
    low = high / 2
    while low > 0.01 and cost(low) <= target_epsilon:
        low, high = low / 2, low
    while high / low > 1.001:  # invariant: cost(high) <= target; ε falls as σ rises
        middle = math.sqrt(low * high)
        if cost(middle) <= target_epsilon:
            high = middle
        else:
            low = middle
    return high


def mechanism(
    sampling_rate: float, noise_multiplier: float, steps: int, epsilon_for_histogram: float = 0.0
) -> dp.DpEvent:
    """Training, composed with the label histogram when there is one."""
    events = [training_event(sampling_rate, noise_multiplier, steps)]
    if epsilon_for_histogram > 0:
        events.append(histogram_event(epsilon_for_histogram))
    return compose(events)


def _bound(event: dp.DpEvent, delta: float, interval: float) -> float:
    return _bound_of_json(json.dumps(event_to_json(event)), delta, interval)  # refuses unknown events


@lru_cache(maxsize=4096)
def _bound_of_json(event_json: str, delta: float, interval: float) -> float:
    """min(RDP, PLD). The event comes as text because composed events hold lists, which no cache takes as a key."""
    event = event_from_json(json.loads(event_json))
    by_rdp = rdp_epsilon(event, delta)
    if not by_rdp <= _HOPELESS:
        return by_rdp
    return min(by_rdp, pld_epsilon(event, delta, interval))


def _for_rdp(event: dp.DpEvent) -> dp.DpEvent:
    """Discrete Laplace in terms that the RDP accountant knows.

    An ε-DP mechanism is (α, αε²/2)-RDP for every α (Bun & Steinke 2016, arXiv 1605.02658, Proposition 1.4), which is
    the RDP curve of Gaussian noise with multiplier 1/ε.
    """
    if isinstance(event, dp.DiscreteLaplaceDpEvent):
        return dp.GaussianDpEvent(1.0 / (event.noise_parameter * event.sensitivity))
    if isinstance(event, dp.ComposedDpEvent):
        return dp.ComposedDpEvent([_for_rdp(part) for part in event.events])
    if isinstance(event, dp.SelfComposedDpEvent):
        return dp.SelfComposedDpEvent(_for_rdp(event.event), event.count)
    return event


@contextmanager
def _quiet() -> Iterator[None]:
    """dp-accounting warns of every Rényi order that it leaves out for numerical reasons; leaving one out is safe."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _unreachable(target: float, histogram: float) -> InputError:
    return InputError(
        Fault(
            where="privacy.epsilon",
            got=f"{target:g} for training and label histogram together, the histogram using {histogram:g}",
            expected="an ε that some noise can reach",
            remedy="raise privacy.epsilon, lower sample.histogram_epsilon, or take fewer steps or a lower rate",
        )
    )
