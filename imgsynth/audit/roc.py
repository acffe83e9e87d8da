"""ROC of a membership attack: members against non-members, with intervals over patients.

Every array holds *one* score for each patient: an attack aggregates a patient's images by a rule of its own before any
score comes here. Patients are therefore the trials of every interval; images never are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, norm, rankdata

from imgsynth.measure.resampling import LEVEL, clopper_pearson

FPR_TARGETS = (0.01, 0.001)


@dataclass(frozen=True, eq=False)
class Roc:
    """``fpr`` and ``tpr`` at every threshold, from (0, 0) to (1, 1).

    A patient is called a member at score ≥ threshold.
    """

    fpr: np.ndarray
    tpr: np.ndarray

    @staticmethod
    def of(in_P: np.ndarray, out_Q: np.ndarray) -> Roc:
        thresholds = np.unique(np.concatenate([in_P, out_Q]))[::-1]
        tpr = (len(in_P) - np.searchsorted(np.sort(in_P), thresholds)) / len(in_P)
        fpr = (len(out_Q) - np.searchsorted(np.sort(out_Q), thresholds)) / len(out_Q)
        return Roc(np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr]))

    def to_json(self) -> dict[str, list[float]]:
        return {"fpr": self.fpr.tolist(), "tpr": self.tpr.tolist()}


def band(curve: Roc, n_in: int, n_out: int, level: float = LEVEL) -> tuple[Roc, Roc]:
    """The curve's lower and upper edge: Clopper-Pearson intervals of both rates at every threshold, patients as trials.

    For each threshold by itself, not for the curve as a whole. At no false alarms it still has a width, which a
    bootstrap has not.
    """
    tp, fp = np.rint(curve.tpr * n_in).astype(int), np.rint(curve.fpr * n_out).astype(int)
    tpr_low, tpr_high = np.transpose([clopper_pearson(count, n_in, level) for count in tp.tolist()])
    fpr_low, fpr_high = np.transpose([clopper_pearson(count, n_out, level) for count in fp.tolist()])
    return Roc(fpr_high, tpr_low), Roc(fpr_low, tpr_high)


def auc(in_P: np.ndarray, out_Q: np.ndarray) -> float:
    """P(member's score > non-member's) + ½ P(equal): the Mann-Whitney statistic."""
    ranks = rankdata(np.concatenate([in_P, out_Q]))[: len(in_P)]
    return float((ranks.sum() - len(in_P) * (len(in_P) + 1) / 2) / (len(in_P) * len(out_Q)))


def auc_variance(theta: float, n_in: int, n_out: int) -> float:
    """Variance of an estimated AUC of true value ``theta``: Hanley and McNeil's, with the sizes in it averaged."""
    n_star = (n_in + n_out) / 2 - 1
    spread = 1 + n_star * (1 - theta) / (2 - theta) + n_star * theta / (1 + theta)
    return theta * (1 - theta) * spread / (n_in * n_out)


def auc_interval(area: float, n_in: int, n_out: int, level: float = LEVEL) -> tuple[float, float]:
    """Score interval of an AUC (Newcombe 2006, Stat. Med. 25:559, method 5).

    All θ with |area − θ| ≤ z √V(θ), V being ``auc_variance``. Unlike the
    bootstrap and DeLong's interval it does not shrink to a point at area = 1, where small audits end up.
    """
    z = norm.ppf((1 + level) / 2)

    def excess(theta: float) -> float:
        return (area - theta) ** 2 - z**2 * auc_variance(theta, n_in, n_out)

    inside = min(max(area, 1e-9), 1 - 1e-9)  # at 0 and 1 the estimate itself is a root, and not the one that is meant
    low = 0.0 if area <= 0 else float(brentq(excess, 0.0, inside))
    high = 1.0 if area >= 1 else float(brentq(excess, inside, 1.0))
    return low, high


def tpr_at(in_P: np.ndarray, out_Q: np.ndarray, fpr: float) -> dict[str, Any]:
    """The largest TPR at an empirical FPR of at most ``fpr``, with an interval for the TPR at a *true* FPR of ``fpr``.

    The interval pays for both sides. The threshold of that true FPR lies between two order statistics of the
    non-members with probability 1 − α/2 (how many non-members reach it is binomial), and each of these is a threshold
    fixed without the members, for which Clopper and Pearson's interval of the TPR is taken at α/2. Ties only widen it.

    With fewer than 10/fpr non-members the threshold rests on less than ten of them: "underpowered", and no number.
    """
    needed = round(10 / fpr)
    if len(out_Q) < needed:
        why = f"underpowered: {len(out_Q)} non-members, it takes {needed}"
        return {"tpr": None, "low": None, "high": None, "status": why}
    curve = Roc.of(in_P, out_Q)
    tpr = float(curve.tpr[curve.fpr <= fpr].max())
    half = (1 + LEVEL) / 2
    fewest, most = binom.ppf([(1 - half) / 2, (1 + half) / 2], len(out_Q), fpr).astype(int).tolist()
    falling_Q = np.sort(out_Q)[::-1]
    strict = falling_Q[fewest - 1] if fewest else np.inf
    surely, perhaps = int((in_P > strict).sum()), int((in_P > falling_Q[most]).sum())
    low, high = clopper_pearson(surely, len(in_P), half)[0], clopper_pearson(perhaps, len(in_P), half)[1]
    return {"tpr": tpr, "low": low, "high": high, "status": "ok"}
