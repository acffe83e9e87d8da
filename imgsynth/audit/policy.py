"""The custodian's conditions for a release, written before it is made: a YAML file of a few clauses (``clauses.py``).

A clause that is left out asks for nothing. A clause that cannot be judged (no audit, too few patients) fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from imgsynth.audit.clauses import AGAIN, CLAUSES, Evidence
from imgsynth.audit.verdict import WORDS
from imgsynth.files import read_json
from imgsynth.release.audit_record import NO_RUN, OTHER_RUN, refused, searched
from imgsynth.release.card import CARD_JSON
from imgsynth.release.rounding import round_down
from imgsynth.training.folder import RunFolder
from imgsynth.types import Fault, InputError, nearest_name


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
            near = nearest_name(str(name), CLAUSES)
            remedy = f"did you mean {near}?" if near else "see docs/audit/policy.md; without this line nothing is asked"
            faults.append(Fault(f"{path}: {name}", "an unknown clause", f"some of {', '.join(CLAUSES)}", remedy))
        elif not clause.accepts(value):
            faults.append(Fault(f"{path}: {name}", repr(value), clause.expected, clause.remedy(str(name), value)))
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
        Fault(f"policy: {name}", failed.got, failed.expected, failed.remedy)
        for name, value in policy.items()
        for failed in CLAUSES[name].judge(evidence, value)
    ]
    return faults + _other_run(evidence)


def _other_run(evidence: Evidence) -> list[Fault]:
    """An audit that is not the one on the card is no evidence about this release."""
    on_card, audit = evidence.card["audit"], evidence.audit
    if audit is None:
        return []
    if evidence.not_of_it is not None:
        expected = "an audit of this run and its release"
        return [
            Fault("policy: audit.json", evidence.not_of_it, expected, f"its own audit.json (--audit FILE), or {AGAIN}")
        ]
    lower = audit["epsilon_lower_bound"]
    rounded = None if lower is None else round_down(lower)
    word = next((word for word in WORDS if audit["verdict"].startswith(word)), None)
    same = (on_card["verdict"], on_card["epsilon_lower_bound"]) == (word, rounded)
    if same and audit["proven_epsilon"] == evidence.card["guarantee"]["epsilon"]:
        return []
    got = f"{audit['verdict'][:40]}, ε ≥ {rounded}"
    shown = f"{on_card['verdict']}, ε ≥ {on_card['epsilon_lower_bound']}, as the privacy card says"
    return [Fault("audit.json", got, shown, "the audit.json of this run; imgsynth audit brings the card up to date")]


class _NoDoubles(yaml.SafeLoader):
    """YAML in which a key that comes twice is an error; plain YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep) for key, _ in node.value]
        doubled = {str(key) for key in keys if keys.count(key) > 1}
        if doubled:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {', '.join(sorted(doubled))}", node.start_mark)
        return super().construct_mapping(node, deep)
