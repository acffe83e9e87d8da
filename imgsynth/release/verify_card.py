"""Is the privacy card true to itself? Everything that follows from the plan is computed again and compared."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from imgsynth import __version__
from imgsynth.privacy.plan import IN_EARLIER_VERSIONS, PrivacyPlan
from imgsynth.release.audit_record import REFUSED
from imgsynth.release.card import CARD_JSON, CARD_MD, FORMAT, build_card, card_markdown
from imgsynth.release.card_audit import BY_CANARIES, NOT_AUDITED, VERDICTS
from imgsynth.types import Fault, InputError

# What follows from the plan in any version of imgsynth; the sentences beside it may be worded otherwise in another one.
COMPUTED = ("guarantee", "plan", "event", "unit", "patient_ids", "releasable", "not_releasable_because",
            "any_attacker_at_most", "two_units")  # fmt: skip
TOLERANCE = 5e-3  # relative; versions of the accountants differ by less
REMEDY = "do not rely on this release; ask whoever published it for the card as imgsynth wrote it"


def card_faults(folder: Path, card: dict[str, Any]) -> list[Fault]:
    """Faults of ``card``, and one for every reason for which it is NOT RELEASABLE."""
    if card["format"] != FORMAT:
        return [_fault("format", card["format"], FORMAT)]
    try:
        plan = PrivacyPlan.from_json(card["plan"])
    except InputError as error:
        return [Fault(f"{CARD_JSON}: plan", fault.got, fault.expected, REMEDY) for fault in error.faults]
    faults = _audit_faults(card["audit"])
    if faults:
        return faults
    card = _with_defaults(card, plan)
    declared = card["burned_in_annotation"]
    if declared not in ("YES", "NO", None):
        return [_fault("burned_in_annotation", declared, "YES, NO or null")]
    expected = build_card(plan, card["synthetic_labels"], card["cohort_ledger"], card["audit"], declared,
                          card["released_metadata"], (card["watermark"] or {}).get("strength"),
                          card["supplied_masks"])  # fmt: skip
    keys = expected.keys() if card["imgsynth"] == __version__ else COMPUTED
    faults += [
        _fault(key, card.get(key, "nothing"), f"{expected[key]!r}, as it follows from the plan")
        for key in keys
        if not same(card.get(key), expected[key])
    ]
    faults += _ledger_faults(card, plan)
    if not faults:
        faults += _markdown_faults(folder, card)
    return faults + [
        Fault(
            "NOT RELEASABLE", reason, "nothing that stands against releasing it", "keep it where the patients' data are"
        )
        for reason in expected["not_releasable_because"]
    ]


def _with_defaults(card: dict[str, Any], plan: PrivacyPlan) -> dict[str, Any]:
    """``card`` with what cards of earlier versions do not have: fields of the plan that then had one value only."""
    stated = plan.to_json()
    earlier = {key: stated[key] for key in IN_EARLIER_VERSIONS if key not in card["plan"]}
    was = {"queries": ("epsilon_queries", {}), "selection": ("epsilon_selection", 0.0)}
    guarantee = dict(value for key, value in was.items() if key in earlier) | card["guarantee"]
    return (
        {"released_metadata": None, "supplied_masks": None, "weights_chosen": None, "watermark": None}
        | card
        | {"plan": card["plan"] | earlier, "guarantee": guarantee}
    )


def same(got: Any, expected: Any) -> bool:
    """Equal, numbers to within TOLERANCE."""
    if isinstance(expected, dict):
        return isinstance(got, dict) and got.keys() == expected.keys() and all(same(got[k], expected[k]) for k in got)
    if isinstance(expected, list):
        return isinstance(got, list) and len(got) == len(expected) and all(map(same, got, expected))
    if isinstance(expected, float) and isinstance(got, (int, float)) and not isinstance(got, bool):
        return math.isclose(got, expected, rel_tol=TOLERANCE)
    return type(got) is type(expected) and bool(got == expected)


def _ledger_faults(card: dict[str, Any], plan: PrivacyPlan) -> list[Fault]:
    """All runs on a cohort together cannot have cost less than this one."""
    ledger, epsilon = card["cohort_ledger"], card["guarantee"]["epsilon"]
    if not ledger["runs"]:
        return []
    total, own = (math.inf if value is None else value for value in (ledger["epsilon"], epsilon))
    if ledger["delta"] != plan.delta or total < own * (1 - TOLERANCE):
        return [
            _fault(
                "cohort_ledger", f"ε = {total:g} at δ = {ledger['delta']}", f"ε of {own:g} or more at δ = {plan.delta}"
            )
        ]
    return []


def _audit_faults(audit: dict[str, Any]) -> list[Fault]:
    lower, verdict = audit["epsilon_lower_bound"], audit["verdict"]
    if verdict is None:
        known = audit["status"] in (NOT_AUDITED["status"], *REFUSED) and lower is None
    else:
        known = verdict in VERDICTS and audit["status"] in ("audited", BY_CANARIES) and 0 < audit["alpha"] < 1
        known = known and (lower is None or lower >= 0) and audit.get("release_searched") in (None, True, False)
    expected = f"'not audited yet', or one of {', '.join(VERDICTS)} with α and a bound"
    return [] if known else [_fault("audit", repr(audit), expected)]


def _markdown_faults(folder: Path, card: dict[str, Any]) -> list[Fault]:
    """People read the .md; it must say what the .json says."""
    path = folder / CARD_MD
    if not path.is_file():
        return [Fault(CARD_MD, "no such file", "the privacy card for people", REMEDY)]
    if card["imgsynth"] == __version__ and path.read_text(encoding="utf-8") != card_markdown(card):
        return [Fault(CARD_MD, "a text that the .json does not give", "the same facts in both", REMEDY)]
    return []


def _fault(key: str, got: Any, expected: str) -> Fault:
    return Fault(f"{CARD_JSON}: {key}", str(got), expected, REMEDY)
