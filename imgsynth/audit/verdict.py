"""What an audit allows to say: a word, the reasons, and what was and was not tested. It never says "private".

| word          | when                                                                                               |
|---------------|----------------------------------------------------------------------------------------------------|
| VIOLATION     | a bound, of a deciding attack or of canaries, is above the proven ε, whatever the controls say     |
| CLAIM         | canaries refute the claimed trade-off curve, though no bound is above ε, whatever the controls say |
| REJECTED      |                                                                                                    |
| MECHANISM     | a test of the twins' mechanism failed (noise, dose, draws), whatever the controls say              |
| BROKEN        |                                                                                                    |
| SOURCE        | strings of the source are in files that must not hold any, whatever the controls say               |
| STRINGS FOUND |                                                                                                    |
| INCONCLUSIVE  | a required control failed or was not run, no deciding attack ran, or no leak at all could show     |
| LEAK FOUND    | a deciding attack sees one, in any of the three ways below                                         |
| NO LEAK FOUND | otherwise: by these attacks, on so many patients                                                   |

Which attacks decide was fixed before: the primary one alone at α, or, where none was declared primary, all K, each at
α/K. The others are hints at most. Canaries speak of the program, attacks of this release: two statements, each with an
α of its own; of J twins each has α/J, half of it for its bound and half for the test of the curve.

An attack sees a leak by an AUC whose interval lies above one half (probability α/2 where nothing leaks), by members
above every non-member (exact p ≤ α/2; ``risk.worst_patients``), or by a bound above 0, for which Clopper and Pearson
guarantee α and take about α/5. Few patients that leak much move the second and the third, and hardly the AUC. All three
together fire in about α of audits; a test holds that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from imgsynth.audit.canaries.findings import against
from imgsynth.audit.epsilon import epsilon_from_errors
from imgsynth.audit.roc import auc_interval
from imgsynth.release.canary_record import GRAVE, VIOLATION

INCONCLUSIVE = "INCONCLUSIVE"
STRINGS_FOUND = "SOURCE STRINGS FOUND"
LEAK_FOUND = "LEAK FOUND"
NO_LEAK_FOUND = "NO LEAK FOUND"
WORDS = (*GRAVE, STRINGS_FOUND, INCONCLUSIVE, LEAK_FOUND, NO_LEAK_FOUND)


@dataclass(frozen=True)
class Verdict:
    """``because``: reasons, the gravest first. ``hints``: seen by what does not decide, uncorrected for many looks."""

    word: str
    because: tuple[str, ...]
    hints: tuple[str, ...]
    tested: tuple[str, ...]

    def __str__(self) -> str:
        if self.word == NO_LEAK_FOUND:
            return f"{self.word} (tested: {'; '.join(self.tested)})"
        return f"{self.word}: {'; '.join(self.because)}"

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def judge(audit: Mapping[str, Any], canaries: Mapping[str, Any] | None = None) -> Verdict:
    """The verdict of what audit.json holds, and of canaries.json if there is one.

    Of ``audit`` it reads attacks (with each one's ``bound``), controls, power, proven_epsilon (None: ∞), alpha, delta.
    """
    deciding = [a for a in audit["attacks"] if a["role"] != "exploratory"]
    each = audit["alpha"] / max(len(deciding), 1)
    proven = audit["proven_epsilon"]
    grave = [*_attacks_above(deciding, proven, each), *(against(canaries) if canaries else ())]
    weak = [*_cannot_tell(audit, deciding), *(_failed(canaries["controls"]) if canaries else ())]
    found = [text for attack in deciding if (text := _leak(attack, each))]
    hints = [text for attack in audit["attacks"] if attack not in deciding and (text := _leak(attack, audit["alpha"]))]
    hints += _copied(audit.get("copies", {}))
    written = list(_written(audit.get("leakage")))
    tested = tuple(attack_name(attack) for attack in audit["attacks"])
    tested += tuple(f"canaries ({twin['kind']})" for twin in (canaries or {}).get("twins", ()))
    if grave:
        word = min((word for word, _ in grave), key=GRAVE.index)
        caveats = [f"but {text}" for text in weak]
        broken = "the proof, the code or the data flow is broken: do not release"
        return Verdict(word, (*(text for _, text in grave), broken, *written, *caveats), tuple(hints), tested)
    if written:  # no statistics: the strings are there
        return Verdict(STRINGS_FOUND, (*written, *found, *(f"but {text}" for text in weak)), tuple(hints), tested)
    if weak:
        return Verdict(INCONCLUSIVE, tuple(weak), (*found, *hints), tested)
    if found:
        return Verdict(LEAK_FOUND, tuple(found), tuple(hints), tested)
    return Verdict(NO_LEAK_FOUND, (), tuple(hints), tested)


def attack_name(attack: Mapping[str, Any]) -> str:
    """ "name/space", or the name alone, as audit.attacks has it."""
    return f"{attack['name']}/{attack['space']}" if attack["space"] else str(attack["name"])


def _attacks_above(
    deciding: Sequence[Mapping[str, Any]], proven: float | None, alpha: float
) -> Iterator[tuple[str, str]]:
    for attack in deciding:
        bound = bound_at(attack, alpha)
        if proven is not None and bound > proven:
            sure = f"at confidence {100 * (1 - alpha):.4g} %"
            yield VIOLATION, f"{attack_name(attack)} shows ε ≥ {bound:.3g} {sure}, above the proven ε = {proven:.3g}"


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


def _written(leakage: Mapping[str, Any] | None) -> Iterator[str]:
    if leakage is not None and not leakage["clean"]:
        yield f"{leakage['n_findings']} strings of the source are in files that must not hold any (local/leakage.json)"


def _copied(copies: Mapping[str, Any]) -> Iterator[str]:
    for found, how in ((copies, "copies"), (copies.get("invariant", {}), "flipped or shifted copies")):
        if found.get("caught"):
            yield f"{how}: {found['share']:.1%} of samples are nearer to training than to holdout patients"


def _leak(attack: Mapping[str, Any], alpha: float) -> str | None:
    low, high = auc_interval(attack["auc"], attack["n_members"], attack["n_nonmembers"], 1 - alpha)
    seen = []
    if low > 0.5:
        seen.append(f"AUC {attack['auc']:.3f} [{low:.3f}, {high:.3f}]")
    if (bound := bound_at(attack, alpha)) > 0:
        seen.append(f"ε ≥ {bound:.3g}")
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
