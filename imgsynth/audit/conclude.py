"""What follows from an audit's measurements: power, bound and verdict. Also later, when canaries have been counted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgsynth.audit.power import power_of
from imgsynth.audit.verdict import attack_name, bound_at, judge
from imgsynth.files import read_json, write_json

CANARIES = "canaries.json"
_LOCAL = ("coins", "scores")  # of single canaries: they stay in canaries.json


def conclude(audit: Mapping[str, Any], canaries: Mapping[str, Any] | None) -> dict[str, Any]:
    """``audit`` with power, verdict, judgement, the largest bound and where it is from; and a summary of ``canaries``.

    The bound is of the deciding attacks, or of the canaries where these show more.
    """
    deciding = [a for a in audit["attacks"] if a["role"] != "exploratory"]
    each = audit["alpha"] / max(len(deciding), 1)
    bounds = [(bound_at(attack, each), attack_name(attack)) for attack in deciding]
    if canaries is not None:
        bounds += [(twin["epsilon_lower_bound"], f"canaries ({twin['kind']})") for twin in canaries["twins"]]
    bound, source = max(bounds, default=(None, None), key=lambda pair: pair[0])
    power = power_of(audit["n_members"], audit["n_nonmembers"], each, audit["delta"], split=True)
    found = {**audit, "epsilon_lower_bound": bound, "epsilon_lower_bound_from": source, "power": power.to_json()}
    verdict = judge(found, canaries)
    summary = None if canaries is None else _summary(canaries)
    return {**found, "canaries": summary, "verdict": str(verdict), "judgement": verdict.to_json()}


def conclude_again(run_dir: Path) -> None:
    """Bring ``audit.json`` of ``run_dir`` up to date with its ``canaries.json``; nothing where either is missing."""
    path = run_dir / "audit.json"
    if path.is_file() and (run_dir / CANARIES).is_file():
        write_json(path, conclude(read_json(path), read_canaries(run_dir)))


def read_canaries(run_dir: Path) -> dict[str, Any] | None:
    path = run_dir / CANARIES
    return read_json(path) if path.is_file() else None


def _summary(canaries: Mapping[str, Any]) -> dict[str, Any]:
    twins = [{key: value for key, value in twin.items() if key not in _LOCAL} for twin in canaries["twins"]]
    return {**canaries, "twins": twins}
