"""The custodian's policy: read strictly, judged clause by clause, and what cannot be judged fails."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from imgsynth.audit.clauses import CLAUSES, Evidence
from imgsynth.audit.policy import evidence_of, policy_faults, read_policy, release_faults
from imgsynth.files import write_json
from imgsynth.release.audit_record import NO_RUN, OTHER_RUN, release_id, state_of
from imgsynth.types import InputError

NAN = float("nan")
DOCS = Path(__file__).parents[2] / "docs" / "audit" / "policy.md"


def example() -> str:
    found = re.search(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found.group(1)


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def control(kind: str, name: str, passed: bool | None = True, required: bool = True) -> dict[str, Any]:
    return {"kind": kind, "name": name, "passed": passed, "detail": "seen", "required": required}


def rate(high: float | None) -> dict[str, Any]:
    if high is None:
        return {"tpr": None, "low": None, "high": None, "status": "underpowered: 999 non-members, it takes 1000"}
    return {"tpr": high / 2, "low": 0.0, "high": high, "status": "ok"}


CARD = {
    "guarantee": {"epsilon": 7.9, "delta": 1e-5},
    "audit": {"verdict": "NO LEAK FOUND", "epsilon_lower_bound": 0.1},
}
AUDIT: dict[str, Any] = {
    "verdict": "NO LEAK FOUND (tested: nearest_neighbour/raw)",
    "epsilon_lower_bound": 0.19,
    "proven_epsilon": 7.9,
    "controls": [
        control("positive", "leaky synthesizer, 20% exact copies"),
        control("positive", "leaky synthesizer, 1% exact copies", False, required=False),
        control("negative", "label swap"),
        control("blind", "blind classifier"),
    ],
    "attacks": [
        {"name": "nearest_neighbour", "space": "raw", "tpr_at": {"0.01": rate(0.04), "0.001": rate(0.01)}},
        {"name": "logan", "space": "", "tpr_at": {"0.01": rate(0.03), "0.001": rate(0.01)}},
    ],
    "copies": {"holdout_relative_distance": {"value": 0.97, "low": 0.9, "high": 1.1}},
    "leakage": {"clean": True, "n_findings": 0, "not_read": [], "release_searched": True, "pixels": {}},
    "canaries": {"twins": [{"kind": "weights"}], "controls": [control("positive", "canaries without noise")]},
}
POLICY = {
    "max_epsilon": 8,
    "verdict": ["NO LEAK FOUND"],
    "required_controls": ["positive", "negative", "blind", "leaky synthesizer, 20%"],
    "max_tpr_at_1_percent_fpr": 0.05,
    "max_tpr_at_0.1_percent_fpr": 0.02,
    "min_holdout_relative_distance": 0.8,
    "require_clean_leakage": True,
    "require_canaries": True,
}


def test_the_example_in_the_docs_names_every_clause(tmp_path: Path) -> None:
    printed = read_policy(written(tmp_path, example()))  # what a cohort of any size can keep
    assert not [clause for clause in printed if clause.startswith("max_tpr")]
    policy = read_policy(written(tmp_path, example().replace("# max_tpr", "max_tpr")))
    assert set(policy) == set(CLAUSES) and printed.items() <= policy.items()
    assert policy["verdict"] == ["NO LEAK FOUND"]
    assert policy_faults(policy, evidence()) == []


def test_all_that_is_wrong_with_a_policy_is_said_at_once(tmp_path: Path) -> None:
    text = (
        "max_epsilom: 8\nmax_epsilon: true\nverdict: PRIVATE\nrequired_controls: []\nmax_tpr_at_1_percent_fpr: 5\n"
        "max_tpr_at_0.1_percent_fpr: '0.1'\nmin_holdout_relative_distance: -1"
    )
    with pytest.raises(InputError) as caught:
        read_policy(written(tmp_path, text))
    said = [str(fault) for fault in caught.value.faults]
    assert len(said) == 7
    assert any("max_epsilom: got an unknown clause" in one and "did you mean max_epsilon?" in one for one in said)
    assert any("Try: max_tpr_at_1_percent_fpr: 0.05, say" in one for one in said)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_epsilon: 8\nmax_epsilon: 80", "twice: max_epsilon"),
        ("- max_epsilon", "clauses, one a line"),
        ("", "clauses, one a line"),
        ("max_epsilon: [8", "YAML"),
        ("max_epsilon: .nan", "a number from 0 on"),
        ("require_canaries: false", "true, or no such line"),
        ("require_clean_leakage: 1", "true, or no such line"),
        ("verdict: [NO LEAK FOUND, PRIVATE]", "some of VIOLATION"),
        ("verdict: [NO LEAKS FOUND]", "did you mean NO LEAK FOUND?"),
    ],
)
def test_a_policy_that_is_not_one(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        read_policy(written(tmp_path, text))


def test_no_such_policy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_policy(tmp_path / "policy.yaml")


def evidence(**changes: Any) -> Evidence:
    """Evidence in which the given paths, keys joined by two underscores, have other values."""
    both = copy.deepcopy({"card": CARD, "audit": AUDIT})
    for path, value in changes.items():
        *way, last = path.split("__")
        place: Any = both
        for key in way:
            place = place[int(key)] if key.isdigit() else place[key]
        place[int(last) if last.isdigit() else last] = value
    return Evidence(both["card"], both["audit"], None, True)


def failed(found: Evidence, policy: dict[str, Any] = POLICY) -> dict[str, str]:
    return {fault.where.removeprefix("policy: "): fault.got for fault in policy_faults(policy, found)}


def test_a_release_that_keeps_all_of_it() -> None:
    assert failed(evidence()) == {}


@pytest.mark.parametrize(
    ("changes", "clause", "got"),
    [
        ({"card__guarantee__epsilon": 8.01, "audit__proven_epsilon": 8.01}, "max_epsilon", "ε = 8.01"),
        ({"card__guarantee__epsilon": None, "audit__proven_epsilon": None}, "max_epsilon", "ε = ∞"),
        ({"audit__controls__0": control("positive", "leaky synthesizer, 20% exact copies", False)},
         "required_controls", "leaky synthesizer, 20% exact copies: failed: seen"),
        ({"audit__controls__3": control("blind", "blind classifier", None)},
         "required_controls", "blind classifier: cannot be judged: seen"),
        ({"audit__controls__2": control("positive", "another")}, "required_controls", "negative: was not run"),
        ({"audit__attacks__1__tpr_at": {"0.01": rate(0.051), "0.001": rate(0.01)}},
         "max_tpr_at_1_percent_fpr", "logan: 0.0255 [0, 0.051]"),
        ({"audit__attacks__0__tpr_at": {"0.01": rate(None), "0.001": rate(0.01)}},
         "max_tpr_at_1_percent_fpr", "nearest_neighbour/raw: underpowered: 999 non-members, it takes 1000"),
        ({"audit__attacks__0__tpr_at": {"0.01": rate(0.01), "0.001": rate(0.021)}},
         "max_tpr_at_0.1_percent_fpr", "nearest_neighbour/raw: 0.0105 [0, 0.021]"),
        ({"audit__attacks": []}, "max_tpr_at_1_percent_fpr", "no attack was run"),
        ({"audit__copies": {"holdout_relative_distance": {"value": 0.9, "low": 0.7, "high": 1.1}}},
         "min_holdout_relative_distance", "0.9 [0.7, 1.1]"),
        ({"audit__leakage__clean": False, "audit__leakage__n_findings": 2},
         "require_clean_leakage", "2 strings in files, 0 read in samples"),
        ({"audit__leakage__pixels": {"samples": {"recovered": 1}}},
         "require_clean_leakage", "0 strings in files, 1 read in samples"),
        ({"audit__leakage__not_read": ["a.gz: broken"]}, "require_clean_leakage", "not read: a.gz: broken"),
        ({"audit__leakage__release_searched": False}, "require_clean_leakage", "no release was searched"),
        ({"audit__canaries": None}, "require_canaries", "no canaries"),
        ({"audit__canaries__twins": []}, "require_canaries", "no canaries"),
        ({"audit__canaries__controls": [control("positive", "canaries without noise", False)]},
         "require_canaries", "positive control of the canaries: seen"),
        ({"audit__controls__2": control("negative", "two holdouts", None, required=False)},
         "required_controls", "two holdouts: cannot be judged: seen"),
        ({"audit__attacks__0__tpr_at": {"0.01": rate(NAN), "0.001": rate(0.01)}},
         "max_tpr_at_1_percent_fpr", "nearest_neighbour/raw: nan [0, nan]"),
        ({"audit__copies": {"holdout_relative_distance": {"value": 0.9, "low": NAN, "high": 1.1}}},
         "min_holdout_relative_distance", "0.9 [nan, 1.1]"),
        ({"audit__copies": {}}, "min_holdout_relative_distance", "no copy check"),
    ],
)  # fmt: skip
def test_each_clause_fails_for_its_own_reason(changes: dict[str, Any], clause: str, got: str) -> None:
    found = failed(evidence(**changes))
    assert found[clause] == got
    assert all(name.startswith(clause[:7]) for name in found)


def test_each_fault_says_its_own_way_out() -> None:
    """One text for all would send somebody without canaries to look for a smaller ε."""
    broken = evidence(
        card__guarantee__epsilon=9.0, audit__proven_epsilon=9.0, audit__canaries=None, audit__attacks=[],
        audit__verdict="INCONCLUSIVE: few", card__audit__verdict="INCONCLUSIVE", audit__leakage__not_read=["a.gz: bad"],
        audit__controls__2=control("negative", "label swap", False),
        audit__controls__3=control("blind", "blind classifier", None),
        audit__copies={"holdout_relative_distance": {"value": 0.9, "low": 0.7, "high": 1.1}},
    )  # fmt: skip
    faults = policy_faults(POLICY | {"required_controls": ["negative", "blind", "blind classifer"]}, broken)
    remedies = [fault.remedy for fault in faults]
    assert len(faults) == 10 and len(set(remedies)) == 9  # both rates of false alarms lack the same
    said = dict(zip((fault.where.removeprefix("policy: ") for fault in faults), remedies, strict=True))
    assert "privacy.epsilon=8 or less" in said["max_epsilon"]
    assert said["require_canaries"] == "imgsynth audit canaries output=RUN"
    assert "copy_sheet" in said["min_holdout_relative_distance"] and "readable" in said["require_clean_leakage"]
    assert "audit again" in said["verdict"] and any("did you mean blind classifier?" in one for one in remedies)
    assert any("tells the splits apart" in one for one in remedies)
    assert any("more held-out patients or a larger audit.n" in one for one in remedies)


def test_an_epsilon_that_is_no_number_is_not_below_the_limit() -> None:
    assert failed(evidence(card__guarantee__epsilon=NAN))["max_epsilon"] == "ε = nan"


def test_verdicts_that_were_not_asked_for() -> None:
    leaking = evidence(audit__verdict="LEAK FOUND: AUC 0.9", card__audit__verdict="LEAK FOUND")
    assert failed(leaking) == {"verdict": "LEAK FOUND: AUC 0.9"}
    assert failed(leaking, POLICY | {"verdict": ["LEAK FOUND", "NO LEAK FOUND"]}) == {}


def test_without_an_audit_every_clause_about_it_fails() -> None:
    found = failed(Evidence(CARD, None, None, False))
    assert set(found) == set(POLICY) - {"max_epsilon"}
    assert found["verdict"] == "no audit"


@pytest.mark.parametrize("changes", [{"card__audit__verdict": "LEAK FOUND"}, {"audit__epsilon_lower_bound": 0.2},
                                     {"audit__proven_epsilon": 1.0}])  # fmt: skip
def test_the_audit_of_another_run_is_no_evidence(changes: dict[str, Any]) -> None:
    assert set(failed(evidence(**changes), {"max_epsilon": 8})) == {"audit.json"}


def test_files_that_cannot_be_read_are_faults_not_crashes(tmp_path: Path) -> None:
    release = tmp_path / "release"
    assert "FileNotFoundError" in release_faults(POLICY, release, None)[0].got
    write_json(release / "privacy_card.json", CARD)
    assert {f.where for f in release_faults(POLICY, release, None)} == {
        f"policy: {name}" for name in set(POLICY) - {"max_epsilon"}
    }
    (release / "checksums.sha256").write_text(f"{'0' * 64}  README.md\n")
    of = {"run": "r", "plan_sha256": "p", "checkpoint_sha256": "c", "release": release_id(release)}
    write_json(tmp_path / "audit.json", AUDIT | {"of": of, "leakage": AUDIT["leakage"]})
    assert release_faults(POLICY, release, None) == []
    (fault,) = release_faults(POLICY, release, tmp_path / "elsewhere.json")
    assert "FileNotFoundError" in fault.got
    write_json(tmp_path / "audit.json", [1])
    assert len(release_faults(POLICY, release, None)) == 1


def test_an_audit_must_be_of_the_run_and_its_search_of_the_release(tmp_path: Path) -> None:
    """With the run's folder beside it the run decides; away from it, only the very files that were searched do."""
    release, checkpoint = tmp_path / "release", tmp_path / "checkpoints" / "last.pt"
    release.mkdir()
    checkpoint.parent.mkdir()
    (release / "checksums.sha256").write_text(f"{'0' * 64}  synthetic_cohort.csv\n")
    checkpoint.write_bytes(b"weights")
    of = state_of(tmp_path) | {"release": release_id(release)}
    audit = AUDIT | {"of": of, "leakage": AUDIT["leakage"]}
    assert failed(evidence_of(CARD, audit, tmp_path, release)) == {}
    assert failed(evidence_of(CARD, AUDIT, tmp_path, release))["audit.json"] == NO_RUN
    checkpoint.write_bytes(b"other weights")
    assert failed(evidence_of(CARD, audit, tmp_path, release))["audit.json"] == OTHER_RUN
    checkpoint.unlink()
    assert failed(evidence_of(CARD, audit, tmp_path, release)) == {}
    (release / "checksums.sha256").write_text(f"{'1' * 64}  synthetic_cohort.csv\n")
    assert failed(evidence_of(CARD, audit, tmp_path, release))["audit.json"] == OTHER_RUN
    checkpoint.write_bytes(b"weights")
    found = failed(evidence_of(CARD, audit, tmp_path, release))
    assert set(found) == {"verdict"} and "not made on this release" in found["verdict"]
