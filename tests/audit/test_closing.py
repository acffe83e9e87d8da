"""The last lines of an audit: verdict, both bounds, controls, what was not tested."""

from __future__ import annotations

import math
from typing import Any

import pytest

from imgsynth.audit.closing import closing
from imgsynth.release.rounding import fixed_down

CONTROLS = [
    {"name": "label swap", "passed": True, "required": True},
    {"name": "leaky, 20%", "passed": False, "required": True},
    {"name": "leaky, 1%", "passed": False, "required": False},
    {"name": "blind", "passed": None, "required": True},
]
TWINS = {
    "twins": [{"kind": "weights", "ceiling": 3.999}],
    "controls": [{"name": "canaries without noise", "passed": True, "required": True}],
}


def audit(**changes: Any) -> dict[str, Any]:
    found = {
        "verdict": "INCONCLUSIVE: few", "proven_epsilon": 7.9912, "delta": 1e-5, "epsilon_lower_bound": 1.2399,
        "epsilon_lower_bound_from": "logan", "alpha_of_bound": 0.05, "canaries": None, "controls": CONTROLS,
        "alpha": 0.05, "attacks": [{"bound": {"n_members": 40, "n_nonmembers": 52, "delta": 1e-5}}],
        "power": {"ceiling": 9.9, "sentence": "With 50."}, "judgement": {"not_tested": ["copy check", "OCR"]},
    }  # fmt: skip
    return found | changes


def lines(found: dict[str, Any]) -> dict[str, str]:
    return {line[:12].strip().rstrip(":"): line[12:] for line in closing(found)}


def test_an_audit_ends_with_what_it_comes_to() -> None:
    said = lines(audit())
    assert said["Verdict"] == "INCONCLUSIVE: few"
    assert said["Proven"] == "ε at most 8 (δ = 1e-05)"  # never 7.99
    assert said["Found"] == "ε at least 1.23, by logan, 95 % confidence; ceiling 2.58"  # neither 1.24 nor 2.59
    best = math.log((1 - missed(40, 0.05) - 1e-5) / missed(52, 0.05))
    assert 2.585 < best < 2.59
    assert said["Controls"] == (
        "1 passed, 2 failed, 1 not run or not to be judged (1 of the failed ones not required); "
        "required and not passed: leaky, 20%, blind"
    )
    assert said["Not tested"] == "copy check; OCR" and "canaries" in said[""]


def missed(n: int, alpha: float) -> float:
    """Clopper and Pearson's upper bound on a rate of which there was none in ``n``, in closed form."""
    return 1 - (alpha / 2) ** (1 / n)


def test_the_ceiling_is_one_that_a_bound_can_reach() -> None:
    """The primary attack decides at α; bounds, its own as well, are held against the proven ε at α/K."""
    bound = {"n_members": 40, "n_nonmembers": 52, "delta": 1e-5}
    attacks = [{"role": role, "bound": bound} for role in ("primary", "exploratory", "exploratory", "exploratory")]
    best = math.log((1 - missed(40, 0.05 / 4) - 1e-5) / missed(52, 0.05 / 4))
    assert lines(audit(attacks=attacks))["Found"].endswith(f"ceiling {fixed_down(best)}")


def test_canaries_are_part_of_it() -> None:
    said = lines(audit(canaries=TWINS, controls=CONTROLS[:1]))
    assert said["Found"].endswith("ceiling 2.58, canaries 3.99 (weights)") and "" not in said
    assert said["Controls"] == "2 passed, 0 failed, 0 not run or not to be judged; all required ones passed"


@pytest.mark.parametrize(("changes", "line", "says"), [
    ({"proven_epsilon": None}, "Proven", "nothing (ε = ∞)"),
    ({"epsilon_lower_bound": None}, "Found", "no lower bound"),
    ({"controls": []}, "Controls", "none was run"),
    ({"judgement": {"not_tested": []}}, "Not tested", "nothing of what was asked for"),
])  # fmt: skip
def test_what_is_missing_is_said(changes: dict[str, Any], line: str, says: str) -> None:
    assert says in lines(audit(**changes))[line]
