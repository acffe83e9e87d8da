"""Two thousand broken files: none crashes or hangs the readers or fills the memory, each refusal names its file."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ALL = 2000


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("fuzz")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_broken_files_are_refused_by_name_without_crash_or_hang(fuzz, tmp_path):
    """Time is not asserted here, but for the minute after which a file counts as hung."""
    outcomes = list(fuzz.read_all(range(ALL), tmp_path))
    assert len(outcomes) == ALL
    assert not [f"{o.name}: {o.what}" for o in outcomes if o.what not in ("read", "refused", "passed over")]
    assert max(outcome.memory for outcome in outcomes) < fuzz.MOST_BYTES
    refused = Counter("bomb" if "-bomb-" in o.name else "damage" for o in outcomes if o.what == "refused")
    assert refused["damage"] > ALL // 2 and refused["bomb"] >= 180  # a long tail hurts nobody


def test_sound_files_of_every_kind_are_read(fuzz, tmp_path):
    """Or the refusals would show nothing."""
    for number in range(0, 22, 2):
        name, data = fuzz.sound(number)
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes(data)
        assert fuzz._read(tmp_path / name / name) == "read", name


def _exhausts(path: Path) -> str:
    if path.name.startswith("00001"):
        raise KeyError("a bug")
    if path.name.startswith("00002"):
        import os

        os._exit(139)
    return "read"


def test_a_bug_and_a_crash_would_be_noticed(fuzz, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "_read_dicom", _exhausts)
    monkeypatch.setattr(fuzz, "_read_nifti", _exhausts)
    whats = [outcome.what for outcome in fuzz.read_all(range(4), tmp_path)]
    assert whats == ["read", "KeyError: 'a bug'", "crash (exit code 139)", "read"]
