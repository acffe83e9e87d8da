"""`imgsynth ledger` as the custodian meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked import script_forked

from imgsynth import console, pipeline
from imgsynth.privacy.events import histogram_event
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.patients import Patients
from imgsynth.types import CheckFailed, InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Cohorts lungs-2023 (two runs) and lungs-2025 share 2 patients; brains shares none and has a budget."""
    ledger = Ledger(tmp_path / "ledger")
    for run, cohort, ids, issuer in (
        ("r1", "lungs-2023", "1234", None), ("r2", "lungs-2023", "1235", None), ("r3", "lungs-2025", "45", "North"),
        ("r4", "brains", "xyz", None),
    ):  # fmt: skip
        ledger.open_entry(
            cohort, histogram_event(0.5), run=run, epsilon=0.5, delta=1e-5, patients=Patients(frozenset(ids), issuer),
            budget_epsilon=3.0 if cohort == "brains" else None,
        )  # fmt: skip
    ledger.close_entry("lungs-2023", "r1")
    return ledger.folder


def shown(capsys: pytest.CaptureFixture[str], folder: Path, cohort: str | None = None, **options: object) -> str:
    pipeline.ledger(folder, cohort, **options)
    return capsys.readouterr().out


def test_all_cohorts_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = json.loads(shown(capsys, folder, as_json=True))
    rows = {row["cohort"]: row for row in said["cohorts"]}
    assert [(c, r["runs"], r["open"], r["patients"], r["budget_epsilon"]) for c, r in rows.items()] == [
        ("brains", 1, 1, 3, 3.0), ("lungs-2023", 2, 1, 5, None), ("lungs-2025", 1, 1, 2, None),
    ]  # fmt: skip
    assert rows["lungs-2025"]["shared"] == [{"cohort": "lungs-2023", "patients": 2, "runs": ["r1", "r2"]}]
    assert rows["lungs-2025"]["epsilon"] == rows["lungs-2023"]["epsilon"] == pytest.approx(1.5, abs=1e-3)
    assert rows["brains"]["epsilon"] == pytest.approx(0.5, abs=1e-3) and rows["lungs-2025"]["issuers"] == ["North"]
    assert said["records"] is None and said["folder"] == str(folder)


def test_one_cohort_run_by_run_by_how_its_name_begins(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.out, "width", 200)
    (row,) = json.loads(shown(capsys, folder, "b", as_json=True))["cohorts"]
    assert [entry["run"] for entry in row["entries"]] == ["r4"]
    text = shown(capsys, folder, "lungs-2023")
    assert all(word in text for word in ("r1", "r2", "closed", "open", "0.5", "1.5", "lungs-2025: 2"))
    assert "brains" not in text and "r3" not in text
    for unclear in ("lungs", "hearts"):
        with pytest.raises(InputError, match="one of brains, lungs-2023, lungs-2025"):
            pipeline.ledger(folder, unclear)


def test_the_custodians_acts_are_on_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown(capsys, folder, budget="brains=9.5", issuer="lungs-2023=South")
    rows = {row["cohort"]: row for row in json.loads(shown(capsys, folder, as_json=True))["cohorts"]}
    assert rows["brains"]["budget_epsilon"] == 9.5
    assert rows["lungs-2025"]["shared"] == [] and rows["lungs-2025"]["epsilon"] == pytest.approx(0.5, abs=1e-3)
    for wrong in ("brains", "=3", "brains=much", "brains=", "brains=-1", "brains=inf"):
        with pytest.raises(InputError):
            pipeline.ledger(folder, budget=wrong)
    assert Ledger(folder).budget("brains") == 9.5
    pipeline.ledger(folder, budget="a=b=2")
    assert Ledger(folder).budget("a=b") == 2.0


def test_verify_ends_with_one_where_the_ledger_is_not_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Whole: 5 records" in shown(capsys, folder, verify=True)
    assert json.loads(shown(capsys, folder, verify=True, as_json=True))["records"] == 5
    (folder / "ledger.end").unlink()
    with pytest.raises(CheckFailed, match="back-up"):
        pipeline.ledger(folder, verify=True)
    script = Path(__file__).parent.parent / "scripts" / "ledger.py"
    ended = script_forked(script, "--verify", "--folder", str(folder))
    assert ended.returncode == 1 and "back-up" in ended.stderr and "Traceback" not in ended.stderr


def test_a_lost_key_is_not_whole(folder: Path) -> None:
    (folder / "ledger.key").unlink()
    with pytest.raises(CheckFailed, match="restore it"):
        pipeline.ledger(folder, verify=True)


def test_no_ledger_at_all_is_shown_as_empty_and_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(shown(capsys, tmp_path / "none", as_json=True))["cohorts"] == []
    assert "0 records" in shown(capsys, tmp_path / "none", verify=True)
    assert not (tmp_path / "none").exists()
