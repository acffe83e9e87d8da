"""What an audit allows to say: a word, the reasons, and what was and was not tested. It never says "private".

| word          | when                                                                                               |
|---------------|----------------------------------------------------------------------------------------------------|
| VIOLATION     | a bound, of any attack or of canaries, is above the proven ε, whatever the controls say            |
| CLAIM         | canaries refute the claimed trade-off curve, though no bound is above ε, whatever the controls say |
| REJECTED      |                                                                                                    |
| MECHANISM     | a test of the twins' mechanism failed (noise, dose, draws), whatever the controls say              |
| BROKEN        |                                                                                                    |
| SOURCE        | strings of the source are in files that must not hold any, or can be read in samples, whatever the |
| STRINGS FOUND | controls say                                                                                       |
| INCONCLUSIVE  | a required control failed or was not run, no deciding attack ran, no leak at all could show, or    |
|               | the source's strings were looked for and some of the files, there or here, could not be read       |
| LEAK FOUND    | a deciding attack sees one, in any of the three ways below                                         |
| NO LEAK FOUND | otherwise: by these attacks, on so many patients                                                   |

Which attacks decide was fixed before: the primary one alone at α, or, where none was declared primary, all K, each at
α/K. Of a leak the others are hints at most. That a bound is above the proven ε is a statement of its own: ε covers
whatever an attack looks at, so all K that ran are tested, each at α/K, and all of them together are wrong with
probability α at most, beside the α of "a leak". Canaries speak of the program, attacks of this release: further
statements, with an α of their own; of J twins each has α/J, half of it for its bound, half for the test of the curve.

An attack sees a leak by an AUC whose interval lies above one half (probability α/2 where nothing leaks), by members
above every non-member (exact p ≤ α/2; ``risk.worst_patients``), or by a bound above 0, for which Clopper and Pearson
guarantee α and take about α/5. Few patients that leak much move the second and the third, and hardly the AUC. All three
together fire in about α of audits; a test holds that, and in every audit a control (``negative.label_swap``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from imgsynth.audit.canaries.findings import against
from imgsynth.audit.epsilon import ceiling, epsilon_from_errors
from imgsynth.audit.roc import auc_interval
from imgsynth.release.canary_record import GRAVE, VIOLATION
from imgsynth.release.rounding import apart, at_least, outward

INCONCLUSIVE = "INCONCLUSIVE"
STRINGS_FOUND = "SOURCE STRINGS FOUND"
LEAK_FOUND = "LEAK FOUND"
NO_LEAK_FOUND = "NO LEAK FOUND"
WORDS = (*GRAVE, STRINGS_FOUND, INCONCLUSIVE, LEAK_FOUND, NO_LEAK_FOUND)

HINT = 0.05  # p-value of what does not decide
SHOWN = 3  # files that could not be read, in the verdict's words


@dataclass(frozen=True)
class Verdict:
    """``because``: reasons, the gravest first. ``hints``: seen by what does not decide, uncorrected for many looks.

    ``not_tested``: what was asked for, or belongs to an audit, and was not done.
    """

    word: str
    because: tuple[str, ...]
    hints: tuple[str, ...]
    tested: tuple[str, ...]
    not_tested: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.word == NO_LEAK_FOUND:
            missing = f"; not tested: {'; '.join(self.not_tested)}" if self.not_tested else ""
            return f"{self.word} (tested: {'; '.join(self.tested)}{missing})"
        return f"{self.word}: {'; '.join(self.because)}"

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def judge(audit: Mapping[str, Any], canaries: Mapping[str, Any] | None = None) -> Verdict:
    """The verdict of what audit.json holds, and of canaries.json if there is one.

    Of ``audit`` it reads attacks (with each one's ``bound``), controls, power, proven_epsilon (None: ∞), alpha, delta.
    """
    deciding = [a for a in audit["attacks"] if a["role"] != "exploratory"]
    each = audit["alpha"] / max(len(deciding), 1)
    grave = [*_attacks_above(audit), *(against(canaries) if canaries else ())]
    weak = [*_cannot_tell(audit, deciding), *(_failed(canaries["controls"]) if canaries else ())]
    weak += _not_read(audit.get("leakage"))
    found = [text for attack in deciding if (text := leak(attack, each))]
    hints = [text for attack in audit["attacks"] if attack not in deciding and (text := leak(attack, audit["alpha"]))]
    hints += [*_copied(audit.get("copies", {})), *_recognised(audit.get("reidentification", {}))]
    written = list(_written(audit.get("leakage")))
    tested = tuple(attack_name(attack) for attack in audit["attacks"])
    tested += tuple(f"canaries ({twin['kind']})" for twin in (canaries or {}).get("twins", ()))
    not_tested = tuple(_not_tested(audit, canaries))
    if grave:
        word = min((word for word, _ in grave), key=GRAVE.index)
        caveats = [f"but {text}" for text in weak]
        broken = "the proof, the code or the data flow is broken: do not release"
        because = (*(text for _, text in grave), broken, *written, *caveats)
        return Verdict(word, because, tuple(hints), tested, not_tested)
    if written:  # no statistics: the strings are there
        because = (*written, *found, *(f"but {text}" for text in weak))
        return Verdict(STRINGS_FOUND, because, tuple(hints), tested, not_tested)
    if weak:
        return Verdict(INCONCLUSIVE, tuple(weak), (*found, *hints), tested, not_tested)
    if found:
        return Verdict(LEAK_FOUND, tuple(found), tuple(hints), tested, not_tested)
    return Verdict(NO_LEAK_FOUND, (), tuple(hints), tested, not_tested)


def attack_name(attack: Mapping[str, Any]) -> str:
    """ "name/space", or the name alone, as audit.attacks has it."""
    return f"{attack['name']}/{attack['space']}" if attack["space"] else str(attack["name"])


def alpha_of_bounds(audit: Mapping[str, Any]) -> float:
    """α/K, of each attack's bound where all K that ran are held against the proven ε."""
    return float(audit["alpha"]) / max(len(audit["attacks"]), 1)


def _attacks_above(audit: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    proven, alpha = audit["proven_epsilon"], alpha_of_bounds(audit)
    for attack in audit["attacks"]:
        bound = bound_at(attack, alpha)
        if proven is not None and bound > proven:
            (found, claimed), sure = apart(bound, proven), f"at confidence {100 * (1 - alpha):.4g} %"
            yield VIOLATION, f"{attack_name(attack)} shows ε ≥ {found} {sure}, above the proven ε = {claimed}"


def _cannot_tell(audit: Mapping[str, Any], deciding: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Why the attacks could not decide."""
    if not deciding:
        yield "no attack that decides was run (too few patients, or it could not be applied)"
    if deciding and not any(control["kind"] == "positive" for control in audit["controls"]):
        yield "no positive control was run"
    yield from _failed(audit["controls"])
    if deciding and audit["power"]["epsilon"] is None:
        yield f"so few patients that no leak, however large, would show ({audit['power']['sentence']})"


def _failed(controls: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for control in controls:
        if control["required"] and control["passed"] is not True:
            yield f"{control['kind']} control: {control['detail']}"


def _not_read(leakage: Mapping[str, Any] | None) -> Iterator[str]:
    """A search that left files out says nothing of them."""
    if leakage is not None and (unread := leakage["not_read"]):
        more = f" and {len(unread) - SHOWN} more" if len(unread) > SHOWN else ""
        yield f"the search for the source's strings could not read everything: {'; '.join(unread[:SHOWN])}{more}"


def _not_tested(audit: Mapping[str, Any], canaries: Mapping[str, Any] | None) -> Iterator[str]:
    yield from (one["what"] for one in audit["not_done"])
    leakage = audit.get("leakage")
    if leakage is None:
        yield "strings of the source in files"
    elif not leakage["release_searched"]:
        yield "strings of the source in a release (there was none)"
    if canaries is not None and not canaries["twins"]:
        yield "canaries (a record without twins)"


def _written(leakage: Mapping[str, Any] | None) -> Iterator[str]:
    if leakage is not None and not leakage["clean"]:
        yield f"{leakage['n_findings']} strings of the source are in files that must not hold any (local/leakage.json)"
    if leakage is not None and (seen := leakage["pixels"].get("samples", {}).get("recovered")):
        yield f"{seen} strings of the source can be read in the samples' pixels (local/text_in_pixels.json)"


def _copied(copies: Mapping[str, Any]) -> Iterator[str]:
    for found, how in ((copies, "copies"), (copies.get("invariant", {}), "flipped or shifted copies")):
        if found.get("caught"):
            yield f"{how}: {found['share']:.1%} of samples are nearer to training than to holdout patients"
    extracted = copies.get("extraction", {}).get("extracted")
    if extracted and extracted["p_value"] <= HINT:
        yield (
            f"extraction: {extracted['train']} clusters of near-duplicates are near to training patients, "
            f"{extracted['holdout']} to holdout patients (p = {extracted['p_value']:.2g})"
        )


def _recognised(again: Mapping[str, Any]) -> Iterator[str]:
    if again and again["low"] > 0:
        yield (
            f"re-identification: {again['train']:.1%} of training patients are hit and {again['holdout']:.1%} of "
            "holdout patients"
        )


def ceiling_of_bounds(audit: Mapping[str, Any]) -> float | None:
    """The largest that any of these bounds could have been, by an attack without error; None without attacks."""
    alpha = alpha_of_bounds(audit)
    most = (
        ceiling(attack["bound"]["n_members"], attack["bound"]["n_nonmembers"], alpha, attack["bound"]["delta"])
        for attack in audit["attacks"]
    )
    return max(most, default=None)


def leak(attack: Mapping[str, Any], alpha: float) -> str | None:
    """The rule for one attack, at α: what shows a leak, in words; None where nothing does."""
    low, high = auc_interval(attack["auc"], attack["n_members"], attack["n_nonmembers"], 1 - alpha)
    seen = []
    if low > 0.5:
        seen.append(f"AUC {attack['auc']:.3f} {outward(low, high, 3)}")
    if (bound := bound_at(attack, alpha)) > 0:
        seen.append(f"ε ≥ {at_least(bound)}")
    worst = attack["worst"]
    if worst["p"] <= alpha / 2:
        n, expected = worst["above_every_nonmember"], worst["expected"]
        seen.append(
            f"{n} members above every non-member where {expected:.1f} would be by chance (p = {worst['p']:.2g})"
        )
    return f"{attack_name(attack)}: {', '.join(seen)}" if seen else None


def bound_at(attack: Mapping[str, Any], alpha: float) -> float:
    """The attack's bound at ``alpha``, from its stored counts of errors."""
    counted = attack["bound"]
    return epsilon_from_errors(
        counted["false_positives"], counted["n_nonmembers"], counted["false_negatives"], counted["n_members"],
        alpha, counted["delta"],
    )  # fmt: skip
