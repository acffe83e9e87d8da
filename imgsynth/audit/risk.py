"""Whose risk is it? The deciding attack's scores by group of patients, and the patients who stand out most.

An average hides the few who are copied. Groups are compared with non-members *of the same group*: sexes and scanners
differ in how near anything is to them, and that is no leak. Groups of fewer than SMALLEST members or non-members are
not shown. Descriptive: many groups are looked at, so one stands out only by an interval corrected for their number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from imgsynth.audit.roc import auc, auc_interval
from imgsynth.cohort.manifest import Manifest

SMALLEST = 10  # patients of a group on either side
WORST = 10  # patients listed
FACTS = {"sex": "sex", "age": "age_band", "site": "site", "label": "label"}

Facts = Mapping[str, Mapping[str, str]]  # patient: fact: value


def facts_of(manifest: Manifest) -> Facts:
    """What the manifest knows of each patient, by the first of the patient's images."""
    found = {}
    for patient, items in manifest.by_patient.items():
        known = {fact: getattr(items[0], field) for fact, field in FACTS.items()}
        found[patient] = {fact: str(value) for fact, value in known.items() if value is not None}
    return found


def by_group(
    in_P: np.ndarray, in_names_P: np.ndarray, out_Q: np.ndarray, out_names_Q: np.ndarray, facts: Facts, alpha: float
) -> dict[str, Any]:
    """AUC of each group against non-members of the group. A fact with one value is no division into groups."""
    shown, small = [], 0
    for fact in FACTS:
        in_value_P = np.array([facts.get(name, {}).get(fact, "") for name in in_names_P])
        out_value_Q = np.array([facts.get(name, {}).get(fact, "") for name in out_names_Q])
        values = sorted(set(in_value_P) | set(out_value_Q))
        for value in values if len(values) > 1 else ():
            ours, others = in_P[in_value_P == value], out_Q[out_value_Q == value]
            if min(len(ours), len(others)) < SMALLEST:
                small += 1
            else:
                shown.append((fact, str(value) or "unknown", ours, others))
    return {
        "smallest_shown": SMALLEST,
        "not_shown": small,
        "groups": [_group(*one, alpha, len(shown)) for one in shown],
    }


def _group(fact: str, value: str, ours: np.ndarray, others: np.ndarray, alpha: float, groups: int) -> dict[str, Any]:
    area = auc(ours, others)
    low, high = auc_interval(area, len(ours), len(others))
    corrected = auc_interval(area, len(ours), len(others), 1 - alpha / groups)[0]
    return {
        "fact": fact, "value": value, "n_members": len(ours), "n_nonmembers": len(others),
        "auc": area, "low": low, "high": high, "stands_out": corrected > 0.5,
    }  # fmt: skip


def worst_patients(in_P: np.ndarray, out_Q: np.ndarray) -> dict[str, Any]:
    """The members with the highest scores, each by the share of non-members below; and how many are above all of them.

    Without a leak members and non-members can change places, so that the k highest of all are members with probability
    Π (n₁ − i)/(n₁ + n₀ − i), i < k: an exact p-value, chosen before like any other.
    """
    order = np.argsort(-in_P, kind="stable")
    below_P = np.searchsorted(np.sort(out_Q), in_P, side="left") / len(out_Q)
    above = int((in_P > out_Q.max()).sum())
    i = np.arange(above)
    return {
        "percentiles": (100 * below_P[order[:WORST]]).tolist(),
        "above_every_nonmember": above,
        "expected": len(in_P) / (len(out_Q) + 1),
        "p": float(np.prod((len(in_P) - i) / (len(in_P) + len(out_Q) - i))),
    }


def worst_names(in_P: np.ndarray, in_names_P: np.ndarray) -> list[str]:
    """The patients of ``worst_patients``, in its order. LOCAL ONLY."""
    return [str(name) for name in in_names_P[np.argsort(-in_P, kind="stable")[:WORST]]]
