"""What is written after an audit is searched like the rest: the public report, and a release that was drawn anew."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from imgsynth import pipeline
from imgsynth.audit.leakage.sought import Sought
from imgsynth.files import read_json, write_text
from imgsynth.report import write
from imgsynth.report.figures import data_uri
from imgsynth.report.write import write_report
from imgsynth.schema import Config
from imgsynth.training.run import Run
from imgsynth.types import CheckFailed

PATIENT = "ZQXJSENTINEL007"


@pytest.fixture
def audited(complete: Path, trained: tuple[Path, Config], tmp_path: Path) -> tuple[Path, Config]:
    run_dir = Path(shutil.copytree(complete, tmp_path / "run"))
    return run_dir, dataclasses.replace(trained[1], output=str(run_dir))


@pytest.mark.parametrize("place", ["text", "picture"])
def test_a_public_report_with_a_string_of_the_source_is_not_written(
    place: str, audited: tuple[Path, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = audited[0]
    write_report(run_dir)
    assert PATIENT not in (run_dir / "report_public.html").read_text()
    honest = write.public_part

    def careless(run: Run) -> dict[str, Any]:
        part = honest(run)
        card = part["card"] | {"statement": f"quotes {PATIENT.lower()}"}
        svg = data_uri(f"<svg><!--{PATIENT}--></svg>".encode(), "image/svg+xml")
        return part | ({"card": card} if place == "text" else {"curves": svg})

    monkeypatch.setattr(write, "public_part", careless)
    monkeypatch.setattr(write, "made_by_the_mechanism", lambda run: {})
    with pytest.raises(CheckFailed, match=r"2 strings of the source .*npz array patient_ids, an id") as caught:
        write_report(run_dir)
    assert PATIENT not in str(caught.value) and caught.value.exit_code == 1
    assert not (run_dir / "report_public.html").exists() and not (run_dir / "local" / "report_public.html").exists()
    assert (run_dir / "report.html").is_file()
    withheld = read_json(run_dir / "local" / "withheld.json")["findings"]
    assert PATIENT in [finding["text"] for finding in withheld]


def test_a_release_drawn_after_the_audit_is_searched(
    audited: tuple[Path, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, config = audited
    before = read_json(run_dir / "audit.json")
    assert before["leakage"]["clean"]

    def careless(run_dir: Path, config: Config) -> Path:
        write_text(run_dir / "release" / "notes.txt", f"like {PATIENT}")
        return run_dir / "release"

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "sample_release", careless)
        pipeline.sample(config)
    after = read_json(run_dir / "audit.json")
    assert after["judgement"]["word"] == "SOURCE STRINGS FOUND" and PATIENT not in str(after)
    assert {finding["file"] for finding in after["leakage"]["findings"]} == {"release/notes.txt"}
    assert after["leakage"]["pixels"] == before["leakage"]["pixels"] and after["attacks"] == before["attacks"]
    assert read_json(run_dir / "release" / "privacy_card.json")["audit"]["verdict"] == "SOURCE STRINGS FOUND"

    # A search that knows less does not clear what one that knew more has found ...
    (run_dir / "release" / "notes.txt").write_text("nothing")
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "source_strings", lambda *_: (Sought(), ["1 of 1"]))
        pipeline.report(config)
    assert read_json(run_dir / "audit.json")["judgement"]["word"] == "SOURCE STRINGS FOUND"
    # ... and one that knows as much does.
    pipeline.report(config)
    assert read_json(run_dir / "audit.json")["judgement"] == before["judgement"]
    assert before["judgement"]["word"] in (run_dir / "report_public.html").read_text()


def test_without_an_audit_the_public_report_is_searched_and_nothing_is_concluded(audited: tuple[Path, Config]) -> None:
    run_dir, config = audited
    (run_dir / "audit.json").unlink()
    assert pipeline.report(config) == run_dir / "report.html"
    assert (run_dir / "report_public.html").is_file() and not (run_dir / "audit.json").exists()
