"""The audit's part of the report: plain words that fit the verdict, what was not tested, figures of what is there."""

from __future__ import annotations

import copy
import shutil
import xml.etree.ElementTree as ElementTree
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgsynth import pipeline
from imgsynth.audit.conclude import conclude, conclude_again
from imgsynth.audit.verdict import WORDS
from imgsynth.files import read_json, write_json
from imgsynth.release.audit_record import OTHER_RUN
from imgsynth.release.canary_record import FORMAT, identity
from imgsynth.release.rounding import fixed_down, fixed_up, outward
from imgsynth.release.update import update_card
from imgsynth.report.audit_part import ACCESS, PLAIN, audit_part, not_tested
from imgsynth.report.audit_power import could_show
from imgsynth.report.write import write_report
from imgsynth.types import CheckFailed

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def audit(complete: Path) -> dict[str, Any]:
    return read_json(complete / "audit.json")


def canaries(bound: float, proven: float = 8.0) -> dict[str, Any]:
    control = {"name": "canaries without noise, weights", "kind": "positive", "passed": True, "value": 3.0, "low": None,
               "high": None, "detail": "a twin without noise was caught", "required": True}  # fmt: skip
    twin = {"kind": "weights", "guesses": 50, "correct": 48, "epsilon_lower_bound": bound, "ceiling": 4.0,
            "p_value_of_claimed_curve": 0.5, "mechanism": [], "epsilon_under_gaussian_hypothesis": 3.3, "seconds": 1.0,
            "coins": "01100111000111", "scores": [0.125, 0.25, 0.5, 1.0]}  # fmt: skip
    return {"meaning": "Trained anew with canaries.", "verdict": "", "proven_epsilon": proven, "delta": 1e-3,
            "alpha": 0.05, "alpha_of_each_test": 0.025, "alpha_of_bounds": 0.025, "twins": [twin],
            "controls": [control]}  # fmt: skip


def svg(uri: str) -> str:
    """The text in a figure, which must be well formed."""
    root = ElementTree.fromstring(b64decode(uri.split(",", 1)[1]))
    return " ".join(text for element in root.iter(f"{SVG}text") if (text := "".join(element.itertext()).strip()))


def test_every_word_has_its_plain_words_and_every_access_its_name() -> None:
    assert set(PLAIN) == set(WORDS)
    assert set(ACCESS) == {"samples", "samples+reference", "white box", "recipe"}


def test_what_was_not_tested_shrinks_as_it_is_tested(audit: dict[str, Any]) -> None:
    before = list(not_tested(audit))
    assert any("no canaries" in text for text in before)
    assert any(text.startswith("Attacks that were not run: ") and "logan" in text for text in before)
    assert "No attack with the model's weights." in before
    more = copy.deepcopy(audit) | {"canaries": canaries(1.0)}
    more["attacks"].append(more["attacks"][0] | {"name": "logan", "space": "", "access": "white box",
                                                 "role": "exploratory"})  # fmt: skip
    after = list(not_tested(more))
    assert len(after) == len(before) - 2
    assert not any("logan" in text for text in after)
    assert after[-1].startswith("Attackers who know more")


def test_figures_say_what_was_proven_and_found(audit: dict[str, Any]) -> None:
    with_canaries = conclude(audit, canaries(1.25))
    shown = audit_part(with_canaries)
    ladder = svg(shown["ladder"])
    assert "canaries (weights)" in ladder and "nearest_neighbour/raw" in ladder
    assert "proven: ε at most 8" in ladder.replace("7.99", "8") and "if Gaussian: no bound" in ladder
    assert "∞" in svg(audit_part(with_canaries | {"proven_epsilon": None})["ladder"])
    assert "95 % band" in svg(shown["roc"])
    none = audit | {"attacks": [], "canaries": None}
    assert (audit_part(none)["roc"], audit_part(none)["ladder"]) == (None, None)


def test_what_could_have_been_seen_stands_beside_what_was(audit: dict[str, Any]) -> None:
    rows = {what: (least, found) for what, least, found in could_show(audit)}
    power, attack = audit["power"], audit["attacks"][0]
    assert rows["lower bound on ε, of attacks that decide"][0] == f"{fixed_down(power['ceiling'])} at most"
    assert rows["AUC"] == (
        f"from {fixed_up(power['auc'], 3)} on",
        f"{attack['auc']:.3f} {outward(attack['auc_low'], attack['auc_high'], 3)}, nearest neighbour/raw",
    )
    assert rows["members found at 1 % false alarms"][1] == "underpowered"
    none = could_show(audit | {"power": power | {"auc": None, "epsilon": None}, "attacks": []})
    assert dict((row[0], row[1:]) for row in none)["AUC"] == ("nothing, however large", "–")


