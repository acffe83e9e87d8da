"""The one-run lower bound on ε (Steinke, Nasr and Jagielski 2023, arXiv 2305.08846, Theorem 5.2)."""

from __future__ import annotations

import numpy as np
from scipy.stats import binom


def steinke_p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """P[this many of the guesses are correct] at most, of any (ε, δ)-private mechanism."""
    q = 1 / (1 + np.exp(-epsilon))
    below = binom.cdf(np.arange(-1, correct), guesses, q)
    i = np.arange(1, correct + 1)
    spread = ((below[correct] - below[correct - i]) / i).max(initial=0.0)
    return float(min(1.0, binom.sf(correct - 1, guesses, q) + 2 * canaries * delta * spread))


def steinke_bound(canaries: int, guesses: int, correct: int, delta: float, alpha: float) -> float:
    """The largest ε that is refuted at level α; 0 where none is."""
    low, high = 0.0, 60.0
    if steinke_p_value(canaries, guesses, correct, low, delta) > alpha:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        refuted = steinke_p_value(canaries, guesses, correct, middle, delta) <= alpha
        low, high = (middle, high) if refuted else (low, middle)
    return low
