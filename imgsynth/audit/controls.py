"""Controls: is the audit able to find a leak, and silent where there is none?

Positive: a synthesizer that leaks on purpose must be caught. Negative: two halves of the holdout patients, none of
them trained on, must not be told apart. Blind: members and non-members must not differ without the model
(Das et al. 2024, arXiv:2406.16201: blind baselines beat many published attacks).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from imgsynth.audit.attacks.attack import Attack, Released
from imgsynth.audit.roc import auc, auc_interval
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import percentile_interval, sum_by_patient

COPY_SHARE = 0.2  # of the leaky synthesizer's samples
NOISE = 0.1  # standard deviation added to noisy copies; images span [-1, 1]
NULL_SPLITS = 200
FOLDS = 5
BLIND_LEVEL = 0.99  # of the blind classifier's interval: cross-validated scores share their training patients, so an
# interval that takes them as independent is some 30 % too narrow


@dataclass(frozen=True)
class Control:
    """``passed`` is None where there are too few patients to tell; ``detail`` says what was seen."""

    name: str
    kind: str  # positive | negative | blind
    passed: bool | None
    value: float | None
    low: float | None
    high: float | None
    detail: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def leaky(synthetic: Images, members: Images, noise: float, random: np.random.Generator) -> Images:
    """``synthetic`` with COPY_SHARE of its images replaced by copies of members' images (distinct while they last)."""
    n = max(1, round(COPY_SHARE * len(synthetic)))
    rounds = [random.permutation(len(members)) for _ in range(-(-n // len(members)))]
    copies_NC = members.x_NC[np.concatenate(rounds)[:n]]
    x_NC = synthetic.x_NC.copy()
    spots = random.choice(len(synthetic), n, replace=False)
    x_NC[spots] = copies_NC + noise * random.standard_normal(copies_NC.shape).astype(np.float32)
    return synthetic.with_images(x_NC)


def positive_control(
    attack: Attack, members: Images, nonmembers: Images, released: Released, noise: float, random: np.random.Generator
) -> Control:
    """The attack on a synthesizer that copies members; caught when the AUC's interval is above one half."""
    attack.prepare(replace(released, samples=leaky(released.samples, members, noise, random)))
    in_P, out_Q = attack.scores(members), attack.scores(nonmembers)
    area = auc(in_P, out_Q)
    low, high = auc_interval(area, len(in_P), len(out_Q))
    how = f"noisy copies (sd {noise})" if noise else "exact copies"
    detail = f"a synthesizer of which {COPY_SHARE:.0%} are {how} of members {'was' if low > 0.5 else 'was not'} caught"
    return Control(f"leaky synthesizer, {how}, {attack.space}", "positive", low > 0.5, area, low, high, detail)


def negative_control(out_Q: np.ndarray, alpha: float, random: np.random.Generator) -> Control:
    """Split the non-members' scores into two halves at random, many times: how often does the attack fire?

    The splits are the exact null distribution given the scores, so the rate is the test's own false-alarm rate.
    """
    name, half = "two halves of the holdout", len(out_Q) // 2
    if half < 3:
        detail = f"{len(out_Q)} non-members are too few to split"
        return Control(name, "negative", None, None, None, None, detail)
    areas, fired = [], 0
    for _ in range(NULL_SPLITS):
        order = random.permutation(out_Q)
        areas.append(auc(order[:half], order[half:]))
        fired += auc_interval(areas[-1], half, len(out_Q) - half)[0] > 0.5
    rate = fired / NULL_SPLITS
    low, high = percentile_interval(np.array(areas))
    detail = f"fired on {fired} of {NULL_SPLITS} random splits of patients that were not trained on"
    return Control(name, "negative", rate <= alpha, float(np.mean(areas)), low, high, detail)


def blind_baseline(members_ND: np.ndarray, members: Images, others_MD: np.ndarray, others: Images) -> Control:
    """Cross-validated logistic regression, members against non-members, on patients' mean features, model unseen.

    Passes unless the AUC's interval lies above one half. (Below one half is cross-validation's own small bias.)
    """
    name = "blind classifier"
    x_PD = np.concatenate([_mean_by_patient(members_ND, members), _mean_by_patient(others_MD, others)])
    y_P = np.repeat([1, 0], [members.n_patients, others.n_patients])
    smallest = min(members.n_patients, others.n_patients)
    if smallest < 2 * FOLDS:
        detail = f"{smallest} patients on the smaller side; {FOLDS}-fold cross-validation takes {2 * FOLDS}"
        return Control(name, "blind", None, None, None, None, detail)
    score_P = np.zeros(len(y_P))
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(x_PD, y_P):
        components = min(16, len(train) // 5, x_PD.shape[1])
        model = make_pipeline(
            StandardScaler(), PCA(components, random_state=0), LogisticRegression(C=0.1, class_weight="balanced")
        )
        score_P[test] = model.fit(x_PD[train], y_P[train]).decision_function(x_PD[test])
    area = auc(score_P[y_P == 1], score_P[y_P == 0])
    low, high = auc_interval(area, members.n_patients, others.n_patients, BLIND_LEVEL)
    differ = "differ" if low > 0.5 else "cannot be told apart"
    return Control(name, "blind", low <= 0.5, area, low, high, f"members and non-members {differ} without the model")


def _mean_by_patient(features_ND: np.ndarray, images: Images) -> np.ndarray:
    counts_P = np.bincount(images.owner_N)
    return sum_by_patient(features_ND, images.owner_N, images.n_patients) / counts_P[:, None]
