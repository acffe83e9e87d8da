"""Fixtures of the whole suite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch and numpy are imported: tests run in parallel processes, so each gets one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from imgsynth import keyed

if TYPE_CHECKING:
    from orthanc import Orthanc

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile("default", deadline=None, max_examples=40)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real medical data (public, not part of the project), or a skip that says why."""
    folder = Path(os.environ.get("IMGSYNTH_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real data at {folder}; set IMGSYNTH_TEST_DATA to a folder that has them")
    return folder


@pytest.fixture(autouse=True)
def own_ledger_and_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test ever spends from, or reads, the user's own privacy ledger and cache."""
    monkeypatch.setenv("IMGSYNTH_LEDGER", str(tmp_path_factory.mktemp("ledger")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def orthanc_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A real image server with DICOMweb, one for each test process; tests take ``orthanc``, which is empty."""
    pytest.importorskip("requests", reason="no requests: the extra intake is not installed")
    import orthanc

    reason = orthanc.why_not()
    if reason is not None:
        pytest.skip(reason)
    with orthanc.running(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture
def orthanc(orthanc_server: Orthanc) -> Orthanc:
    """A real, empty Orthanc on loopback: ``upload``, ``instances``, ``url``, ``dicomweb``, and a port for C-STORE."""
    orthanc_server.clear()
    return orthanc_server


@pytest.fixture(autouse=True, scope="session")
def one_key() -> Iterator[None]:
    """Ledgers that tests make hash ids with one key, so that what is ordered by hashes is the same on every day."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyed, "fresh_key", lambda: bytes(range(keyed.KEY_WIDTH)))
        yield
