"""One sentence out of an audit. It says what was found; it never says that a release is private."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imgsynth.audit.controls import Control

LEAK_FOUND = "LEAK FOUND"
NO_LEAK_FOUND = "NO LEAK FOUND (this attack)"
INCONCLUSIVE = "INCONCLUSIVE"
VIOLATION = "VIOLATION"


def verdict(
    primary: dict[str, Any] | None,
    controls: Sequence[Control],
    epsilon_lower_bound: float | None,
    proven_epsilon: float | None,
    alpha: float,
) -> str:
    """What the primary attack and the controls together allow to say, the gravest first.

    A bound above the proof is a VIOLATION even when a control failed, which is then named; otherwise a failed or
    impossible control makes the audit INCONCLUSIVE. A leak is an AUC whose interval lies above one half, or ε_LB > 0:
    a few patients that leak much hardly move the AUC, but they move the bound.
    """
    failed = [f"{c.kind} control: {c.detail}" for c in controls if c.passed is not True]
    caveat = f" (but {'; '.join(failed)})" if failed else ""
    if epsilon_lower_bound is not None and proven_epsilon is not None and epsilon_lower_bound > proven_epsilon:
        return (
            f"{VIOLATION}: the attack shows ε ≥ {epsilon_lower_bound:.3g} at confidence {1 - alpha:.0%}, above the "
            f"proven ε = {proven_epsilon:.3g}; the proof, the code or the data flow is broken: do not release{caveat}"
        )
    if primary is None:
        return f"{INCONCLUSIVE}: too few patients for the attack"
    if failed:
        return f"{INCONCLUSIVE}: {'; '.join(failed)}"
    leaks = primary["auc_low"] > 0.5 or (epsilon_lower_bound or 0.0) > 0
    return LEAK_FOUND if leaks else NO_LEAK_FOUND
