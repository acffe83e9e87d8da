"""The most that any membership test can achieve against a plan: what its (ε, δ) mean, all of them at once."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from dp_accounting.pld import PLDAccountant

from imgsynth.privacy.plan import PrivacyPlan

FALSE_ALARM_RATES = (0.001, 0.01, 0.1)
_INTERVAL = 1e-3  # of the discretised privacy loss, rounded pessimistically: coarser is faster, looser and still valid
_LARGEST_EPSILON = 100.0  # beyond, the bound is 1 to all digits and the distribution would fill the memory


@lru_cache(maxsize=64)
def members_found_at_most(plan: PrivacyPlan) -> dict[float, float]:
    """For each of FALSE_ALARM_RATES, the largest true positive rate of any test, whatever its author knows.

    The mechanism is (ε', δ(ε'))-DP for every ε' at once, and each pair bounds every test by
    TPR ≤ e^ε'·FPR + δ(ε') (Wasserman and Zhou 2010, arXiv 0811.2501, theorem 2.4): the smallest of these holds.
    δ(ε') is by privacy loss distribution, an upper bound for both directions of neighbourhood. 1.0 says nothing.
    """
    if not math.isfinite(plan.epsilon) or plan.epsilon > _LARGEST_EPSILON:
        return dict.fromkeys(FALSE_ALARM_RATES, 1.0)
    accountant = PLDAccountant(value_discretization_interval=_INTERVAL)
    accountant.compose(plan.event())
    epsilons = np.arange(0.0, min(plan.epsilon, math.log(1 / min(FALSE_ALARM_RATES))) + 0.1, 0.1)
    pairs = [(epsilon, float(accountant.get_delta(epsilon))) for epsilon in epsilons] + [(plan.epsilon, plan.delta)]
    return {
        rate: min(1.0, *(math.exp(epsilon) * rate + delta for epsilon, delta in pairs)) for rate in FALSE_ALARM_RATES
    }
