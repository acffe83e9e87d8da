"""`imgsynth sweep` end to end: two cells, one of them killed on the way, and the ledger as the witness."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dp_accounting.pld import PLDAccountant

from imgsynth import config as door
from imgsynth import pipeline
from imgsynth.privacy.ledger import Ledger
from imgsynth.sweep.cells import SweepFolder
from imgsynth.sweep.design import design
from imgsynth.training import loop
from imgsynth.types import CheckFailed, InputError

TINY = ["data.phantom.patients=60", "data.phantom.size=8", "data.phantom.traps=false", "data.cohort=little",
        "preprocess.shape=[8,8,8]", "preprocess.spacing=[48,48,48]", "privacy.delta=1e-3", "privacy.batch_patients=8",
        "trainer.steps=4", "trainer.checkpoint_every=2", "sample.n=1", "sample.formats=[nifti]", "encoder=random_conv",
        "evaluate={n:40,bootstrap:20,parts:[metrics,utility],classifiers:[small_cnn,logistic_regression],"
        "classifier_seeds:1,rivals:false,shares:[]}", "audit=quick",
        "audit={n:20,samples:20,bootstrap:100,extraction_samples:0,ocr_pictures:0}",
        "curve.epsilons=[2,8]"]  # fmt: skip


def foretold(text: str) -> str:
    return text.split("after all: ")[1].split(",")[0]


def test_two_cells_of_which_one_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TINY, f"output={tmp_path / 'sweep'}"]
    place = SweepFolder(tmp_path / "sweep")
    cells = design(door.from_overrides("sweep", command), command, place).cells
    steps = iter(range(3))  # the third private step does not come back: the spend is on record, a checkpoint is there

    def killed(*arguments: object, whole=loop.private_update, **more: object):  # type: ignore[no-untyped-def]
        if next(steps) == 2:
            raise KeyboardInterrupt
        return whole(*arguments, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "private_update", killed)
        pipeline.train(next(iter(cells.values())))
    assert len(Ledger().entries("little")) == 1

    page = pipeline.sweep(command)
    said = capsys.readouterr().out
    assert "1 of ε = 8 (1 more are on record)" in said and "no ε here" not in said and "not covered by any ε" in said
    entries = Ledger().entries("little")
    assert [entry.state for entry in entries] == ["closed", "closed"]  # one each: nothing was spent twice
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    for entry in entries:
        accountant.compose(entry.event)
    assert float(foretold(said)) == pytest.approx(accountant.get_epsilon(1e-3), rel=0.01)

    curve = json.loads((place.root / "curve.json").read_text())
    assert [row["state"] for row in curve["cells"]] == ["finished", "finished"]
    assert [group["proven"] <= group["epsilon"] for group in curve["groups"]] == [True, True]
    assert page.name == "curve.html" and (place.root / "curve-run.png").is_file()

    before = {path: path.stat().st_mtime_ns for path in place.root.glob("cells/*/*.json")}
    (place.root / "curve.md").unlink()
    pipeline.sweep([f"output={place.root}"])  # finished: the tables again, and nothing is run
    assert (place.root / "curve.md").is_file() and len(Ledger().entries("little")) == 2
    assert before == {path: path.stat().st_mtime_ns for path in place.root.glob("cells/*/*.json")}

    with pytest.raises(InputError, match=r"clipping_norm"):  # cells of one sweep are made alike
        pipeline.sweep([*command, "privacy.clipping_norm=3"])


def test_a_budget_that_the_whole_would_pass_refuses_it_before_any_work(tmp_path: Path) -> None:
    command = [*TINY, f"output={tmp_path / 'sweep'}", "privacy.budget_epsilon=8.1"]  # each alone would fit
    with pytest.raises(InputError, match=r"2 runs asked.*together"):
        pipeline.sweep(command)
    assert not (tmp_path / "sweep").exists() and Ledger().entries("little") == []


def test_failed_cells_are_shown_and_end_with_a_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the place of the cells' folder: none of them can write."""
    (tmp_path / "cells").write_text("in the way")
    with pytest.raises(CheckFailed) as caught:
        pipeline.sweep([*TINY, f"output={tmp_path}"])
    assert len(caught.value.faults) == 2 and caught.value.exit_code == 1
    assert "Failed" in (tmp_path / "curve.html").read_text() and Ledger().entries("little") == []
