"""The noise that a target ε needs, handed out as the plan that it belongs to and never as a loose number."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from scipy.optimize import brentq
from scipy.stats import norm

from imgsynth.privacy import accounting
from imgsynth.types import Fault, InputError

if TYPE_CHECKING:
    from imgsynth.privacy.plan import PrivacyPlan

_PRECISION = 3e-4  # of log σ
# For the search: some of the accountant's own orders, so that what they prove the full list proves too.
_FEW_ORDERS = (1.2, 1.5, 1.8, 2.2, 2.5, 2.8, 3.5, 4.5, *range(2, 64), 128, 256, 512)


def calibrated(plan: PrivacyPlan, target_epsilon: float) -> PrivacyPlan:
    """``plan`` with the smallest noise multiplier σ (to 0.1%) at which all that it does costs at most the target.

    The σ that ``plan`` comes with is ignored. ε is that of ``plan.event()``, so that whatever else the plan does to the
    cohort (a label histogram, say) is paid out of the same target.

    Formal guarantee: ``calibrated(plan, target).epsilon <= target``.
    Raises InputError when no noise reaches the target, as when the histogram alone uses it up.
    """

    def with_noise(log_sigma: float) -> PrivacyPlan:
        return replace(plan, noise_multiplier=math.exp(log_sigma))

    def excess(log_sigma: float) -> float:
        """log(ε/target), negative when σ is enough. ε is nearly a power of σ, so that few steps find the root."""
        found = accounting.epsilon(with_noise(log_sigma).event(), plan.delta, _FEW_ORDERS)
        return math.log(min(max(found, 1e-9), 1e9) / target_epsilon)

    step = math.log(2)
    high = 0.0
    while excess(high) > 0:
        high += step
        if high > math.log(1e6):
            raise _unreachable(target_epsilon, plan)
    while high > math.log(0.01) and excess(high - step) <= 0:
        high -= step
    root = high if excess(high - step) <= 0 else brentq(excess, high - step, high, xtol=_PRECISION)
    while (found := with_noise(root)).epsilon > target_epsilon:  # brentq may end on the wrong side, by its precision
        root += _PRECISION
    return found


def gaussian_noise(epsilon: float, delta: float) -> float:
    """The smallest σ (to 10⁻⁶) at which one Gaussian mechanism of sensitivity 1 is (ε, δ)-differentially private.

    Balle & Wang 2018, "Improving the Gaussian Mechanism" (arXiv 1805.06530), Theorem 8: it is exactly where
    Φ(1/(2σ) − εσ) − e^ε Φ(−1/(2σ) − εσ) ≤ δ. Beyond ε = 1000, which protects nobody, σ is that of 1000.
    """
    epsilon = min(epsilon, 1000.0)

    def excess(log_sigma: float) -> float:
        sigma = math.exp(log_sigma)
        above, below = norm.logcdf([1 / (2 * sigma) - epsilon * sigma, -1 / (2 * sigma) - epsilon * sigma])
        return float(math.exp(above) - math.exp(min(epsilon + below, above)) - delta)

    return math.exp(brentq(excess, math.log(1e-3), math.log(1e9), xtol=1e-7)) * (1 + 1e-6)


def _unreachable(target: float, plan: PrivacyPlan) -> InputError:
    beside = f"the histogram using {plan.histogram_epsilon:g}"
    if plan.queries:
        beside += f", {len(plan.queries)} queries with a noise multiplier of {plan.queries[0].noise_multiplier:.3g}"
    if plan.selection is not None and plan.selection.epsilon > 0:
        beside += f", the choice of weights {plan.selection.epsilon:g}"
    return InputError(
        Fault(
            where="privacy.epsilon",
            got=f"{target:g} for training and all beside it together, {beside}",
            expected="an ε that some noise can reach",
            remedy="raise privacy.epsilon, lower sample.histogram_epsilon or privacy.query_share, or take fewer steps "
            "or a lower rate",
        )
    )
