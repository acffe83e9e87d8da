"""ε of a mechanism at δ; neighbours differ by one unit added or removed.

Two independent upper bounds are computed and the smaller one holds:

- PLD, privacy loss distributions (Meiser & Mohammadi 2018; Doroshenko et al. 2022, arXiv 2207.04380), rounded
  pessimistically to a grid that is the finer the more steps there are. Nearly always the tighter one.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
from dp_accounting import dp_event as dp
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from imgsynth.privacy.events import compose, event_from_json, event_to_json, histogram_event, pure_event, training_event

# Grid h of the PLD, in units of privacy loss. Any grid gives a valid bound: losses are moved so that ε can only grow. A
# loss between two points is split over them, which widens each of T steps by about h and their sum by about h√T. With
# h√T = ε/100 that is little beside the width of the sum, a fifth of ε or more: the pessimism is below 0.3 % of ε (1 %
# where ε is in the hundreds), measured against closed forms and finer grids at 10³ to 10⁶ steps. The other two bound
# memory and time: where _FINEST binds (one step's losses span about 20 at most), ε is so small that less than 0.01 is
# lost; _COARSEST is a share of ε.
_GRID, _FINEST, _COARSEST = 0.01, 5e-6, 1e-5
_SMALL_STEP = 1e-3  # a grid that is never too fine to afford
_HOPELESS = 1e5  # RDP ε beyond which no PLD is computed


def epsilon(event: dp.DpEvent, delta: float, orders: tuple[float, ...] | None = None) -> float:
    """The smallest of our valid upper bounds on ε of ``event`` at ``delta``; ∞ where there is no guarantee.

    ``orders``: Rényi orders to try, for a search in which time counts; None takes the accountant's own list.
    """
    return _bound_of_json(json.dumps(event_to_json(event)), delta, orders)  # refuses unknown events


def pld_epsilon(event: dp.DpEvent, delta: float, interval: float | None = None) -> float:
    """ε by privacy loss distributions on a grid of ``interval``; None chooses one that costs less than 1 % of ε."""
    if interval is None:
        interval = grid(_steps(event), rdp_epsilon(event, delta))
    accountant = PLDAccountant(value_discretization_interval=interval)
    accountant.compose(event)
    return float(accountant.get_epsilon(delta))


def pld_deltas(event: dp.DpEvent, epsilon_E: np.ndarray) -> np.ndarray:
    """[E] upper bounds on δ at each ε ≥ 0 of ``epsilon_E`` (ascending), for both directions of neighbourhood."""
    accountant = PLDAccountant(value_discretization_interval=grid(_steps(event), rdp_epsilon(event, 1e-5)))
    accountant.compose(event)
    return np.asarray(accountant.get_delta(epsilon_E), dtype=np.float64)


def rdp_epsilon(event: dp.DpEvent, delta: float, orders: tuple[float, ...] | None = None) -> float:
    """ε by Rényi differential privacy, the best of ``orders`` (None: the accountant's own list). Any order is valid."""
    accountant = RdpAccountant(orders)
    with _quiet():
        accountant.compose(_for_rdp(event))
        return float(accountant.get_epsilon(delta))


def mechanism(
    sampling_rate: float, noise_multiplier: float, steps: int, epsilon_for_histogram: float = 0.0,
    query_noise_multipliers: Sequence[float] = (), epsilon_for_selection: float = 0.0,
) -> dp.DpEvent:  # fmt: skip
    """Training, composed with queries of the whole cohort (one step at rate 1), label histogram and choice of weights,
    if any."""
    events = [training_event(sampling_rate, noise_multiplier, steps)]
    events += [training_event(1.0, sigma, 1) for sigma in query_noise_multipliers]
    if epsilon_for_histogram > 0:
        events.append(histogram_event(epsilon_for_histogram))
    if epsilon_for_selection > 0:
        events.append(pure_event(epsilon_for_selection))
    return compose(events)


def grid(steps: int, epsilon: float) -> float:
    """The grid for the PLD of ``steps`` mechanisms that together cost about ``epsilon``."""
    wanted = _GRID * epsilon / math.sqrt(max(steps, 1))
    return min(max(wanted, _FINEST), max(_SMALL_STEP, _COARSEST * epsilon))


@lru_cache(maxsize=4096)
def _bound_of_json(event_json: str, delta: float, orders: tuple[float, ...] | None) -> float:
    """min(RDP, PLD). The event comes as text because composed events hold lists, which no cache takes as a key."""
    event = event_from_json(json.loads(event_json))
    by_rdp = rdp_epsilon(event, delta, orders)
    if not by_rdp <= _HOPELESS:
        return by_rdp
    return min(by_rdp, pld_epsilon(event, delta, grid(_steps(event), by_rdp)))


def _steps(event: dp.DpEvent) -> int:
    """How many single mechanisms are composed in ``event``."""
    if isinstance(event, dp.ComposedDpEvent):
        return sum(_steps(part) for part in event.events)
    if isinstance(event, dp.SelfComposedDpEvent):
        return event.count * _steps(event.event)
    return 1


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
