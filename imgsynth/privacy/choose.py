"""Choosing one of several candidates by votes of the patients, each of whom has one: two exact mechanisms.

Both are ε-differentially private for adding or removing one patient, without the factor 2 that scores in general need:
a patient who comes raises one count by 1 and lowers none (the scores are monotonic, of sensitivity 1).

``exponential``, the exponential mechanism (McSherry & Talwar 2007, FOCS): P(j) = e^(ε h_j) / Σ_i e^(ε h_i). One
more vote for k multiplies the numerator of k alone by e^ε, and the sum by something between 1 and e^ε.

``noisy_max``, report noisy max with exponential noise: the largest h_j + E_j, with E_j of density ε e^(-ε x), x ≥ 0.
Given the others' noise, j wins where E_j exceeds some a; P(E_j > a) = min(1, e^(-ε a)). One more vote for j lowers its
a by 1, one for another raises it by at most 1: either way by a factor between e^-ε and e^ε. It is drawn as
permute-and-flip (McKenna & Sheldon 2020, arXiv 2010.12603, Algorithm 1), which has the same distribution (Ding, Kifer,
Steinke et al. 2021, arXiv 2105.07260). At the same ε it is never expected to lose more votes than ``exponential``.

Counts are integers and ε is taken as the fraction that its double is, so that every coin is exact: no floating-point
number is drawn, rounded or compared. How long it takes depends on the counts and is not hidden.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

from imgsynth.privacy.histogram import bernoulli_exp
from imgsynth.privacy.noise import seed_for
from imgsynth.privacy.selection import Selection


def choose(selection: Selection, votes_J: Sequence[int], mode: str, seed: int | None = None) -> int:
    """The place of the chosen candidate, by the plan's rule. ``mode`` "none", and public votes, have no noise.

    ``seed`` makes it repeatable, for tests; not releasable.
    """
    if not selection.charged or mode == "none":
        return most(votes_J)
    coins = random.SystemRandom() if seed is None else random.Random(seed_for("selection", seed))
    mechanism = {"noisy_max": noisy_max, "exponential": exponential}[selection.rule]
    return mechanism(votes_J, Fraction(selection.epsilon), coins)


def most(votes_J: Sequence[int]) -> int:
    """The place of the most votes; of several the last. No privacy."""
    return max(range(len(votes_J)), key=lambda place: (votes_J[place], place))


def noisy_max(votes_J: Sequence[int], epsilon: Fraction, coins: random.Random) -> int:
    """The candidates in random order; each is taken with probability e^(-ε (h* - h_j)), h* being the most votes."""
    _refuse(votes_J, epsilon)
    left, best = list(range(len(votes_J))), max(votes_J)
    while True:  # the one with the most votes is taken when its turn comes
        place = left.pop(coins.randrange(len(left)))
        if bernoulli_exp(epsilon * (best - votes_J[place]), coins):
            return place


def exponential(votes_J: Sequence[int], epsilon: Fraction, coins: random.Random) -> int:
    """A candidate at random, taken with probability e^(-ε (h* - h_j)), else another draw of all: by rejection."""
    _refuse(votes_J, epsilon)
    best = max(votes_J)
    while True:
        place = coins.randrange(len(votes_J))
        if bernoulli_exp(epsilon * (best - votes_J[place]), coins):
            return place


def _refuse(votes_J: Sequence[int], epsilon: Fraction) -> None:
    if not votes_J or epsilon <= 0 or any(not isinstance(votes, int) or votes < 0 for votes in votes_J):
        raise ValueError(f"Expected counts of votes and an ε above 0, got {list(votes_J)} and {epsilon}.")
