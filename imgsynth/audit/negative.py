"""Negative controls on an attack's own scores: labels swapped at random, and two groups of patients whom no model saw.

Neither may look like a leak. A false alarm would throw away a sound audit: the first is judged at SWAP_LEVEL, the
second at NEGATIVE_LEVEL.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.stats import binom

from imgsynth.audit.attacks.attack import Attack, NotApplicable, Released
from imgsynth.audit.controls import NEGATIVE_LEVEL, Control, halves
from imgsynth.audit.evidence import evidence
from imgsynth.audit.power import false_alarms
from imgsynth.audit.roc import auc, auc_interval
from imgsynth.audit.verdict import bound_at, leak
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import clopper_pearson

SWAPS = 500  # a rule at α = 5 % that fires in 10 % of swaps is found with probability 0.90, in 12 % with 0.996
SWAP_LEVEL = 1e-3  # p-value of the number of swaps that fired


def label_swap(
    in_P: np.ndarray, out_Q: np.ndarray, alpha: float, each: float, delta: float, random: np.random.Generator
) -> Control:
    """How often does the verdict's rule see a leak when it is told at random who is a member? At α in ``each`` at most.

    Evidence is taken at ``alpha`` and judged at ``each`` (α/K where K attacks decide), by the audit's own code, with
    this cohort's sizes and ties. Given the scores the swaps are independent draws of the exact null, so that the number
    of those that fired is binomial. So is the number of bounds above 0, which are far rarer than the rule as a whole
    (``power.false_alarms``) and would drown in it, though they are also held against the proven ε on their own. The
    control fails where either count is too high, with a one-sided p-value below SWAP_LEVEL.
    """
    score_N, fired, above = np.concatenate([in_P, out_Q]), 0, 0
    for _ in range(SWAPS):
        swapped_N = random.permutation(score_N)
        seen = evidence(swapped_N[: len(in_P)], swapped_N[len(in_P) :], alpha, delta, random)
        fired += leak({"name": "swapped", "space": "", **seen}, each) is not None
        above += bound_at(seen, each) > 0
    rare = false_alarms(len(in_P), len(out_Q), each, delta)
    p, p_above = float(binom.sf(fired - 1, SWAPS, each)), float(binom.sf(above - 1, SWAPS, rare))
    low, high = clopper_pearson(fired, SWAPS)
    detail = (
        f"on {SWAPS} random swaps of members and non-members the verdict's rule fired {fired} times, where "
        f"{SWAPS * each:.3g} at most are expected (p = {p:.2g}), and a bound was above 0 {above} times, where "
        f"{SWAPS * rare:.2g} are (p = {p_above:.2g})"
    )
    return Control("label swap", "negative", min(p, p_above) >= SWAP_LEVEL, fired / SWAPS, low, high, detail)


def two_holdouts(
    attack: Attack, nonmembers: Images, out_Q: np.ndarray, released: Released, random: np.random.Generator
) -> Control:
    """Holdout patients, with scores ``out_Q``, against those of the test split: set aside alike, trained on by none.

    An attack that uses test patients is prepared anew with one half of them; it scores the holdout and the other half.
    """
    others = released.reference
    if others is None or not others.n_patients:
        return _no_holdouts("there is no test split to hold the holdout against")
    if attack.access == "recipe":
        return _no_holdouts(
            "the attack takes reference models with and without a patient; none was trained on test patients"
        )
    if attack.access == "samples+reference":
        kept, others = halves(others, random)
        try:
            attack.prepare(replace(released, reference=kept))
        except NotApplicable as reason:
            return _no_holdouts(f"half of the test split is too small for the attack: {reason}")
        out_Q = attack.scores(nonmembers)
    return of_two_holdouts(out_Q, attack.scores(others))


def of_two_holdouts(first_P: np.ndarray, second_Q: np.ndarray) -> Control:
    """Scores of two groups of patients that were not trained on: the attack must not tell them apart."""
    if min(len(first_P), len(second_Q)) < 3:
        return _no_holdouts(f"{len(first_P)} and {len(second_Q)} patients are too few")
    area = auc(first_P, second_Q)
    low, high = auc_interval(area, len(first_P), len(second_Q), NEGATIVE_LEVEL)
    silent = low <= 0.5 <= high
    detail = f"two groups of patients that were not trained on {'cannot' if silent else 'can'} be told apart"
    return Control("two holdouts", "negative", silent, area, low, high, detail)


def _no_holdouts(why: str) -> Control:
    return Control("two holdouts", "negative", None, None, None, None, why, required=False)
