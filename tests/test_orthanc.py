from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import requests
from orthanc import Orthanc, running

from imgsynth.cohort.phantom import make_phantoms
from imgsynth.schema import PhantomConfig


def test_what_is_stored_comes_back_to_the_bit_and_is_gone_after_clear(orthanc: Orthanc, tmp_path: Path) -> None:
    assert orthanc.instances() == []
    root = make_phantoms(tmp_path / "cohort", PhantomConfig(patients=3, size=8, extra_studies=0.0, traps=False))
    sent = orthanc.upload_folder(root)
    stored = orthanc.instances()
    assert sent == len(stored) == 3 * 8
    back = {hashlib.sha256(orthanc.request("GET", f"/instances/{one}/file").content).hexdigest() for one in stored}
    assert back == {hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.dcm")}
    assert len(requests.get(f"{orthanc.dicomweb}/studies", timeout=60).json()) == 3
    orthanc.clear()
    assert orthanc.instances() == []


def test_it_can_ask_for_a_password_and_stops_with_its_block(orthanc_server: Orthanc, tmp_path: Path) -> None:
    with running(tmp_path, auth=("alice", "secret")) as server:
        assert requests.get(f"{server.url}/system", timeout=60).status_code == 401
        assert server.request("GET", "/system").json()["DicomAet"] == server.aet
        assert server.http_port != orthanc_server.http_port
    with pytest.raises(requests.ConnectionError):
        server.request("GET", "/system")
