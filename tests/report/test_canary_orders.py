"""What canaries say against a run reaches audit.json, the card, ``verify`` and the report, in whatever order."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgsynth import pipeline
from imgsynth.audit.canaries.run import verdict_of
from imgsynth.audit.conclude import conclude
from imgsynth.audit.run import audit_run
from imgsynth.files import read_json, write_json
from imgsynth.release.canary_record import FORMAT, GRAVE, NAME, identity, read_canaries
from imgsynth.schema import Config
from imgsynth.types import CheckFailed

ORDERS = [order for n in (2, 3) for order in itertools.permutations(("sample", "audit", "canaries"), n)]
ORDERS = [order for order in ORDERS if {"sample", "canaries"} <= set(order)]
CHANGES = {
    "VIOLATION": {"epsilon_lower_bound": 9.5},
    "CLAIM REJECTED": {"p_value_of_claimed_curve": 0.02},
    "MECHANISM BROKEN": {
        "mechanism": [{"name": "noise", "value": 0.9, "expected": 1.8, "p": 1e-9, "passed": False}],
    },
    "NO VIOLATION FOUND": {},
}


def record(run_dir: Path, word: str) -> dict[str, Any]:
    control = {"name": "canaries without noise, side", "kind": "positive", "passed": True, "value": 3.0, "low": None,
               "high": None, "detail": "a twin without noise was caught", "required": True}  # fmt: skip
    twin = {"kind": "side", "guesses": 50, "correct": 30, "epsilon_lower_bound": 0.25, "ceiling": 4.0, "mechanism": [],
            "p_value_of_claimed_curve": 0.5, "epsilon_under_gaussian_hypothesis": 0.3, "seconds": 1.0,
            "coins": "01100111000111", "scores": [0.125, 0.25, 0.5, 1.0]}  # fmt: skip
    found = {"format": FORMAT, "of": identity(run_dir), "meaning": "Trained anew.", "proven_epsilon": 8.0,
             "delta": 1e-3, "alpha": 0.05, "alpha_of_each_test": 0.025, "alpha_of_bounds": 0.025,
             "twins": [twin | CHANGES[word]], "controls": [control]}  # fmt: skip
    return found | {"verdict": verdict_of(found)}


@pytest.fixture
def steps(
    trained: tuple[Path, Config], complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Take the steps named on a fresh copy of a trained run, as the command line does; attacks and twins are not run
    again: what they measured is given."""
    measured = read_json(complete / "audit.json")

    def take(order: tuple[str, ...], word: str) -> Path:
        run_dir = Path(shutil.copytree(trained[0], tmp_path / "run"))
        cfg = dataclasses.replace(trained[1], output=str(run_dir))

        def audited(folder: Path, *_: Any) -> dict[str, Any]:
            found = conclude(measured, *read_canaries(folder))  # as audit_run ends
            write_json(folder / "audit.json", found)
            return found

        def twins(folder: Path, *_: Any) -> None:
            found = record(folder, word)
            write_json(folder / NAME, found)
            if found["verdict"].startswith(GRAVE):
                raise CheckFailed()

        monkeypatch.setattr(pipeline, "audit_run", audited)
        monkeypatch.setattr(pipeline, "canaries_run", twins)
        for name in order:
            if name == "canaries" and word in GRAVE:
                with pytest.raises(CheckFailed):
                    pipeline.audit_canaries(cfg)
            else:
                {"sample": pipeline.sample, "audit": pipeline.audit, "canaries": pipeline.audit_canaries}[name](cfg)
        return run_dir

    return take


def refused(run_dir: Path, word: str) -> None:
    card = read_json(run_dir / "release" / "privacy_card.json")
    assert card["audit"]["verdict"] == word and not card["releasable"]
    assert word in (run_dir / "release" / "privacy_card.md").read_text().split("## What an attacker")[0]
    with pytest.raises(CheckFailed) as caught:
        pipeline.verify(run_dir / "release")
    assert [fault.where for fault in caught.value.faults] == ["NOT RELEASABLE"]
    assert caught.value.faults[0].got == card["not_releasable_because"][0]
    if (run_dir / "audit.json").is_file():
        assert read_json(run_dir / "audit.json")["judgement"]["word"] == word


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_a_broken_mechanism_is_not_releasable_whatever_came_first(
    order: tuple[str, ...], steps: Callable[..., Path]
) -> None:
    refused(steps(order, "MECHANISM BROKEN"), "MECHANISM BROKEN")


