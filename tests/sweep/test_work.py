"""Cells in processes of their own: what fails stops no other, and says why."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from stub_work import work

from imgsynth.schema import Config
from imgsynth.sweep.cells import Cell, SweepFolder
from imgsynth.sweep.work import why, work_through


def test_what_fails_or_dies_stops_no_other_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_TEST", "as it is now")  # not as it was when a fork server began
    folder, calls = SweepFolder(tmp_path), []
    cells = [Cell("ward", name, 1.0, 1) for name in ("faulty", "broken", "killed", "good")]
    jobs = [(cell, Config(experiment=cell.model, output=str(folder.cell(cell)))) for cell in cells]
    failed = work_through(jobs, folder, work, lambda: calls.append(len(list(folder.root.glob("logs/*.failed.json")))))
    assert failed == cells[:3] and folder.cell(cells[3]).is_dir() and calls == [1, 2, 3, 3]
    assert why(folder, cells[0]) == ("data.root: got a hole, expected a folder; trainer.steps: got 0, expected 1")
    assert "ZeroDivisionError: by nothing" in why(folder, cells[1]) and "-9" in why(folder, cells[2])
    assert "Traceback" in folder.log(cells[1]).read_text()
    own = multiprocessing.get_start_method()  # of workers that the cell starts: as of those of a single run
    assert f"worked on good as it is now {own}\n" in folder.log(cells[3]).read_text()
    mended = [(cells[0], Config(experiment="good", output=str(folder.cell(cells[0]))))]
    assert work_through(mended, folder, work, lambda: None) == [] and not folder.failure(cells[0]).exists()
