"""A real Orthanc with DICOMweb, on loopback, with storage of its own; it lives as long as the block that starts it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

EXECUTABLE = Path("/usr/sbin/Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
STARTS_WITHIN = 120.0  # seconds; under one on an idle machine


@dataclass(frozen=True)
class Orthanc:
    """Where a running server listens. ``aet`` is its application entity title, for C-STORE to ``dicom_port``."""

    http_port: int
    dicom_port: int
    folder: Path  # its configuration, storage and log
    auth: tuple[str, str] | None = None
    aet: str = "ORTHANC"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb(self) -> str:
        """The root of QIDO-RS, WADO-RS and STOW-RS."""
        return f"{self.url}/dicom-web"

    def request(self, method: str, path: str, data: bytes | None = None) -> requests.Response:
        """Ask the server's own REST interface; an answer that is an error raises."""
        answer = requests.request(method, f"{self.url}{path}", data=data, auth=self.auth, timeout=STARTS_WITHIN)
        answer.raise_for_status()
        return answer

    def upload(self, content: bytes) -> str:
        """Store one DICOM file; its id in the server's own REST interface."""
        return str(self.request("POST", "/instances", content).json()["ID"])

    def upload_folder(self, folder: Path) -> int:
        """Store every DICOM file under ``folder`` (others are passed over); how many were sent."""
        contents = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
        contents = [content for content in contents if content[128:132] == b"DICM"]
        for content in contents:
            self.upload(content)
        return len(contents)

    def stow(self, contents: Iterable[bytes]) -> None:
        """Store DICOM files by STOW-RS (PS3.18 10.5), in one request; raises unless every one is taken."""
        contents = list(contents)
        body = b"".join(b"--B\r\nContent-Type: application/dicom\r\n\r\n" + one + b"\r\n" for one in contents)
        headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=B',
                   "Accept": "application/dicom+json"}  # fmt: skip
        answer = requests.post(f"{self.dicomweb}/studies", body + b"--B--\r\n", headers=headers, auth=self.auth,
                               timeout=STARTS_WITHIN)  # fmt: skip
        answer.raise_for_status()
        said = answer.json()
        taken, refused = (said.get(tag, {}).get("Value") or [] for tag in ("00081199", "00081198"))
        assert len(taken) == len(contents) and not refused, said

    def wado(self, study: str) -> list[bytes]:
        """The DICOM files of a study by WADO-RS (PS3.18 10.4), each in the transfer syntax that it was stored in."""
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        answer = requests.get(f"{self.dicomweb}/studies/{study}", headers={"Accept": accept}, auth=self.auth,
                              timeout=STARTS_WITHIN)  # fmt: skip
        answer.raise_for_status()
        boundary = answer.headers["Content-Type"].partition("boundary=")[2].partition(";")[0].strip('"')
        parts = answer.content.split(b"--" + boundary.encode())[1:-1]
        return [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts]

    def instances(self) -> list[str]:
        """Ids of what is stored; ``/instances/<id>/file`` is one as it was received."""
        return [str(one) for one in self.request("GET", "/instances").json()]

    def clear(self) -> None:
        for patient in self.request("GET", "/patients").json():
            self.request("DELETE", f"/patients/{patient}")


def why_not() -> str | None:
    """Why no server can be started here; None where one can."""
    absent = [str(path) for path in (EXECUTABLE, PLUGIN) if not path.exists()]
    return f"no {' and no '.join(absent)} (Debian: orthanc, orthanc-dicomweb)" if absent else None


@contextmanager
def running(folder: Path, auth: tuple[str, str] | None = None) -> Iterator[Orthanc]:
    """Start a server in ``folder``; killed when the block ends, since its storage goes with it."""
    server = Orthanc(_free_port(), _free_port(), folder, auth)
    (folder / "orthanc.json").write_text(json.dumps(_configuration(server)))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([EXECUTABLE, folder / "orthanc.json"], stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait(server, process)
            yield server
        finally:
            process.kill()
            process.wait()


def _configuration(server: Orthanc) -> dict[str, object]:
    return {
        "Name": "imgsynth tests",
        "HttpPort": server.http_port,
        "DicomPort": server.dicom_port,
        "DicomAet": server.aet,
        "DicomAlwaysAllowStore": True,
        "DicomCheckCalledAet": False,
        "RemoteAccessAllowed": False,  # loopback alone
        "AuthenticationEnabled": server.auth is not None,
        "RegisteredUsers": dict([server.auth]) if server.auth else {},
        "StorageDirectory": str(server.folder / "storage"),
        "IndexDirectory": str(server.folder / "storage"),
        "OverwriteInstances": True,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }


def _wait(server: Orthanc, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < until and process.poll() is None:
        try:
            server.request("GET", "/system")
            return
        except requests.ConnectionError:
            time.sleep(0.05)
    raise RuntimeError(f"Orthanc did not start: {(server.folder / 'orthanc.log').read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
