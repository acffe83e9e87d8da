"""The end of an audit in the terminal: what it comes to, in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imgsynth.audit.verdict import ceiling_of_bounds
from imgsynth.release.rounding import at_least, at_most, fixed_down


def closing(audit: Mapping[str, Any]) -> list[str]:
    """Verdict, proven ε, the greatest lower bound and what it could have been, controls, and what was not tested."""
    proven, canaries = audit["proven_epsilon"], audit["canaries"]
    limit = "nothing (ε = ∞)" if proven is None else f"ε at most {at_most(proven)} (δ = {audit['delta']:g})"
    rows = [("Verdict", audit["verdict"]), ("Proven", limit), ("Found", _found(audit))]
    rows.append(("Could show", audit["power"]["sentence"]))
    controls = [*audit["controls"], *(canaries["controls"] if canaries else ())]
    rows.append(("Controls", _controls(controls)))
    rows.append(("Not tested", "; ".join(audit["judgement"]["not_tested"]) or "nothing of what was asked for"))
    if canaries is None and proven is not None:
        rows.append(("", "the training program itself: imgsynth audit canaries, with the same output="))
    return [f"{name + ':' if name else '':<12}{said}" for name, said in rows]


def _found(audit: Mapping[str, Any]) -> str:
    bound = audit["epsilon_lower_bound"]
    if bound is None:
        return "no lower bound: no attack was run"
    ceiling = ceiling_of_bounds(audit)
    most = [] if ceiling is None else [fixed_down(ceiling)]
    if audit["canaries"]:
        twins = ", ".join(f"{fixed_down(t['ceiling'])} ({t['kind']})" for t in audit["canaries"]["twins"])
        most.append(f"canaries {twins}")
    sure = f"{100 * (1 - audit['alpha_of_bound']):.4g} % confidence"
    return f"ε at least {at_least(bound)}, by {audit['epsilon_lower_bound_from']}, {sure}; ceiling {', '.join(most)}"


def _controls(controls: list[Mapping[str, Any]]) -> str:
    """Counts; and by name every required one that did not pass."""
    if not controls:
        return "none was run"
    by = {word: [c for c in controls if c["passed"] is passed] for word, passed in
          (("passed", True), ("failed", False), ("not run or not to be judged", None))}  # fmt: skip
    counts = ", ".join(f"{len(some)} {word}" for word, some in by.items())
    missed = [c["name"] for c in controls if c["required"] and c["passed"] is not True]
    optional = sum(not c["required"] for c in by["failed"])
    counts += f" ({optional} of the failed ones not required)" if optional else ""
    return (
        f"{counts}; required and not passed: {', '.join(missed)}" if missed else f"{counts}; all required ones passed"
    )
