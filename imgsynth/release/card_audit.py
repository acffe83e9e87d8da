"""What the privacy card says of the audit: a word, a rounded bound, and whether that stands against the release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imgsynth.files import read_json
from imgsynth.release.audit_record import refused, searched
from imgsynth.release.canary_record import BROKEN, REJECTED, VIOLATION, bound_of, grave_word, read_canaries
from imgsynth.release.rounding import round_down

# The first words of a verdict. What follows them in audit.json (counts, details of controls) stays local.
VERDICTS = {
    VIOLATION: "a lower bound contradicts the proof",
    REJECTED: "canaries in a twin of the run contradict the trade-off curve that the proof claims",
    BROKEN: "canaries in a twin of the run met other noise, clipping or sampling than the proof is about",
    "SOURCE STRINGS FOUND": "strings of the source (such as ids, names or paths) are in files that must not hold any",
    "LEAK FOUND": "an attack told members from non-members better than chance, within what ε allows",
    "NO LEAK FOUND": "the attacks that decide did not tell members from non-members, and their controls worked",
    "INCONCLUSIVE": "the audit could not decide: a control failed or could not be run, there were too few patients, or "
    "files could not be searched for strings of the source",
}
_BROKEN = "the proof, the program or the flow of data is broken"
NOT_RELEASABLE = {
    VIOLATION: f"the audit found more than the proof allows (ε at least {{bound:g}}): {_BROKEN}",
    REJECTED: f"the audit's canaries refute the trade-off curve that ε stands for: {_BROKEN}",
    BROKEN: "the audit's canaries met a mechanism that is not the plan's (noise, clipping or sampling): the program "
    "does not do what ε was proven of",
    "SOURCE STRINGS FOUND": "the audit found strings of the source (such as ids, names or paths) in files that must "
    "not hold any",
}
NOT_AUDITED = {"status": "not audited yet", "epsilon_lower_bound": None, "alpha": None, "verdict": None}
BY_CANARIES = "by canaries alone"
AUDIT_NOTE = (
    "This is an output of real patients without noise, and no part of the proven guarantee. It is shown rounded down "
    "to one decimal, with a verdict of a few words, because a proof that was never tested is worth less to whoever "
    "relies on it. It says what was found; a low number does not say that no more is there."
)


def audit_part(run_dir: Path, release: Path | None) -> dict[str, Any]:
    """What the card says of audit.json: one rounded number, α and one of VERDICTS, marked as a private-data output.

    What stands against a release in canaries.json counts also where audit.json does not have it, or is not there;
    canaries that found nothing are no audit of a release. An audit.json of another run, of other weights, or that does
    not say of which, is none of this one. ``release`` is the folder that the card is in, None while it is written.
    """
    path, (canaries, _) = run_dir / "audit.json", read_canaries(run_dir)
    word = grave_word(canaries)
    audit = read_json(path) if path.is_file() else None
    why_not = NOT_AUDITED["status"] if audit is None else refused(audit, run_dir)
    if audit is not None and why_not is None:
        status, lower, alpha = "audited", audit["epsilon_lower_bound"], audit.get("alpha_of_bound", audit["alpha"])
        if canaries is not None and word is not None and not audit.get("canaries"):
            lower, alpha = max(lower or 0.0, bound_of(canaries)), alpha + canaries["alpha_of_bounds"]
        said = next(name for name in VERDICTS if audit["verdict"].startswith(name))
        word = said if word is None else min(said, word, key=list(VERDICTS).index)
    elif canaries is not None and word is not None:
        status, lower, alpha = BY_CANARIES, bound_of(canaries), canaries["alpha_of_bounds"]
    else:
        return {**NOT_AUDITED, "status": why_not}
    return {
        "status": status,
        "epsilon_lower_bound": None if lower is None else round_down(lower),
        "alpha": alpha,
        "verdict": word,
        "release_searched": audit is not None and why_not is None and searched(audit, release),
        "private_data_output": True,
        "note": AUDIT_NOTE,
    }
