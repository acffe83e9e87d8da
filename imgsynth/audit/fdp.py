"""Is the *claimed trade-off curve* compatible with what was guessed? (Mahloujifar et al. 2024, arXiv:2410.22235).

m canaries, each included by a secret fair coin; c′ of the coins are guessed, c guesses are right. Algorithm 3 bounds
the probability that a mechanism with trade-off curve f lets c or more of c′ be right. A small p-value says that the
mechanism is not what the accountant claims. Unlike an ε it uses the whole curve, and so rejects earlier than the
(ε, δ)-test of ``one_run`` at the same guesses; it bounds no ε.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq

from imgsynth.audit.one_run import Guesses
from imgsynth.privacy.tradeoff import TradeOff

SMALLEST_P = 1e-12  # smaller ones are reported as this

BlowUpInverse = Callable[[float], float]  # y ↦ f(1 − y); increasing, convex, 0 at 0


def fdp_p_value(guesses: Guesses, claimed: TradeOff) -> float:
    """p-value of the claim that the mechanism's trade-off curve is ``claimed``; 1 where nothing is claimed.

    Valid for every m; sharper where m is large. The same conditions hold as in ``one_run``: fair independent coins, and
    numbers of guesses that were fixed before the coins were known.
    """
    inverse = claimed.blow_up_inverse

    def excess(log_level: float) -> float:
        return excess_at(guesses, inverse, math.exp(log_level))

    lowest = math.log(SMALLEST_P)
    if guesses.correct == 0 or excess(0.0) <= 0:
        return 1.0
    if excess(lowest) > 0:
        return SMALLEST_P
    return min(1.0, math.exp(brentq(excess, lowest, 0.0, xtol=1e-9)))


def excess_at(guesses: Guesses, inverse: BlowUpInverse, level: float) -> float:
    """r₀ + h₀ − c′/m of algorithm 3 (for two answers, k = 2); above 0: f is rejected at ``level`` τ.

    r_i and h_i bound the shares of probability on which exactly the i-th guess is right and wrong, going down from c.
    """
    m, guessed, correct = guesses.canaries, guesses.guessed, guesses.correct
    r = level * correct / m
    h = level * (guessed - correct) / m
    for i in range(correct - 1, -1, -1):
        next_h = inverse(r)
        if next_h <= h:
            break  # r stays too, and so does everything below
        r = min(1.0, r + i / (guessed - i) * (next_h - h))
        h = next_h
    return r + h - guessed / m
