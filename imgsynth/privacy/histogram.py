"""How many patients each class has, with noise: the one statistic of the labels that a release may use."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

from imgsynth.types import Fault, InputError


def noisy_histogram(
    class_of_patient: Mapping[str, int], classes: int, epsilon: float, seed: int | None = None, clip: bool = True
) -> list[int]:
    """Counts of patients by class, each with discrete Laplace noise P(z) ∝ exp(-ε|z|), negative ones set to 0.

    Without ``clip`` negative ones stay, for sums over many counts, which clipping would make too large.

    ``class_of_patient`` maps every patient to *one* class index; which one it is, where his images differ, may depend
    on nothing but his own data. ``classes`` is the public number of classes.

    Formal guarantee: ε-DP for adding or removing one patient, who moves one count by one. Sampled exactly, in integer
    arithmetic on the operating system's entropy (Canonne, Kamath & Steinke 2020, arXiv 2004.00010, Algorithm 2), so
    that no floating-point attack applies. Charged as ``events.histogram_event(epsilon)``.

    | case                    | what happens                          |
    |-------------------------|---------------------------------------|
    | no patient              | noise alone                           |
    | a class index not known | InputError                            |
    | ``seed`` given          | repeatable, for tests; not releasable |
    """
    outside = sorted({c for c in class_of_patient.values() if not 0 <= c < classes})
    faults = []
    if outside:
        got, expected = f"class indices {outside}", f"0 to {classes - 1}, the public classes"
        faults.append(Fault("label histogram", got, expected, "list every class in data.classes"))
    if not 0 < epsilon < float("inf"):
        faults.append(Fault("sample.histogram_epsilon", f"{epsilon:g}", "a finite number above 0", "0.5"))
    if faults:
        raise InputError(*faults)
    coins = random.SystemRandom() if seed is None else random.Random(seed)
    counts = Counter(class_of_patient.values())
    noisy = [counts[c] + discrete_laplace(Fraction(epsilon), coins) for c in range(classes)]
    return [max(0, count) for count in noisy] if clip else noisy


def discrete_laplace(epsilon: Fraction, coins: random.Random) -> int:
    """An exact draw with P(z) ∝ exp(-ε|z|): Algorithm 2 of Canonne, Kamath & Steinke 2020, with s/t = ε."""
    s, t = epsilon.numerator, epsilon.denominator
    while True:
        u = coins.randrange(t)
        if not bernoulli_exp(Fraction(u, t), coins):
            continue
        v = 0
        while bernoulli_exp(Fraction(1), coins):
            v += 1
        magnitude = (u + t * v) // s
        negative = coins.randrange(2) == 1
        if not (negative and magnitude == 0):
            return -magnitude if negative else magnitude


def bernoulli_exp(gamma: Fraction, coins: random.Random) -> bool:
    """True with probability exp(-γ), exactly, for γ >= 0: Algorithm 1 of Canonne, Kamath & Steinke 2020."""
    while gamma > 1:
        if not bernoulli_exp(Fraction(1), coins):
            return False
        gamma -= 1
    k = 1
    while coins.randrange(gamma.denominator * k) < gamma.numerator:
        k += 1
    return k % 2 == 1
