"""What follows from an audit's measurements: power, bound and verdict. Also later, when canaries have been counted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgsynth.audit.power import power_of
from imgsynth.audit.verdict import alpha_of_bounds, attack_name, bound_at, judge
from imgsynth.files import read_json, write_json
from imgsynth.release.canary_record import looks, read_canaries

_LOCAL = ("coins", "scores")  # of single canaries: they stay in canaries.json


def conclude(
    audit: Mapping[str, Any], canaries: Mapping[str, Any] | None, not_taken: str | None = None
) -> dict[str, Any]:
    """``audit`` with power, verdict, judgement, the largest bound and where it is from; and a summary of ``canaries``.

    The bound is of any of the K attacks, each at α/K, or of the canaries where these show more: the bounds that the
    verdict holds against the proven ε. ``alpha_of_bound`` is the probability with which one of all these is too high.
    ``not_taken`` says why there is a record that is not counted.
    """
    deciding = [a for a in audit["attacks"] if a["role"] != "exploratory"]
    each = audit["alpha"] / max(len(deciding), 1)
    bounds = [(bound_at(attack, alpha_of_bounds(audit)), attack_name(attack)) for attack in audit["attacks"]]
    if canaries is not None:
        bounds += [
            (twin["epsilon_lower_bound"], f"canaries ({twin['kind']})")
            for look in looks(canaries)
            for twin in look["twins"]
        ]
    alpha = audit["alpha"] + (canaries["alpha_of_bounds"] if canaries else 0)
    bound, source = max(bounds, default=(None, None), key=lambda pair: pair[0])
    power = power_of(audit["n_members"], audit["n_nonmembers"], each, audit["delta"], split=True)
    not_done = [one for one in audit["not_done"] if one["what"] != "canaries"]
    not_done += [{"what": "canaries", "why": not_taken}] if not_taken else []
    found = {
        **audit, "epsilon_lower_bound": bound, "epsilon_lower_bound_from": source, "alpha_of_bound": alpha,
        "power": power.to_json(), "not_done": not_done,
    }  # fmt: skip
    verdict = judge(found, canaries)
    counted = None if canaries is None else summary(canaries)
    return {**found, "canaries": counted, "verdict": str(verdict), "judgement": verdict.to_json()}


def conclude_again(run_dir: Path) -> None:
    """Bring ``audit.json`` of ``run_dir`` up to date with its ``canaries.json``; nothing where either is missing."""
    path, (canaries, not_taken) = run_dir / "audit.json", read_canaries(run_dir)
    if path.is_file() and (canaries or not_taken):
        write_json(path, conclude(read_json(path), canaries, not_taken))


def summary(canaries: Mapping[str, Any]) -> dict[str, Any]:
    """The record without what it says of single canaries."""

    def counted(look: Mapping[str, Any]) -> dict[str, Any]:
        twins = [{key: value for key, value in twin.items() if key not in _LOCAL} for twin in look["twins"]]
        return {**look, "twins": twins}

    earlier = [counted(look) for look in canaries.get("earlier_looks", ())]
    return {**counted(canaries), "earlier_looks": earlier}
