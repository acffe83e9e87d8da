"""ROC of a membership attack: one score per patient, members against non-members, with intervals over patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

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
        tpr = [0.0, *((in_P[None, :] >= thresholds[:, None]).mean(1))]
        fpr = [0.0, *((out_Q[None, :] >= thresholds[:, None]).mean(1))]
        return Roc(np.array(fpr), np.array(tpr))

    def to_json(self) -> dict[str, list[float]]:
        return {"fpr": self.fpr.tolist(), "tpr": self.tpr.tolist()}


def auc(in_P: np.ndarray, out_Q: np.ndarray) -> float:
    """P(member's score > non-member's) + ½ P(equal): the Mann-Whitney statistic."""
    ranks = rankdata(np.concatenate([in_P, out_Q]))[: len(in_P)]
    return float((ranks.sum() - len(in_P) * (len(in_P) + 1) / 2) / (len(in_P) * len(out_Q)))


def auc_interval(area: float, n_in: int, n_out: int, level: float = LEVEL) -> tuple[float, float]:
    """Score interval of an AUC (Newcombe 2006, Stat. Med. 25:559, method 5).

    All θ with |area − θ| ≤ z √V(θ), V being Hanley and McNeil's variance with the sizes in it averaged. Unlike the
    bootstrap and DeLong's interval it does not shrink to a point at area = 1, where small audits end up.
    """
    z = norm.ppf((1 + level) / 2)
    n_star = (n_in + n_out) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + n_star * (1 - theta) / (2 - theta) + n_star * theta / (1 + theta)
        return (area - theta) ** 2 - z**2 * theta * (1 - theta) * spread / (n_in * n_out)

    inside = min(max(area, 1e-9), 1 - 1e-9)  # at 0 and 1 the estimate itself is a root, and not the one that is meant
    low = 0.0 if area <= 0 else float(brentq(excess, 0.0, inside))
    high = 1.0 if area >= 1 else float(brentq(excess, inside, 1.0))
    return low, high


def tpr_at(in_P: np.ndarray, out_Q: np.ndarray, fpr: float) -> dict[str, Any]:
    """The largest TPR at an empirical FPR of at most ``fpr``, with its Clopper-Pearson interval over members.

    With fewer than 10/fpr non-members the threshold rests on less than ten of them: "underpowered", and no number.
    """
    needed = round(10 / fpr)
    if len(out_Q) < needed:
        why = f"underpowered: {len(out_Q)} non-members, it takes {needed}"
        return {"tpr": None, "low": None, "high": None, "status": why}
    curve = Roc.of(in_P, out_Q)
    tpr = float(curve.tpr[curve.fpr <= fpr].max())
    low, high = clopper_pearson(round(tpr * len(in_P)), len(in_P))
    return {"tpr": tpr, "low": low, "high": high, "status": "ok"}
