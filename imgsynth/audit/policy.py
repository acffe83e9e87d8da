"""The custodian's conditions for a release, written before it is made: a YAML file of a few clauses.

| clause                        | is judged by                                                                       |
|-------------------------------|------------------------------------------------------------------------------------|
| max_epsilon                   | the proven ε on the release's privacy card                                         |
| verdict                       | the audit's word: one of these                                                     |
| required_controls             | each a kind of control or the beginning of a name: all of those ran and passed     |
| max_tpr_at_1_percent_fpr      | every attack: upper end of the 95 % interval                                       |
| max_tpr_at_0.1_percent_fpr    | likewise                                                                           |
| min_holdout_relative_distance | copy check: lower end of the interval of distances to train over those to holdout  |
| require_clean_leakage         | no string of the source in a file, or read in samples; a release, and all was read |
| require_canaries              | canaries were counted, with all their required controls passed                     |

A clause that is left out asks for nothing. A clause that cannot be judged (no audit, too few patients) fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from imgsynth.audit.verdict import WORDS, attack_name
from imgsynth.files import read_json
from imgsynth.release.audit_record import NO_RUN, OTHER_RUN, refused, searched
from imgsynth.release.card import CARD_JSON
from imgsynth.release.rounding import at_most, outward_digits, round_down
from imgsynth.training.folder import RunFolder
from imgsynth.types import Fault, InputError

REMEDY = "do not release; change the run, or the policy if the custodian decides so"

Judge = Callable[["Evidence", Any], Iterator[tuple[str, str]]]  # (got, expected) of what fails


@dataclass(frozen=True)
class Evidence:
    """The card of the release, and the audit of its run; None where there was none. ``not_of_it``: why the audit is
    not of this run and its release; ``searched``: whether its search for strings was made on the release as it is."""

    card: Mapping[str, Any]
    audit: Mapping[str, Any] | None
    not_of_it: str | None
    searched: bool


@dataclass(frozen=True)
class Clause:
    """``accepts`` tells whether a value in the file makes sense, ``expected`` says so in words."""

    accepts: Callable[[Any], bool]
    expected: str
    judge: Judge


def read_policy(path: Path) -> dict[str, Any]:
    """Clauses by name. InputError with all that is wrong: no file, no YAML, unknown or doubled keys, bad values."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _NoDoubles)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(Fault(str(path), reason, "a YAML file of clauses", "see docs/audit/policy.md")) from error
    if not isinstance(found, dict) or not found:
        raise InputError(Fault(str(path), repr(found), "clauses, one a line", "max_epsilon: 8"))
    faults = []
    for name, value in found.items():
        clause = CLAUSES.get(name)
        if clause is None:
            faults.append(Fault(f"{path}: {name}", "an unknown clause", f"some of {', '.join(CLAUSES)}", "spell it so"))
        elif not clause.accepts(value):
            faults.append(Fault(f"{path}: {name}", repr(value), clause.expected, "see docs/audit/policy.md"))
    if faults:
        raise InputError(*faults)
    return found


def release_faults(policy: Mapping[str, Any], release: Path, audit: Path | None) -> list[Fault]:
    """``policy_faults`` by the card in ``release`` and by ``audit``, default the audit.json beside the release folder.

    A file that is not there, or is not what imgsynth writes, is a fault of its own: nothing can be judged by it.
    """
    path = release.resolve().parent / "audit.json" if audit is None else audit
    try:
        there = audit is not None or path.is_file()
        card, found = read_json(release / CARD_JSON), read_json(path) if there else None
        return policy_faults(policy, evidence_of(card, found, release.resolve().parent, release))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        got = f"{type(error).__name__}: {error}"
        return [Fault("policy", got, "a privacy card and an audit.json as imgsynth writes them", "imgsynth audit")]


def evidence_of(
    card: Mapping[str, Any], audit: Mapping[str, Any] | None, run_dir: Path, release: Path | None
) -> Evidence:
    """``run_dir`` need not hold a run: an audit of this very release, by its files, is of its run wherever that is."""
    if audit is None:
        return Evidence(card, None, None, False)
    this_release = release is not None and searched(audit, release)
    if RunFolder(run_dir).checkpoint.is_file():
        why_not = refused(audit, run_dir)
    elif not isinstance(audit.get("of"), dict):
        why_not = NO_RUN
    else:
        why_not = None if this_release else OTHER_RUN
    return Evidence(card, audit, why_not, this_release)


def policy_faults(policy: Mapping[str, Any], evidence: Evidence) -> list[Fault]:
    """Every clause that does not hold, with what was got."""
    faults = [
        _fault(name, *failed) for name, value in policy.items() for failed in CLAUSES[name].judge(evidence, value)
    ]
    return faults + _other_run(evidence)


def _other_run(evidence: Evidence) -> list[Fault]:
    """An audit that is not the one on the card is no evidence about this release."""
    on_card, audit = evidence.card["audit"], evidence.audit
    if audit is None:
        return []
    if evidence.not_of_it is not None:
        return [_fault("audit.json", evidence.not_of_it, "an audit of this run and its release")]
    lower = audit["epsilon_lower_bound"]
    rounded = None if lower is None else round_down(lower)
    word = next((word for word in WORDS if audit["verdict"].startswith(word)), None)
    same = (on_card["verdict"], on_card["epsilon_lower_bound"]) == (word, rounded)
    if same and audit["proven_epsilon"] == evidence.card["guarantee"]["epsilon"]:
        return []
    got = f"{audit['verdict'][:40]}, ε ≥ {rounded}"
    shown = f"{on_card['verdict']}, ε ≥ {on_card['epsilon_lower_bound']}, as the privacy card says"
    return [Fault("audit.json", got, shown, "the audit.json of this run; imgsynth audit brings the card up to date")]


