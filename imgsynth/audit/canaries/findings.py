"""What a record of canaries says: the one place in which twins, tests of the mechanism and controls become words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from imgsynth.release.canary_record import BROKEN, GRAVE, REJECTED, VIOLATION, looks
from imgsynth.release.rounding import apart, at_most


def against(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(word, what was seen) of all that stands against the program in any look, the gravest first.

    The bounds and p-values are judged at their look's
    ``alpha_of_each_test``, the tests of the mechanism at their own level.
    """
    return sorted((found for look in looks(record) for found in _seen(look)), key=lambda found: GRAVE.index(found[0]))


def _seen(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for twin in record["twins"]:
        proven = twin.get("proven_epsilon", record["proven_epsilon"])  # not in records of earlier versions
        name, bound, p = f"canaries ({twin['kind']})", twin["epsilon_lower_bound"], twin["p_value_of_claimed_curve"]
        if bound > proven:
            found, claimed = apart(bound, proven)
            yield VIOLATION, f"{name} show ε ≥ {found}, above the proven ε = {claimed} of their twin"
        if p <= record["alpha_of_each_test"]:
            yield REJECTED, f"{name} refute the trade-off curve that ε = {at_most(proven)} stands for (p = {p:.2g})"
        off = [
            f"{check['name']} {check['value']:.4g} for {check['expected']:.4g} (p = {check['p']:.1g})"
            for check in twin["mechanism"]
            if not check["passed"]
        ]
        if off:
            yield BROKEN, f"{name} met a mechanism that is not the plan's: {', '.join(off)}"
