"""The blind baseline: members and non-members must not differ without the model.

(Das et al. 2024, arXiv:2406.16201: blind baselines beat many published attacks.)
"""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from imgsynth.audit.controls import Control
from imgsynth.audit.roc import auc, auc_interval
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import mean_by_patient

FOLDS = 5
BLIND_LEVEL = 0.99  # of the blind classifier's interval: cross-validated scores share their training patients, so an
# interval that takes them as independent is some 30 % too narrow


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
    return mean_by_patient(features_ND, images.owner_N, images.n_patients)
