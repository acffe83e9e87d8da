"""The same training run in the hands of other accountants, to be printed beside each other on the privacy card."""

from __future__ import annotations

import math
import warnings

from opacus.accountants import PRVAccountant, RDPAccountant

from imgsynth.privacy import accounting
from imgsynth.privacy.events import training_event
from imgsynth.privacy.plan import PrivacyPlan


def cross_check(plan: PrivacyPlan) -> dict[str, float | None]:
    """ε of the *training alone* (no histogram) by each accountant, at the plan's δ; null is ∞.

    All are upper bounds: "pld" and "rdp" by dp-accounting (the authority), "opacus_rdp" and "opacus_prv" (Gopi et al.
    2021, arXiv 2106.02848, to 0.01 in ε) by Opacus. They should differ by a few percent, RDP being the loosest.
    """
    if plan.gradient_noise_multiplier == 0:
        return dict.fromkeys(("pld", "rdp", "opacus_rdp", "opacus_prv"))
    event = training_event(plan.sampling_rate, plan.noise_multiplier, plan.steps)
    found = {
        "pld": accounting.pld_epsilon(event, plan.delta),
        "rdp": accounting.rdp_epsilon(event, plan.delta),
        "opacus_rdp": _opacus(RDPAccountant(), plan),
        "opacus_prv": _opacus(PRVAccountant(), plan),
    }
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def _opacus(accountant: RDPAccountant | PRVAccountant, plan: PrivacyPlan) -> float:
    accountant.history = [(plan.noise_multiplier, plan.sampling_rate, plan.steps)]
    with warnings.catch_warnings():  # Opacus warns that its best order is at the edge of its list: loose, yet valid
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(plan.delta))