def _epsilon(evidence: Evidence, most: float) -> Iterator[tuple[str, str]]:
    proven = evidence.card["guarantee"]["epsilon"]
    if proven is None or not proven <= most:  # NaN fails too, here and below
        yield f"ε = {'∞' if proven is None else at_most(proven, 4)}", f"at most {most:g}"


def _verdict(evidence: Evidence, allowed: list[str]) -> Iterator[tuple[str, str]]:
    expected = " or ".join(allowed)
    if evidence.audit is None:
        yield "no audit", expected
    elif not any(evidence.audit["verdict"].startswith(word) for word in allowed):
        yield evidence.audit["verdict"], expected
    elif not evidence.searched:
        got = "the search for strings of the source, which the verdict rests on, was not made on this release"
        yield got, "that imgsynth audit comes after imgsynth sample"


def _controls(evidence: Evidence, required: list[str]) -> Iterator[tuple[str, str]]:
    controls = evidence.audit["controls"] if evidence.audit else []
    for wanted in required:
        those = [c for c in controls if c["kind"] == wanted or c["name"].startswith(wanted)]
        if not those:
            yield f"{wanted}: was not run", "that it was run and passed"
        for control in those:
            missed = control["passed"] is False and control["kind"] == wanted and not control["required"]
            if control["passed"] is not True and not missed:
                word = "failed" if control["passed"] is False else "cannot be judged"
                yield f"{control['name']}: {word}: {control['detail']}", "that it passes"


def _tpr(at: str) -> Judge:
    def judge(evidence: Evidence, most: float) -> Iterator[tuple[str, str]]:
        attacks = evidence.audit["attacks"] if evidence.audit else []
        if not attacks:
            yield "no attack was run", f"at most {most:g}, measured"
        for attack in attacks:
            found = attack["tpr_at"][at]
            if found["high"] is None:
                yield f"{attack_name(attack)}: {found['status']}", f"at most {most:g}, measured"
            elif not found["high"] <= most:
                got = f"{attack_name(attack)}: {found['tpr']:.3g} {outward_digits(found['low'], found['high'])}"
                yield got, f"at most {most:g}, by the upper end of the interval"

    return judge


def _distance(evidence: Evidence, least: float) -> Iterator[tuple[str, str]]:
    found = (evidence.audit or {}).get("copies", {}).get("holdout_relative_distance")
    if found is None:
        yield "no copy check", f"at least {least:g}, measured"
    elif not found["low"] >= least:
        got = f"{found['value']:.3g} {outward_digits(found['low'], found['high'])}"
        yield got, f"at least {least:g}, by the lower end of the interval"


def _clean(evidence: Evidence, _: bool) -> Iterator[tuple[str, str]]:
    expected = "no string of the source in any file or sample, all of it searched, the release too"
    found = (evidence.audit or {}).get("leakage")
    if found is None:
        yield "no search for strings of the source", expected
        return
    read = found["pixels"].get("samples", {}).get("recovered", 0)
    if found["clean"] is not True or read:
        yield f"{found['n_findings']} strings in files, {read} read in samples", expected
    if found["not_read"]:
        yield f"not read: {'; '.join(found['not_read'])}", expected
    if found["release_searched"] is not True:
        yield "no release was searched", expected


def _canaries(evidence: Evidence, _: bool) -> Iterator[tuple[str, str]]:
    found = (evidence.audit or {}).get("canaries")
    if not found or not found["twins"]:
        yield "no canaries", "that they were counted"
        return
    for control in found["controls"]:
        if control["required"] and control["passed"] is not True:
            yield f"{control['kind']} control of the canaries: {control['detail']}", "that it passes"


def _fault(name: str, got: str, expected: str) -> Fault:
    return Fault(f"policy: {name}", got, expected, REMEDY)


def _number(least: float, most: float) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and least <= v <= most


def _names(v: Any) -> bool:
    return isinstance(v, list) and bool(v) and all(isinstance(one, str) and one for one in v)


_DEMAND = (lambda v: v is True, "true, or no such line")
_RATE = (_number(0, 1), "a rate in [0, 1]")
CLAUSES: dict[str, Clause] = {
    "max_epsilon": Clause(_number(0, 1e6), "a number from 0 on", _epsilon),
    "verdict": Clause(lambda v: _names(v) and set(v) <= set(WORDS), f"a list, some of {', '.join(WORDS)}", _verdict),
    "required_controls": Clause(_names, "a list of kinds (positive, negative, blind) or names", _controls),
    "max_tpr_at_1_percent_fpr": Clause(*_RATE, _tpr("0.01")),
    "max_tpr_at_0.1_percent_fpr": Clause(*_RATE, _tpr("0.001")),
    "min_holdout_relative_distance": Clause(_number(0, 1), "a ratio in [0, 1]; 1 is as far as strangers", _distance),
    "require_clean_leakage": Clause(*_DEMAND, _clean),
    "require_canaries": Clause(*_DEMAND, _canaries),
}


class _NoDoubles(yaml.SafeLoader):
    """YAML in which a key that comes twice is an error; plain YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep) for key, _ in node.value]
        doubled = {str(key) for key in keys if keys.count(key) > 1}
        if doubled:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {', '.join(sorted(doubled))}", node.start_mark)
        return super().construct_mapping(node, deep)
