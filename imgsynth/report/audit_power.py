"""What the audit could have shown at all, beside what it found: a silence says nothing of leaks smaller than these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from imgsynth.audit.verdict import attack_name
from imgsynth.release.canary_record import looks
from imgsynth.release.rounding import fixed_down, fixed_up, outward, outward_percent

Row = tuple[str, str, str]  # what, what could have been seen, what was


def could_show(audit: Mapping[str, Any]) -> list[Row]:
    """Ceilings, rounded down, and the smallest effects that 80 % of such audits show, rounded up.

    Both follow from the numbers of patients and canaries, α and δ, and were known before anything was measured.
    """
    return [*_attacks(audit), *_canaries(audit["canaries"])]


def _attacks(audit: Mapping[str, Any]) -> Iterator[Row]:
    power = audit["power"]
    deciding = [attack for attack in audit["attacks"] if attack["role"] != "exploratory"]
    best = max(deciding, key=lambda attack: attack["auc"], default=None)
    bound = "–" if best is None else fixed_down(max(attack["bound"]["epsilon"] for attack in deciding))
    yield "lower bound on ε, of attacks that decide", f"{fixed_down(power['ceiling'])} at most", bound
    auc = tpr = "–"
    if best is not None:
        auc = f"{best['auc']:.3f} {outward(best['auc_low'], best['auc_high'], 3)}, {_name(best)}"
        found = best["tpr_at"]["0.01"]
        tpr = "underpowered" if found["tpr"] is None else f"{100 * found['tpr']:.1f} % " + outward_percent(
            found["low"], found["high"])  # fmt: skip
    yield "AUC", _from(power["auc"], lambda value: fixed_up(value, 3)), auc
    rate = _from(power["tpr_at_1_percent_fpr"], lambda value: f"{fixed_up(100 * value, 1)} %")
    yield "members found at 1 % false alarms", rate, tpr
    yield "ε leaked in full, to the best test there is", _from(power["epsilon"], fixed_up), "not measured"


def _canaries(record: Mapping[str, Any] | None) -> Iterator[Row]:
    """Of every look on record."""
    every = looks(record) if record else []
    for number, look in enumerate(every, 1):
        which = f", look {number} of {len(every)}" if len(every) > 1 else ""
        for twin in look["twins"]:
            name = f"canaries ({twin['kind']}){which}"
            bound = fixed_down(twin["epsilon_lower_bound"])
            yield f"lower bound on ε, of {name}", f"{fixed_down(twin['ceiling'])} at most", bound
        if "could_show" in look:  # records of earlier versions do not say
            least = _from(look["could_show"]["smallest_epsilon"], fixed_up)
            yield f"ε leaked in full, of canaries{which}", least, "not measured"


def _from(value: float | None, shown: Callable[[float], str]) -> str:
    return "nothing, however large" if value is None else f"from {shown(value)} on"


def _name(attack: Mapping[str, Any]) -> str:
    return attack_name(attack).replace("_", " ")
