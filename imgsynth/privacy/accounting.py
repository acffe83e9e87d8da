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
from scipy.optimize import brentq

from imgsynth.privacy.events import compose, event_from_json, event_to_json, histogram_event, training_event
from imgsynth.types import Fault, InputError

# Grid of the PLD, in units of privacy loss. Any is a valid bound; the coarse one costs time and memory of a tenth, and
# up to about 0.003 of ε at 3000 steps.
_FINE, _COARSE, _MANY_STEPS = 1e-4, 1e-3, 3000
_PRECISION = 3e-4  # of log σ
# For the search: some of the accountant's own orders, so that what they prove the full list proves too.
_FEW_ORDERS = (1.2, 1.5, 1.8, 2.2, 2.5, 2.8, 3.5, 4.5, *range(2, 64), 128, 256, 512)
_HOPELESS = 100.0  # RDP ε beyond which the PLD is not computed: it would be as meaningless, and huge in memory


def epsilon(event: dp.DpEvent, delta: float) -> float:
    """The smallest of our valid upper bounds on ε of ``event`` at ``delta``; ∞ where there is no guarantee."""
    return _bound(event, delta, None)


def pld_epsilon(event: dp.DpEvent, delta: float, interval: float = _FINE) -> float:
    """ε by privacy loss distributions, rounded up to the next multiple of ``interval`` at every step."""
    accountant = PLDAccountant(value_discretization_interval=interval)
    accountant.compose(event)
    return float(accountant.get_epsilon(delta))


def rdp_epsilon(event: dp.DpEvent, delta: float, orders: tuple[float, ...] | None = None) -> float:
    """ε by Rényi differential privacy, the best of ``orders`` (None: the accountant's own list). Any order is valid."""
    accountant = RdpAccountant(orders)
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

    def excess(log_sigma: float) -> float:
        """log(ε/target), negative when σ is enough. ε is nearly a power of σ, so that few steps find the root."""
        event = mechanism(sampling_rate, math.exp(log_sigma), steps, epsilon_for_histogram)
        return math.log(min(max(_bound(event, delta, _FEW_ORDERS), 1e-9), 1e9) / target_epsilon)

    step = math.log(2)
    high = 0.0
    while excess(high) > 0:
        high += step
        if high > math.log(1e6):
            raise _unreachable(target_epsilon, epsilon_for_histogram)
    while high > math.log(0.01) and excess(high - step) <= 0:
        high -= step
    root = high if excess(high - step) <= 0 else brentq(excess, high - step, high, xtol=_PRECISION)
    while excess(root) > 0:  # brentq may end on the wrong side, by less than its precision
        root += _PRECISION
    return math.exp(root)


def mechanism(
    sampling_rate: float, noise_multiplier: float, steps: int, epsilon_for_histogram: float = 0.0
) -> dp.DpEvent:
    """Training, composed with the label histogram when there is one."""
    events = [training_event(sampling_rate, noise_multiplier, steps)]
    if epsilon_for_histogram > 0:
        events.append(histogram_event(epsilon_for_histogram))
    return compose(events)


def _bound(event: dp.DpEvent, delta: float, orders: tuple[float, ...] | None) -> float:
    return _bound_of_json(json.dumps(event_to_json(event)), delta, orders)  # refuses unknown events


@lru_cache(maxsize=4096)
def _bound_of_json(event_json: str, delta: float, orders: tuple[float, ...] | None) -> float:
    """min(RDP, PLD). The event comes as text because composed events hold lists, which no cache takes as a key."""
    event = event_from_json(json.loads(event_json))
    by_rdp = rdp_epsilon(event, delta, orders)
    if not by_rdp <= _HOPELESS:
        return by_rdp
    interval = _COARSE if _steps(event) <= _MANY_STEPS else _FINE
    return min(by_rdp, pld_epsilon(event, delta, interval))


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


def _unreachable(target: float, histogram: float) -> InputError:
    return InputError(
        Fault(
            where="privacy.epsilon",
            got=f"{target:g} for training and label histogram together, the histogram using {histogram:g}",
            expected="an ε that some noise can reach",
            remedy="raise privacy.epsilon, lower sample.histogram_epsilon, or take fewer steps or a lower rate",
        )
    )