def test_every_look_of_canaries_is_shown(audit: dict[str, Any]) -> None:
    first = canaries(0.75) | {"time": "2026-11-21T10:11:12", "verdict": "NO VIOLATION FOUND (first)", "could_show": {
        "smallest_epsilon": 2.031, "sentence": "at best little"}}  # fmt: skip
    found = conclude(audit, canaries(1.25) | {"earlier_looks": [first], "alpha_of_bounds": 0.05})
    rows = {what: (least, seen) for what, least, seen in could_show(found)}
    assert rows["lower bound on ε, of canaries (weights), look 1 of 2"] == ("4.00 at most", "0.75")
    assert rows["lower bound on ε, of canaries (weights), look 2 of 2"] == ("4.00 at most", "1.25")
    assert rows["ε leaked in full, of canaries, look 1 of 2"][0] == "from 2.04 on"
    assert "canaries (weights), look 1" in svg(audit_part(found)["ladder"])


def test_coins_and_scores_of_canaries_stay_in_their_file(audit: dict[str, Any]) -> None:
    found = conclude(audit, canaries(1.25))
    assert found["canaries"]["twins"][0]["correct"] == 48
    assert not {"coins", "scores"} & set(found["canaries"]["twins"][0])
    assert (found["epsilon_lower_bound"], found["epsilon_lower_bound_from"]) == (1.25, "canaries (weights)")
    assert found["alpha_of_bound"] == pytest.approx(0.075)  # the largest of several bounds, each with its own α
    assert conclude(found, canaries(1.25)) == found


def test_a_violation_by_canaries_reaches_report_and_card(complete: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(complete, tmp_path / "run"))
    write_json(run_dir / "canaries.json", canaries(3.5, proven=2.0) | {"format": FORMAT, "of": identity(run_dir)})
    conclude_again(run_dir)
    update_card(run_dir)
    write_report(run_dir)
    card, page = read_json(run_dir / "release" / "privacy_card.json"), (run_dir / "report.html").read_text()
    assert card["audit"]["verdict"] == "VIOLATION" and not card["releasable"]
    assert PLAIN["VIOLATION"][:40] in page and "canaries (weights) show ε ≥ 3.5" in page
    assert "could have shown at all" in page and "One look at twins of this run" in page
    assert "01100111000111" not in page


def test_a_policy_is_kept_or_broken_by_the_run(complete: Path, tmp_path: Path) -> None:
    audit = read_json(complete / "audit.json")
    assert read_json(complete / "release" / "privacy_card.json")["audit"]["release_searched"] is True
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"max_epsilon: 8\nverdict: [{audit['judgement']['word']}]\nmin_holdout_relative_distance: 0.1")
    assert pipeline.verify(complete / "release", policy) == complete / "release"
    policy.write_text("max_epsilon: 1\nverdict: [VIOLATION]\nmax_tpr_at_1_percent_fpr: 1\nrequired_controls: [none]")
    with pytest.raises(CheckFailed) as caught:
        pipeline.verify(complete / "release", policy)
    assert caught.value.exit_code == 1
    assert [fault.where.split(": ")[1] for fault in caught.value.faults] == [
        "max_epsilon", "verdict", "max_tpr_at_1_percent_fpr", "required_controls"
    ]  # fmt: skip
    assert "underpowered" in caught.value.faults[2].got


def test_the_audit_of_another_run_is_not_in_the_report(complete: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(complete, tmp_path / "run"))
    audit = read_json(run_dir / "audit.json")
    write_json(run_dir / "audit.json", audit | {"of": audit["of"] | {"run": "another"}})
    write_report(run_dir)
    page = (run_dir / "report.html").read_text()
    assert OTHER_RUN.capitalize() in page and "Whose risk" not in page and OTHER_RUN in page.split("<nav>")[0]


def test_worst_patients_are_named_in_the_local_folder_alone(complete: Path) -> None:
    names = read_json(complete / "local" / "patients_at_risk.json")
    assert len(names) == 10 and len(set(names)) == 10
    assert not any(name in (complete / "audit.json").read_text() for name in names)
    percentiles = read_json(complete / "audit.json")["risk"]["worst"]["percentiles"]
    assert percentiles == sorted(percentiles, reverse=True) and np.all(np.array(percentiles) <= 100)
