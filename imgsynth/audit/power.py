"""What could an audit of this size have seen? Ceilings and the smallest effects that show with a power of 80 %.

An audit that finds nothing says something only about leaks at least this large. All numbers here follow from the counts
of patients, α and δ alone: they are known before the audit starts.

| number                   | the smallest … that 80 % of audits of this size would show                               |
|--------------------------|------------------------------------------------------------------------------------------|
| ``auc``                  | true AUC, by an interval (Newcombe's) that lies above one half                           |
| ``tpr_at_1_percent_fpr`` | true TPR of a test with a true FPR of 1 %, by ε_LB > 0 at a threshold fixed before       |
| ``epsilon``              | ε of a mechanism that leaks all of it to the best test (coin flips), by ε_LB > 0         |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binom, norm

from imgsynth.audit.epsilon import ceiling, upper_bounds
from imgsynth.audit.one_run import epsilon_one_run
from imgsynth.audit.roc import auc_variance
from imgsynth.release.rounding import fixed_down, fixed_up

POWER = 0.8
_SURE = 30.0  # an ε at which randomised response makes no error among any number of patients


@dataclass(frozen=True)
class Power:
    """Of an attack on ``n_members`` and ``n_nonmembers`` patients. None: nothing, however large, would show."""

    n_members: int
    n_nonmembers: int
    counted_members: int  # patients that errors are counted on: all but those that the threshold was chosen on
    counted_nonmembers: int
    ceiling: float  # of ε_LB: the bound from an attack without error
    auc: float | None
    tpr_at_1_percent_fpr: float | None
    epsilon: float | None
    power: float = POWER

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"sentence": self.sentence()}

    def sentence(self) -> str:
        """For the terminal and the report: the ceiling rounded down, what would show rounded up."""
        who = f"With {self.n_members} members and {self.n_nonmembers} non-members"
        if (self.counted_members, self.counted_nonmembers) != (self.n_members, self.n_nonmembers):
            who += f" ({self.counted_members} and {self.counted_nonmembers} of them for errors at a threshold)"
        most = f"the most that could be certified is ε ≥ {fixed_down(self.ceiling)}."
        if self.epsilon is None or self.auc is None:
            return f"{who} no attack, however good, would show a leak in {100 * self.power:.0f} % of audits; {most}"
        rate = "–" if self.tpr_at_1_percent_fpr is None else fixed_up(100 * self.tpr_at_1_percent_fpr, 1)
        shown = f"an AUC of {fixed_up(self.auc, 3)}, {rate} % of members found at 1 % false alarms, or ε = "
        return (
            f"{who}, {100 * self.power:.0f} % of audits would show {shown}{fixed_up(self.epsilon)} leaked in full, and "
            f"what is smaller less often; {most}"
        )


def power_of(n_members: int, n_nonmembers: int, alpha: float, delta: float, split: bool = False) -> Power:
    """The ceiling and the smallest effects. ``split``: the threshold is chosen on half of the patients."""
    members = n_members - n_members // 2 if split else n_members
    nonmembers = n_nonmembers - n_nonmembers // 2 if split else n_nonmembers
    shown = detector(members, nonmembers, alpha, delta)
    return Power(
        n_members,
        n_nonmembers,
        members,
        nonmembers,
        ceiling(members, nonmembers, alpha, delta),
        smallest_auc(n_members, n_nonmembers, alpha),
        _smallest(lambda tpr: shown(tpr, 0.01), 0.01, 1.0),
        _smallest(lambda epsilon: shown(float(expit(epsilon)), float(expit(-epsilon))), 0.0, _SURE),
    )


def smallest_auc(n_members: int, n_nonmembers: int, alpha: float) -> float | None:
    """The interval lies above one half iff (AUC − ½)² > z² V(½); AUC about normal with variance V(true AUC)."""
    if min(n_members, n_nonmembers) < 1:
        return None
    z = norm.ppf(1 - alpha / 2)
    critical = 0.5 + z * math.sqrt(auc_variance(0.5, n_members, n_nonmembers))

    def chance(area: float) -> float:
        return float(norm.sf((critical - area) / math.sqrt(max(auc_variance(area, n_members, n_nonmembers), 1e-18))))

    return None if critical >= 1 else _smallest(chance, 0.5, 1.0)


def detector(n_members: int, n_nonmembers: int, alpha: float, delta: float) -> Callable[[float, float], float]:
    """(true TPR, true FPR) ↦ P[ε_LB > 0] at a threshold fixed beforehand, by summing over all pairs of counts."""
    fpr_Q = upper_bounds(np.arange(n_nonmembers + 1), n_nonmembers, alpha) if n_nonmembers else np.ones(1)
    fnr_P = upper_bounds(np.arange(n_members + 1), n_members, alpha) if n_members else np.ones(1)
    # With a_Q false positives ε_LB > 0 iff FNR⁺ < 1 − δ − FPR⁺: false negatives up to this many (−1: never).
    allowed_Q = np.searchsorted(fnr_P, 1 - delta - fpr_Q, side="left") - 1

    def chance(tpr: float, fpr: float) -> float:
        weight_Q = binom.pmf(np.arange(n_nonmembers + 1), n_nonmembers, fpr)
        return float(weight_Q @ binom.cdf(allowed_Q, n_members, 1 - tpr))

    return chance


def false_alarms(n_members: int, n_nonmembers: int, alpha: float, delta: float) -> float:
    """P[ε_LB > 0] of an attack that sees nothing, at the rate of calling people members at which it is largest; the
    threshold is chosen on half of the patients. Clopper and Pearson guarantee α; of 5 % it takes less than 1 %."""
    shown = detector(n_members - n_members // 2, n_nonmembers - n_nonmembers // 2, alpha, delta)
    return max(shown(rate, rate) for rate in np.linspace(0, 1, 201).tolist())


def smallest_epsilon_of_canaries(canaries: int, guessed: int, alpha: float, delta: float) -> float | None:
    """The smallest ε of a mechanism that leaks all of it about each of r guessed canaries (randomised response) whose
    one-run bound is above 0 with a power of 80 %."""
    counts = range(guessed // 2, guessed + 1)
    enough = next((v for v in counts if epsilon_one_run(canaries, guessed, v, alpha, delta) > 0), None)
    if enough is None:
        return None
    return _smallest(lambda epsilon: float(binom.sf(enough - 1, guessed, expit(epsilon))), 0.0, _SURE)


def _smallest(chance: Callable[[float], float], low: float, high: float) -> float | None:
    """Where the increasing ``chance`` reaches POWER; None if nowhere."""
    if chance(high) < POWER:
        return None
    return low if chance(low) >= POWER else float(brentq(lambda x: chance(x) - POWER, low, high, xtol=1e-6))
