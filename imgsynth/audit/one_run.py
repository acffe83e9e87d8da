"""A lower bound on ε from many canaries in one training run (Steinke, Nasr & Jagielski 2023, arXiv:2305.08846).

m canaries were each included by a secret fair coin of its own. The auditor guesses r of the coins and abstains from the
others; v guesses are right. If the mechanism is (ε, δ)-DP, then by theorem 5.2

    P[V ≥ v] ≤ P[X ≥ v] + 2mδ · max_{1≤i≤v} (P[X ≥ v − i] − P[X ≥ v]) / i,   X ~ Bin(r, e^ε/(1 + e^ε)).

The right-hand side is a p-value for the claim (ε, δ); the bound is the supremum of the ε whose claims are rejected.

| case                                                  | what follows                                          |
|-------------------------------------------------------|-------------------------------------------------------|
| coins not fair or not independent (equal halves, say) | the theorem does not hold: not for this file          |
| r tuned on the true coins                             | no p-value; the tests show how often it is wrong      |
| equal scores                                          | ordered by a coin of our own, never by their place    |
| r = 0, or v ≤ r/2                                     | bound 0                                               |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaincinv, expit
from scipy.stats import binom

LARGEST_EPSILON = 100.0  # no count of canaries that fits in memory certifies as much


@dataclass(frozen=True)
class Guesses:
    """What came of guessing: of ``canaries`` m, ``guessed`` r, of which ``correct`` v."""

    canaries: int
    guessed: int
    correct: int


@dataclass(frozen=True)
class OneRunBound:
    """``epsilon``: the mechanism is not below it, with confidence 1 − α. ``ceiling``: had every guess been right."""

    epsilon: float
    ceiling: float
    guesses: Guesses
    alpha: float
    delta: float

    @staticmethod
    def of(guesses: Guesses, alpha: float, delta: float) -> OneRunBound:
        m, r, v = guesses.canaries, guesses.guessed, guesses.correct
        return OneRunBound(
            epsilon_one_run(m, r, v, alpha, delta), epsilon_one_run(m, r, r, alpha, delta), guesses, alpha, delta
        )


def guess(
    score_M: np.ndarray, included_M: np.ndarray, guess_in: int, guess_out: int, random: np.random.Generator
) -> Guesses:
    """Call the ``guess_in`` highest scores included and the ``guess_out`` lowest excluded; abstain from the rest.

    Both numbers must be fixed before ``included_M`` is known to whoever fixes them.

    Shapes: ``score_M`` [M], the higher the more likely included; ``included_M`` [M] bool, the coins.

    Raises:
        ValueError: if that is more guesses than canaries.
    """
    m = len(score_M)
    if guess_in + guess_out > m:
        raise ValueError(f"{guess_in} + {guess_out} guesses on {m} canaries")
    order_M = np.lexsort((random.random(m), score_M))  # ascending; ties by a coin, as places may tell the truth
    called_out, called_in = order_M[:guess_out], order_M[m - guess_in :]
    correct = int(included_M[called_in].sum() + (~included_M[called_out]).sum())
    return Guesses(m, guess_in + guess_out, correct)


def one_run_p_value(canaries: int, guessed: int, correct: int, epsilon: float, delta: float) -> float:
    """p-value of the claim that the mechanism is (ε, δ)-DP."""
    q = float(expit(epsilon))
    tail = float(binom.sf(correct - 1, guessed, q))
    if delta == 0 or correct == 0:
        return min(1.0, tail)
    i = np.arange(1, correct + 1)
    slack = float(np.max((binom.sf(correct - i - 1, guessed, q) - tail) / i))
    return min(1.0, tail + 2 * canaries * delta * slack)


def epsilon_one_run(canaries: int, guessed: int, correct: int, alpha: float, delta: float) -> float:
    """sup{ε: p(ε) ≤ α}, 0 where there is none. For δ = 0 it has a closed form, logit of the binomial lower bound."""
    if guessed == 0 or 2 * correct <= guessed:
        return 0.0
    highest = _logit(float(betaincinv(correct, guessed - correct + 1, alpha)))  # δ > 0 can only bring it down
    if highest <= 0:
        return 0.0
    if delta == 0:
        return highest

    def excess(epsilon: float) -> float:
        return one_run_p_value(canaries, guessed, correct, epsilon, delta) - alpha

    return 0.0 if excess(0.0) > 0 else float(brentq(excess, 0.0, min(highest, LARGEST_EPSILON) + 1e-6, xtol=1e-10))


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
