"""The audit's part of the local report: plain words, tables, and what was not tested. Parts may be absent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from imgsynth.audit.registry import FAMILIES
from imgsynth.audit.verdict import INCONCLUSIVE, LEAK_FOUND, NO_LEAK_FOUND, STRINGS_FOUND, attack_name
from imgsynth.release.canary_record import BROKEN, GRAVE, REJECTED, VIOLATION
from imgsynth.report import audit_figures

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
    LEAK_FOUND: "Somebody with the released images can tell patients who were trained on from others better than by "
    "chance. That may still be within what ε allows; whether it is acceptable is the custodian's decision.",
    NO_LEAK_FOUND: "The attack that decides could not tell patients who were trained on from others, and it did find "
    "the leaks that were planted to try it. That is no proof of privacy: smaller leaks, and other attacks, remain.",
}
ACCESS = {  # what the attacker holds: in the table, and in a sentence
    "samples": ("images", "the released images alone"),
    "samples+reference": ("images, patients", "the images and other patients like these"),
    "white box": ("weights", "the model's weights"),
    "recipe": ("recipe", "models trained by the same recipe for comparison"),
}


def audit_part(audit: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of ``audit`` (audit.json). Figures are None where there is nothing to draw."""
    judgement = audit["judgement"]
    attacks = sorted(audit["attacks"], key=lambda a: (a["role"] == "exploratory", -a["auc"]))
    return {
        "judgement": judgement,
        "plain": PLAIN[judgement["word"]],
        "grave": judgement["word"] in (*GRAVE, STRINGS_FOUND),
        "numbers": list(_numbers(audit)),
        "attacks": [
            attack | {"full": attack_name(attack), "holder": ACCESS[attack["access"]][0]} for attack in attacks
        ],
        "roc": audit_figures.roc(attacks, audit["proven_epsilon"], audit["delta"]) if attacks else None,
        "ladder": audit_figures.ladder(audit) if attacks or audit["canaries"] else None,
        "not_tested": list(not_tested(audit)),
    }


def _numbers(audit: Mapping[str, Any]) -> Iterator[str]:
    """The finding in numbers that need no statistics."""
    deciding = [a for a in audit["attacks"] if a["role"] != "exploratory"]
    if deciding:
        best = max(deciding, key=lambda a: a["auc"])
        low, mid, high = (round(100 * best[key]) for key in ("auc_low", "auc", "auc_high"))
        yield (
            f"Shown one patient who was trained on and one who was not, the attack picks the right one in {mid} of 100 "
            f"cases (between {low} and {high}); guessing does in 50."
        )
        found = best["tpr_at"]["0.01"]
        if found["tpr"] is not None:
            yield (
                f"With one false alarm in 100 patients it finds {100 * found['tpr']:.1f} of 100 that were trained on "
                f"(between {100 * found['low']:.1f} and {100 * found['high']:.1f}); guessing finds 1."
            )
    bound = audit["epsilon_lower_bound"]
    if bound is not None and bound == 0:
        yield "No leak is proven: the lower bound on ε is 0."
    elif bound is not None:
        yield f"Proven to leak: ε of {bound:.2f} at least (by {audit['epsilon_lower_bound_from']})."
    worst = audit.get("risk", {}).get("worst")
    if worst:
        yield (
            f"Patients who were trained on and stand out more than every patient who was not: "
            f"{worst['above_every_nonmember']}; by chance about {worst['expected']:.1f} would (p = {worst['p']:.2g})."
        )
    yield audit["power"]["sentence"]


def not_tested(audit: Mapping[str, Any]) -> Iterator[str]:
    """What a reader might think was tested, and was not."""
    ran = {attack["name"] for attack in audit["attacks"]}
    missing = [name.replace("_", " ") for name in FAMILIES if name not in ran]
    if missing:
        yield f"Attacks that were not run: {', '.join(missing)}."
    accesses = {attack["access"] for attack in audit["attacks"]}
    for access, (_, words) in ACCESS.items():
        if access not in accesses:
            yield f"No attack with {words}."
    if not audit["canaries"]:
        yield "The training program itself: no canaries were counted (imgsynth audit canaries)."
    if not audit.get("leakage"):
        yield "Names, ids and paths in the released files were not looked for."
    if not audit.get("reidentification"):
        yield "Whether a person can be recognised in a synthetic image (re-identification)."
    if "share" not in audit.get("copies", {}):
        yield "Copies of training images were not looked for."
    yield "Attackers who know more than these, and attacks that nobody has thought of yet."
