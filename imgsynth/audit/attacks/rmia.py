"""Robust membership inference (RMIA: Zarifzadeh, Liu and Shokri 2024, arXiv:2312.03262), offline.

    LR(x, z) = (p(x | θ) / p(x)) / (p(z | θ) / p(z))        score(x) = share of population patients z with LR > γ

p(x) is an average over models that may or may not have been trained on x; offline it is made from those that were not,
p(x) = ((1 + a) p_out(x) + 1 − a) / 2 (the paper's section 3, and its appendix on a). Generators give no probability
of an image: p(x | θ) is here the logistic function of the base score, standardised over the population on references
that were not trained on it. The base attack aggregates a patient's images by its own rule.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from imgsynth.audit.attacks.attack import NotApplicable, Released, Tools
from imgsynth.audit.attacks.shadows import Shadows
from imgsynth.measure.images import Images

GAMMA = 1.0
A = 0.3  # p_in ≈ a p_out + 1 − a: between blind trust in p_out (1) and none in any difference (0)


class Rmia:
    """RMIA over the base attack that ``space`` names (``shadows.BASES``); z are the patients ``Released.reference``."""

    name = "rmia"
    access = "recipe"

    def __init__(self, space: str, tools: Tools):
        self.space = space
        self._shadows = Shadows(space, tools)
        self._population: Images

    def prepare(self, released: Released) -> None:
        if released.reference is None or not len(released.reference):
            raise NotApplicable("there are no patients of the population to compare with")
        self._population = released.reference
        self._shadows.prepare(released)

    def scores(self, patients: Images) -> np.ndarray:
        x, z = self._shadows.scores(patients), self._shadows.scores(self._population)
        unseen = z.reference_RP[~z.in_RP]
        centre = np.median(unseen)
        scale = max(1.4826 * float(np.median(np.abs(unseen - centre))), 1e-12)

        def probability(score: np.ndarray) -> np.ndarray:
            return np.asarray(expit((score - centre) / scale))

        return pairwise_share(
            probability(x.target_P), mean_out(probability(x.reference_RP), x.in_RP),
            probability(z.target_P), mean_out(probability(z.reference_RP), z.in_RP),
        )  # fmt: skip


def mean_out(p_RP: np.ndarray, in_RP: np.ndarray) -> np.ndarray:
    """[P] p_out: the mean of ``p_RP`` over the references that were not trained on the patient; at least one."""
    assert (~in_RP).any(0).all(), "a patient that every reference was trained on"
    return np.asarray(np.where(in_RP, 0, p_RP).sum(0) / (~in_RP).sum(0))


def pairwise_share(
    p_P: np.ndarray, p_out_P: np.ndarray, p_Z: np.ndarray, p_out_Z: np.ndarray, gamma: float = GAMMA, a: float = A
) -> np.ndarray:
    """[P] share of z with LR(x, z) > γ, from p(· | θ) and p_out of the patients x and of the population z."""
    ratio_P, ratio_Z = p_P / offline(p_out_P, a), p_Z / offline(p_out_Z, a)
    return np.asarray((ratio_P[:, None] > gamma * ratio_Z[None, :]).mean(1))


def offline(p_out: np.ndarray, a: float) -> np.ndarray:
    """p = ((1 + a) p_out + 1 − a) / 2."""
    return ((1 + a) * p_out + 1 - a) / 2