@pytest.mark.parametrize(
    ("word", "order"),
    [
        ("VIOLATION", ("sample", "canaries")),
        ("CLAIM REJECTED", ("canaries", "audit", "sample")),
        ("MECHANISM BROKEN", ("sample", "canaries")),
    ],
    ids=GRAVE,
)
def test_each_grave_word_reaches_card_and_report(word: str, order: tuple[str, ...], steps: Callable[..., Path]) -> None:
    run_dir = steps(order, word)
    refused(run_dir, word)
    card = read_json(run_dir / "release" / "privacy_card.json")["audit"]
    if "audit" in order:
        assert (card["status"], card["alpha"]) == ("audited", pytest.approx(0.075))
    else:
        assert (card["status"], card["alpha"]) == ("by canaries alone", 0.025)
        assert card["epsilon_lower_bound"] == (9.5 if word == "VIOLATION" else 0.2)
    pipeline.report(dataclasses.replace(Config(), output=str(run_dir)))
    page, public = (run_dir / "report.html").read_text(), (run_dir / "report_public.html").read_text()
    assert f"{word}: canaries (side)" in page and "01100111000111" not in page
    assert word in public and "NOT RELEASABLE" in public and "canaries (side)" not in public
    assert ("noise: 0.9, not 1.8" in page) == (word == "MECHANISM BROKEN")


@pytest.mark.parametrize("order", [("canaries", "sample"), ("sample", "audit", "canaries")], ids="-".join)
def test_canaries_that_found_nothing_stand_against_nothing(
    order: tuple[str, ...], steps: Callable[..., Path], complete: Path
) -> None:
    run_dir = steps(order, "NO VIOLATION FOUND")
    card = read_json(run_dir / "release" / "privacy_card.json")
    own = read_json(complete / "audit.json")["judgement"]["word"] if "audit" in order else None
    assert card["releasable"] and card["audit"]["verdict"] == own  # canaries alone are no audit of a release
    pipeline.verify(run_dir / "release")


def test_the_audit_itself_counts_the_canaries_that_came_before(trained: tuple[Path, Config], tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(trained[0], tmp_path / "run"))
    write_json(run_dir / NAME, record(run_dir, "MECHANISM BROKEN"))
    settings = dataclasses.replace(trained[1].audit, n=20, controls=False, ocr_pictures=0)
    found = audit_run(run_dir, dataclasses.replace(trained[1], output=str(run_dir), audit=settings))
    assert found["judgement"]["word"] == "MECHANISM BROKEN" == read_json(run_dir / "audit.json")["judgement"]["word"]


def of_another(run_dir: Path, what: str) -> dict[str, Any]:
    found = record(run_dir, "VIOLATION")
    if what == "id":
        found["of"]["run"] = "0" * 32
    elif what == "settings":
        found["of"]["settings"] = "0" * 64
    elif what == "format":
        found["format"] = "imgsynth-canaries-1"
    elif what == "nothing said":
        del found["of"]
    else:
        found["of"]["plan"][what] = "plain" if what == "engine" else 0.5 + found["of"]["plan"][what]
    return found


@pytest.mark.parametrize(
    "what", ["id", "settings", "format", "nothing said", "engine", "noise_multiplier", "steps", "sampling_rate"]
)
def test_a_record_of_another_run_is_not_taken_and_that_is_said(complete: Path, tmp_path: Path, what: str) -> None:
    run_dir = Path(shutil.copytree(complete, tmp_path / "run"))
    write_json(run_dir / NAME, of_another(run_dir, what))
    taken, why = read_canaries(run_dir)
    assert taken is None and why is not None and (what in why or what in ("id", "nothing said"))
    assert NAME in why
    before = read_json(run_dir / "audit.json")
    cfg = dataclasses.replace(Config(), output=str(run_dir))
    pipeline.conclude_again(run_dir)
    pipeline.update_card(run_dir)
    after = read_json(run_dir / "audit.json")
    assert after["judgement"]["word"] == before["judgement"]["word"] and after["canaries"] is None
    assert after["not_done"] == [*before["not_done"], {"what": "canaries", "why": why}]
    assert read_json(run_dir / "release" / "privacy_card.json")["releasable"]
    if what == "id":
        pipeline.report(cfg)
        assert why in (run_dir / "report.html").read_text()
        write_json(run_dir / NAME, record(run_dir, "VIOLATION"))  # its own, at last
        pipeline.conclude_again(run_dir)
        assert read_json(run_dir / "audit.json")["not_done"] == before["not_done"]


def test_how_much_is_computed_at_once_makes_no_other_run(complete: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(complete, tmp_path / "run"))
    write_json(run_dir / NAME, record(run_dir, "VIOLATION"))
    write_json(run_dir / "plan.json", read_json(run_dir / "plan.json") | {"physical_batch": 3, "statement": "reworded"})
    assert read_canaries(run_dir)[0] is not None


def test_a_card_counts_a_record_that_audit_json_does_not_have_yet(complete: Path, tmp_path: Path) -> None:
    """Killed between the two."""
    run_dir = Path(shutil.copytree(complete, tmp_path / "run"))
    write_json(run_dir / NAME, record(run_dir, "VIOLATION"))
    pipeline.update_card(run_dir)
    card = read_json(run_dir / "release" / "privacy_card.json")
    assert card["audit"]["verdict"] == "VIOLATION" and card["audit"]["epsilon_lower_bound"] == 9.5
    assert "ε at least 9.5" in card["not_releasable_because"][0]
