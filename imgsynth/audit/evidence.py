"""What the verdict's rule reads of one attack, from the scores: the same for an audit and for its controls."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from imgsynth.audit.epsilon import epsilon_lower_bound
from imgsynth.audit.risk import worst_patients
from imgsynth.audit.roc import auc


def evidence(
    in_P: np.ndarray, out_Q: np.ndarray, alpha: float, delta: float, random: np.random.Generator
) -> dict[str, Any]:
    """``auc``, ``bound`` (threshold from a random half of the patients, errors from the other), ``worst``, sizes."""
    return {
        "auc": auc(in_P, out_Q),
        "bound": asdict(epsilon_lower_bound(in_P, out_Q, alpha, delta, random)),
        "worst": worst_patients(in_P, out_Q),
        "n_members": len(in_P),
        "n_nonmembers": len(out_Q),
    }
