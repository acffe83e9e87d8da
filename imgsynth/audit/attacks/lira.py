"""Likelihood-ratio attack (LiRA: Carlini et al. 2022, arXiv:2112.03570, algorithm 1 and section VI).

For every patient the base score is taken as Gaussian, with one mean over the references that were trained on the
patient and another over those that were not; the score is the logarithm of the ratio of both densities at what the
release gives. The base attack aggregates a patient's images by its own rule.
"""

from __future__ import annotations

import numpy as np

from imgsynth.audit.attacks.attack import Released, Tools
from imgsynth.audit.attacks.shadows import Shadows
from imgsynth.measure.images import Images

ENOUGH_FOR_VARIANCES = 32  # references on either side; with fewer, one variance for all patients is the better estimate


class Lira:
    """LiRA over the base attack that ``space`` names (``shadows.BASES``)."""

    name = "lira"
    access = "recipe"

    def __init__(self, space: str, tools: Tools):
        self.space = space
        self._shadows = Shadows(space, tools)

    def prepare(self, released: Released) -> None:
        self._shadows.prepare(released)

    def scores(self, patients: Images) -> np.ndarray:
        found = self._shadows.scores(patients)
        return log_likelihood_ratio(found.target_P, found.reference_RP, found.in_RP)


def log_likelihood_ratio(target_P: np.ndarray, reference_RP: np.ndarray, in_RP: np.ndarray) -> np.ndarray:
    """[P] log N(s; μ_in, σ_in²) − log N(s; μ_out, σ_out²) of each patient's ``target_P``.

    Needs for each patient a reference on either side. With fewer than ENOUGH_FOR_VARIANCES on a side of any patient,
    σ_in² and σ_out² are each pooled over all patients, with the degrees of freedom that the means have used taken off.
    """
    mean_in, var_in, n_in = _moments(reference_RP, in_RP)
    mean_out, var_out, n_out = _moments(reference_RP, ~in_RP)
    assert min(n_in.min(), n_out.min()) >= 1, "a patient that every reference knows, or none"
    if min(n_in.min(), n_out.min()) < ENOUGH_FOR_VARIANCES:
        var_in, var_out = _pooled(var_in, n_in), _pooled(var_out, n_out)
    return _log_density(target_P, mean_in, var_in) - _log_density(target_P, mean_out, var_out)


def _moments(score_RP: np.ndarray, chosen_RP: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, unbiased variance (0 of a single score) and number of the chosen scores of each patient."""
    n_P = chosen_RP.sum(0)
    mean_P = np.where(chosen_RP, score_RP, 0).sum(0) / np.maximum(n_P, 1)
    squares_P = (np.where(chosen_RP, score_RP - mean_P, 0) ** 2).sum(0)
    return mean_P, squares_P / np.maximum(n_P - 1, 1), n_P


def _pooled(var_P: np.ndarray, n_P: np.ndarray) -> np.ndarray:
    free_P = n_P - 1
    return np.full(len(var_P), (var_P * free_P).sum() / max(free_P.sum(), 1))


def _log_density(score_P: np.ndarray, mean_P: np.ndarray, var_P: np.ndarray) -> np.ndarray:
    var_P = np.maximum(var_P, 1e-12)
    return -0.5 * ((score_P - mean_P) ** 2 / var_P + np.log(var_P))
