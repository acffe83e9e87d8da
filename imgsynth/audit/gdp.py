"""ε if the mechanism were Gaussian: often closer to the truth than a valid bound, and no bound (Nasr et al. 2023,
arXiv:2302.07956).

It assumes that the mechanism's trade-off curve is that of a Gaussian, G_μ (Dong, Roth & Su 2019, arXiv:1905.02383). A
mechanism that is not Gaussian may get a number above its true ε: pure randomised response with ε = 1 gets 1.65. So the
number comes only inside an object that holds the valid bound too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

from imgsynth.audit.epsilon import EpsilonBound
from imgsynth.audit.fdp import excess_at
from imgsynth.audit.one_run import Guesses, OneRunBound
from imgsynth.measure.resampling import clopper_pearson

_LARGEST_MU = 40.0


@dataclass(frozen=True)
class WithGaussian:
    """A valid bound, and beside it ε under the Gaussian hypothesis, from the same errors or guesses, α and δ > 0."""

    valid: EpsilonBound | OneRunBound
    epsilon_under_gaussian_hypothesis: float

    @staticmethod
    def of(bound: EpsilonBound | OneRunBound) -> WithGaussian:
        """Raises ValueError for δ = 0, at which no Gaussian mechanism has a finite ε."""
        if not bound.delta > 0:
            raise ValueError("under the Gaussian hypothesis ε is finite for δ > 0 only")
        mu = _mu_of_guesses(bound.guesses, bound.alpha) if isinstance(bound, OneRunBound) else _mu_of_errors(bound)
        return WithGaussian(bound, epsilon_of_gaussian(mu, bound.delta))


def epsilon_of_gaussian(mu: float, delta: float) -> float:
    """ε of μ-GDP at ``delta`` > 0: the root of δ = Φ(−ε/μ + μ/2) − e^ε Φ(−ε/μ − μ/2) (corollary 2.13); 0 if none."""

    def excess(epsilon: float) -> float:
        return float(ndtr(-epsilon / mu + mu / 2) - math.exp(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)))) - delta

    if mu <= 0 or excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-10))


def _mu_of_errors(bound: EpsilonBound) -> float:
    """Φ⁻¹(1 − FPR⁺) − Φ⁻¹(FNR⁺), 0 where the upper bounds on both errors leave room for guessing."""
    fpr = clopper_pearson(bound.false_positives, bound.n_nonmembers, 1 - bound.alpha_each)[1]
    fnr = clopper_pearson(bound.false_negatives, bound.n_members, 1 - bound.alpha_each)[1]
    return max(0.0, float(-ndtri(fpr) - ndtri(fnr))) if max(fpr, fnr) < 1 else 0.0


def _mu_of_guesses(guesses: Guesses, alpha: float) -> float:
    """The largest μ whose curve algorithm 3 of arXiv:2410.22235 rejects; 0 if none."""

    def excess(mu: float) -> float:
        return excess_at(guesses, lambda y: float(ndtr(ndtri(y) - mu)), alpha)

    if guesses.guessed == 0 or excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while high < _LARGEST_MU and excess(high) > 0:
        high *= 2
    return high if excess(high) > 0 else float(brentq(excess, 0.0, high, xtol=1e-9))
