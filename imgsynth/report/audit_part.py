"""The audit's part of the local report: plain words, tables, and what was not tested. Parts may be absent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from imgsynth.audit.registry import FAMILIES
from imgsynth.audit.verdict import INCONCLUSIVE, LEAK_FOUND, NO_LEAK_FOUND, STRINGS_FOUND, attack_name
from imgsynth.release.canary_record import BROKEN, GRAVE, REJECTED, VIOLATION
from imgsynth.release.rounding import outward_percent, round_up
from imgsynth.report import audit_figures
from imgsynth.report.audit_details import details, down, why_not
from imgsynth.report.audit_power import could_show

PLAIN = {
    VIOLATION: "More leaks than the proof allows. The proof, the program or the flow of data is broken, and ε on the "
    "privacy card must not be relied on. Do not hand this release over.",
    REJECTED: "A twin of this run, trained by the same program, gave away more about who was in it than the trade-off "
    "curve behind ε allows. ε on the privacy card must not be relied on. Do not hand this release over.",
    BROKEN: "A twin of this run, trained by the same program, showed that the program does not do what the proof is "
    "about: its noise, clipping or sampling is another. ε on the privacy card must not be relied on. Do not hand this "
    "release over.",
    STRINGS_FOUND: "Strings of the source, such as ids, names or paths, are in files that must not hold any (which and "
    "where is in local/leakage.json). No ε covers that. Do not hand this release over.",
    INCONCLUSIVE: "The audit cannot say whether this release leaks: what it builds on did not hold (see the reasons). "
    "Treat the release as if nobody had audited it.",
    LEAK_FOUND: "Somebody with what the attack needs (see the table) can tell {unit}s that were trained on from "
    "others better than by chance. That may still be within what ε allows; whether it is acceptable is the custodian's "
    "decision.",
    NO_LEAK_FOUND: "The attacks that decide could not tell {unit}s that were trained on from others, and the leaks "
    "that were planted to try them were found. That is no proof of privacy: smaller leaks, and other attacks, remain.",
}
ACCESS = {  # what the attacker holds: in the table, and in a sentence
    "samples": ("images", "the released images alone"),
    "samples+reference": ("images, patients", "the images and other patients like these"),
    "white box": ("weights", "the model's weights"),
    "recipe": ("recipe", "models trained by the same recipe for comparison"),
}


def audit_part(audit: dict[str, Any], unit: str = "patient") -> dict[str, Any]:
    """What the template shows of ``audit`` (audit.json). Figures are None where there is nothing to draw.

    ``unit`` is "patient", "case" or "image": what one unit of the plan is in the source.
    """
    judgement = audit["judgement"]
    attacks = sorted(audit["attacks"], key=lambda a: (a["role"] == "exploratory", -a["auc"]))
    return {
        "judgement": judgement,
        "grave": judgement["word"] in (*GRAVE, STRINGS_FOUND),
        "plain": PLAIN[judgement["word"]].format(unit=unit),
        "numbers": list(_numbers(audit, unit)),
        "attacks": [
            attack | {"full": attack_name(attack), "holder": ACCESS[attack["access"]][0]} for attack in attacks
        ],
        "roc": audit_figures.roc(attacks, audit["proven_epsilon"], audit["delta"]) if attacks else None,
        "could_show": could_show(audit),
        "ladder": audit_figures.ladder(audit) if attacks or audit["canaries"] else None,
        "not_tested": list(not_tested(audit)),
        "details": details(audit, unit),
        "why_no_copies": why_not(audit, "copy check"),
        "unit": unit,
    }


def _numbers(audit: Mapping[str, Any], unit: str) -> Iterator[str]:
    """The finding in numbers that need no statistics."""
    deciding = [a for a in audit["attacks"] if a["role"] != "exploratory"]
    if deciding:
        best = max(deciding, key=lambda a: a["auc"])
        yield (
            f"Shown one {unit} that was trained on and one that was not, the attack picks the right one "
            f"{round(100 * best['auc'])} times in 100 {outward_percent(best['auc_low'], best['auc_high'], 0)}; "
            "guessing does 50 times."
        )
        found = best["tpr_at"]["0.01"]
        if found["tpr"] is not None:
            yield (
                f"With one false alarm in 100 {unit}s it finds {100 * found['tpr']:.1f} of 100 that were trained on "
                f"{outward_percent(found['low'], found['high'])}; guessing finds 1."
            )
    bound, proven = audit["epsilon_lower_bound"], audit["proven_epsilon"]
    limit = "nothing is proven: ε = ∞" if proven is None else f"proven: {round_up(proven)} at most"
    if bound is not None and bound == 0:
        yield f"No leak is proven: the lower bound on ε is 0 ({limit})."
    elif bound is not None:
        yield (
            f"Proven to leak: ε of {down(bound)} at least, by {audit['epsilon_lower_bound_from']}, with "
            f"{100 * (1 - audit['alpha_of_bound']):.4g} % confidence ({limit})."
        )
    worst = audit.get("risk", {}).get("worst")
    if worst:
        yield (
            f"Of the {unit}s that were trained on, {worst['above_every_nonmember']} stand out more than every {unit} "
            f"that was not; by chance about {worst['expected']:.1f} would (p = {worst['p']:.2g})."
        )


def not_tested(audit: Mapping[str, Any]) -> Iterator[str]:
    """What a reader might think was tested, and was not, with the reason where the audit has one."""
    ran = {attack["name"] for attack in audit["attacks"]}
    said = {entry["what"].removeprefix("attack ").split("/")[0] for entry in audit["not_done"]}
    missing = [name.replace("_", " ") for name in FAMILIES if name not in ran | said]
    if missing:
        yield f"Attacks that were not run: {', '.join(missing)}."
    accesses = {attack["access"] for attack in audit["attacks"]}
    for access, (_, words) in ACCESS.items():
        if access not in accesses:
            yield f"No attack with {words}."
    noted = {entry["what"] for entry in audit["not_done"]}
    if not audit["canaries"] and "canaries" not in noted:
        yield "The training program itself: no canaries were counted (imgsynth audit canaries)."
    if not audit.get("leakage"):
        yield "Names, ids and paths in the released files were not looked for."
    elif short := audit["leakage"]["strings"]["left_out"].get("too short"):
        yield f"Strings of the source with fewer than six characters ({short}) were not looked for in files."
    for what, there, words in _looked_for(audit):
        if not there and what not in noted:
            yield words
    for entry in [*audit["not_done"], *(audit.get("beyond_membership") or {}).get("not_done", ())]:
        why = str(entry["why"]).rstrip(".")
        yield f"{entry['what'][0].upper()}{entry['what'][1:]}: {why}."
    for attack in audit["attacks"]:
        if attack["role"] != "exploratory" and attack["tpr_at"]["0.001"]["tpr"] is None:
            yield (
                f"Whether a few members are found at 0.1 % false alarms, by {attack_name(attack).replace('_', ' ')}: "
                f"{attack['tpr_at']['0.001']['status']}."
            )
    if any(c["required"] and c["passed"] is None for c in audit["controls"]):
        yield "Whether the attack works at all: a required control could not tell."
    yield "Faces and other things that make somebody recognisable to a person who looks at the images."
    yield "Attackers who know more than these, and attacks that nobody has thought of yet."


def _looked_for(audit: Mapping[str, Any]) -> Iterator[tuple[str, bool, str]]:
    """(as ``not_done`` calls it, whether the audit has it, what to say where it has not)."""
    copies, leakage, beyond = (audit.get(key) or {} for key in ("copies", "leakage", "beyond_membership"))
    yield "copy check", "share" in copies, "Copies of training images were not looked for."
    yield "extraction", "clusters" in copies.get("extraction", {}), "What the generator repeats (extraction)."
    person = "Whether a person can be recognised in a synthetic image (re-identification)."
    yield "re-identification", bool(audit.get("reidentification")), person
    yield "text in pixels", "samples" in leakage.get("pixels", {}), "Text in the pixels of the samples."
    yield "attribute inference", bool(beyond), "What is learned about members beyond membership (their class, say)."
