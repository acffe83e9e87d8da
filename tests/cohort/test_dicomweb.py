"""Fetching from a real Orthanc, and from one whose answers a server in between spoils."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
import requests
from between import Answer, between
from orthanc import Orthanc, running
from pydicom.uid import RLELossless

from imgsynth.cohort import build_dicomweb, dicomweb
from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.phantom import make_phantoms
from imgsynth.config_rules import range_faults
from imgsynth.files import sha256
from imgsynth.schema import Config, DataConfig, DicomwebConfig, PhantomConfig
from imgsynth.types import InputError

PATIENTS, SIZE = 6, 8


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "WAIT", 0.01)
    for name in (dicomweb.USER, dicomweb.PASSWORD, dicomweb.TOKEN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", os.devnull)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms without duplicates, which a server would store once; one of them compressed (RLE)."""
    config = PhantomConfig(patients=PATIENTS, size=SIZE, extra_studies=0.5, traps=False)
    root = make_phantoms(tmp_path_factory.mktemp("source") / "cohort", config)
    for path in sorted(sorted(p for p in root.iterdir() if p.is_dir())[0].rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    return root


def ask(url: str, root: Path, **more: object) -> DataConfig:
    return DataConfig(kind="dicomweb", root=str(root), dicomweb=DicomwebConfig(url=url, **more))  # type: ignore[arg-type]


def digests(root: Path) -> list[str]:
    return sorted(sha256(path) for path in root.rglob("*.dcm"))


def test_what_is_fetched_is_the_folder_that_was_stored(orthanc: Orthanc, source: Path, tmp_path: Path) -> None:
    sent = orthanc.upload_folder(source)
    before, _ = build_manifest(DataConfig(kind="dicom", root=str(source)))
    with between(orthanc.url) as wire:
        data = ask(f"{wire.url}/dicom-web", tmp_path / "new" / "fetched")
        fetched, faults = build_manifest(data)
        asked = len(wire.asked)
        again, _ = build_manifest(data)
        assert len(wire.asked) == asked  # once fetched, the server is asked nothing
    assert faults == []
    assert digests(Path(fetched.root)) == digests(source)  # to the bit, compressed ones too
    assert len(digests(source)) == sent == before.items[0].shape[2] * len(before.items)
    assert (fetched.fingerprint, set(fetched.patients())) == (before.fingerprint, set(before.patients()))
    assert {(i.patient, i.study, i.series, i.digest, i.split, i.affine) for i in fetched.items} == {
        (i.patient, i.study, i.series, i.digest, i.split, i.affine) for i in before.items
    }
    assert (again, fetched.kind, fetched.modality) == (fetched, "dicomweb", "CT")


def test_filters(orthanc: Orthanc, source: Path, tmp_path: Path) -> None:
    orthanc.upload_folder(source)
    whole, _ = build_manifest(DataConfig(kind="dicom", root=str(source)))
    ids = tmp_path / "ids.txt"
    some = whole.patients()[1:4]
    ids.write_text("\ufeff" + "\r\n".join([*some, "", "nobody"]), encoding="utf-8")
    manifest, faults = build_manifest(ask(orthanc.dicomweb, tmp_path / "some", patients=str(ids)))
    assert set(manifest.patients()) == set(some)
    assert [fault.where for fault in faults] == ["data.dicomweb.patients, nobody"]
    dates = {i.study: pydicom.dcmread(source / i.files[0]).StudyDate for i in whole.items}
    first = sorted(dates.values())[3]
    early, _ = build_manifest(ask(orthanc.dicomweb, tmp_path / "early", study_date=f"-{first}"))
    assert {i.study for i in early.items} == {study for study, date in dates.items() if date <= first}
    assert 0 < len(early.items) < len(whole.items)
    with pytest.raises(InputError, match=r"no series \(ModalitiesInStudy=MR\)"):
        build_manifest(dataclasses.replace(ask(orthanc.dicomweb, tmp_path / "mr"), modality="MR"))


def test_a_server_that_ignores_filters_and_pages_does_not_widen_the_cohort(
    orthanc: Orthanc, source: Path, tmp_path: Path
) -> None:
    orthanc.upload_folder(source)
    whole, _ = build_manifest(DataConfig(kind="dicom", root=str(source)))
    dates = {i.study: pydicom.dcmread(source / i.files[0]).StudyDate for i in whole.items}
    some = whole.patients()[:4]
    date = sorted(dates[item.study] for item in whole.items if item.patient in some)[-2]
    other = pydicom.dcmread(source / next(i for i in whole.by_patient[some[0]] if dates[i.study] <= date).files[0])
    other.Modality, other.SeriesInstanceUID, other.SOPInstanceUID = "MR", "1.2.3.4", "1.2.3.5"
    other.file_meta.MediaStorageSOPInstanceUID = other.SOPInstanceUID
    buffer = io.BytesIO()
    other.save_as(buffer)
    orthanc.upload(buffer.getvalue())

    def deaf(path: str, times: int, answer: Answer) -> Answer:
        bare, _, query = path.partition("?")
        if not query:
            return answer
        real = requests.get(f"{orthanc.url}{bare}", timeout=60)  # every result, whatever was asked, on every page
        return Answer(real.status_code, real.headers["Content-Type"], real.content)

    (tmp_path / "ids").write_text("\n".join([*some, "*", "PHANTOM*"]))
    with between(orthanc.url, deaf) as wire:
        data = ask(f"{wire.url}/dicom-web", tmp_path / "f", patients=str(tmp_path / "ids"), study_date=f"-{date}")
        found = build_dicomweb.find_dicomweb(dataclasses.replace(data, modality="CT"))
    wanted = {i.study for i in whole.items if i.patient in some and dates[i.study] <= date}
    assert {scan.study for scan in found.scans} == wanted
    assert len(wanted) == len({i.study for i in whole.items if i.patient in some}) - 1
    assert set(digests(tmp_path / "f")) < set(digests(source))  # the MR was not fetched
    assert {"*", "PHANTOM*"} <= {fault.where.rpartition(" ")[2] for fault in found.skipped}


def test_long_lists_come_page_by_page(orthanc: Orthanc, source: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(dicomweb, "PAGE", 3)
    orthanc.upload_folder(source)
    manifest, _ = build_manifest(ask(orthanc.dicomweb, tmp_path / "f"))
    assert digests(Path(manifest.root)) == digests(source)


SCRIPT = """
import sys
from pathlib import Path
from imgsynth.cohort.build_dicomweb import find_dicomweb
from imgsynth.schema import DataConfig, DicomwebConfig
find_dicomweb(DataConfig(kind="dicomweb", root=sys.argv[2], dicomweb=DicomwebConfig(url=sys.argv[1])))
"""


def test_killed_half_way_it_goes_on_with_what_is_missing(orthanc: Orthanc, source: Path, tmp_path: Path) -> None:
    orthanc.upload_folder(source)
    whole, _ = build_manifest(DataConfig(kind="dicom", root=str(source)))
    total, root = len(digests(source)), tmp_path / "fetched"
    fetching: list[subprocess.Popen[bytes]] = []
    count = 0

    def kill(path: str, times: int, answer: Answer) -> Answer | None:
        nonlocal count
        count += "/instances/" in path
        if count == total // 2:
            fetching[0].kill()
        return answer if count < total // 2 else None

    with between(orthanc.url, kill) as wire:
        command = [sys.executable, "-c", SCRIPT, f"{wire.url}/dicom-web", str(root)]
        fetching.append(subprocess.Popen(command))
        assert fetching[0].wait(timeout=300) == -9
        port = wire.url
    there = {path: path.stat().st_mtime_ns for path in root.rglob("*.dcm")}
    assert 0 < len(there) < total
    assert set(digests(root)) < set(digests(source))  # none is cut
    (next(iter(there)).parent / ".x.dcm.1.partial").write_bytes(b"half")
    listing = json.loads((root / build_dicomweb.LISTING).read_text())
    listing["query"]["url"] = orthanc.dicomweb  # the same server, without the one in between
    (root / build_dicomweb.LISTING).write_text(json.dumps(listing))
    assert port not in json.dumps(listing)
    manifest, faults = build_manifest(ask(orthanc.dicomweb, root))
    assert (manifest.fingerprint, faults) == (whole.fingerprint, [])
    assert {path: path.stat().st_mtime_ns for path in there} == there  # nothing was fetched twice
    assert not list(root.rglob("*.partial"))


def test_passing_faults_are_ridden_out(orthanc: Orthanc, source: Path, tmp_path: Path) -> None:
    orthanc.upload_folder(source)

    def spoil(path: str, times: int, answer: Answer) -> Answer | None:
        if "/instances/" not in path:
            return Answer(503, "text/plain", b"busy") if times == 1 else answer
        which = sum(path.encode()) % 6  # each of the six on some of the instances
        if times > 1 and not (times == 2 and which == 0):
            return answer
        return [
            Answer(500, "text/plain", b"oops"),
            None,
            dataclasses.replace(answer, body=answer.body[:-100], length=len(answer.body)),  # the connection breaks
            dataclasses.replace(answer, body=answer.body[:-100]),  # a message without its end
            dataclasses.replace(answer, body=answer.body[:-10]),  # nothing is missing but a part of the end mark
            Answer(200, "application/dicom", b"<html>log in</html>"),
        ][which]

    with between(orthanc.url, spoil) as wire:
        manifest, faults = build_manifest(ask(f"{wire.url}/dicom-web", tmp_path / "f"))
        assert len({sum(path.encode()) % 6 for path in wire.asked if "/instances/" in path}) == 6
    assert digests(Path(manifest.root)) == digests(source)
    assert faults == []


def test_pixels_that_are_cut_on_the_way_are_asked_for_again(orthanc: Orthanc, source: Path, tmp_path: Path) -> None:
    orthanc.upload_folder(source)

    def cut(path: str, times: int, answer: Answer) -> Answer:
        if "/instances/" not in path or times > 1:
            return answer
        end = answer.body.rfind(b"\r\n--")  # the message is whole, what is in it is not
        return dataclasses.replace(answer, body=answer.body[: end * 9 // 10] + answer.body[end:])

    with between(orthanc.url, cut) as wire:
        manifest, faults = build_manifest(ask(f"{wire.url}/dicom-web", tmp_path / "f"))
    assert (digests(Path(manifest.root)), faults) == (digests(source), [])


def test_an_instance_that_never_comes_right_is_named_and_the_rest_is_kept(
    orthanc: Orthanc, source: Path, tmp_path: Path
) -> None:
    orthanc.upload_folder(source)
    one, other = (pydicom.dcmread(path).SOPInstanceUID for path in sorted(source.rglob("*.dcm"))[:2])
    swapped = {}

    def spoil(path: str, times: int, answer: Answer) -> Answer | None:
        if path.endswith(one):
            return Answer(502, "text/plain", b"bad gateway")
        if path.endswith(other):
            return swapped["body"]  # another patient's instance in its place
        if "/instances/" in path:
            swapped["body"] = answer
        return answer

    with between(orthanc.url, spoil) as wire:
        with pytest.raises(InputError) as caught:
            build_manifest(ask(f"{wire.url}/dicom-web", tmp_path / "f"))
        assert sum(path.endswith(one) for path in wire.asked) == dicomweb.ATTEMPTS
    text = [str(fault) for fault in caught.value.faults]
    assert len(text) == 2
    assert any("HTTP status 502" in line and one in line for line in text)
    assert any(f"asked for instance {other}" in line and "of series" in line for line in text)
    assert len(digests(tmp_path / "f")) == len(digests(source)) - 2


def test_a_truncated_instance_in_the_servers_own_store_is_left_to_the_reader(
    orthanc: Orthanc, source: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    victim = sorted(copy.rglob("*.dcm"))[-1]
    dataset = pydicom.dcmread(victim)
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 4 * 2]
    dataset.save_as(victim)
    orthanc.upload_folder(copy)
    _, direct = build_manifest(DataConfig(kind="dicom", root=str(copy)))
    manifest, fetched = build_manifest(ask(orthanc.dicomweb, tmp_path / "f"))
    assert digests(Path(manifest.root)) == digests(copy)
    assert [fault.got for fault in fetched] == [fault.got for fault in direct] != []


def test_a_server_that_is_gone_is_not_asked_for_everything(
    orthanc: Orthanc, source: Path, tmp_path: Path, monkeypatch
) -> None:
    orthanc.upload_folder(source)
    monkeypatch.setattr(build_dicomweb, "GIVE_UP", 3)

    def gone(path: str, times: int, answer: Answer) -> Answer | None:
        return None if "/instances/" in path else answer

    with between(orthanc.url, gone) as wire:
        with pytest.raises(InputError, match="no usable answer"):
            build_manifest(ask(f"{wire.url}/dicom-web", tmp_path / "f"))
        assert len({path for path in wire.asked if "/instances/" in path}) < len(digests(source)) // 2


def test_nobody_there_and_no_dicomweb_there(orthanc: Orthanc, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no usable answer, asked for search"):
        build_manifest(ask("http://127.0.0.1:9", tmp_path / "f"))
    with pytest.raises(InputError, match=r"404.*Orthanc: …/dicom-web"):
        build_manifest(ask(f"{orthanc.url}/nothing", tmp_path / "f"))
    assert not (tmp_path / "f").exists()


def test_a_folder_belongs_to_one_query(orthanc: Orthanc, source: Path, tmp_path: Path) -> None:
    orthanc.upload_folder(source)
    build_manifest(ask(orthanc.dicomweb, tmp_path / "f"))
    with pytest.raises(InputError, match="another query"):
        build_manifest(ask(orthanc.dicomweb, tmp_path / "f", study_date="2020-"))
    with pytest.raises(InputError, match="other files"):
        build_manifest(ask(orthanc.dicomweb, source))


def test_credentials_come_from_the_environment_or_netrc_and_stay_there(
    orthanc: Orthanc, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    store = tmp_path / "orthanc"
    store.mkdir()
    with running(store, auth=("alice", "s3cret-word")) as server:
        server.upload_folder(source)
        with pytest.raises(InputError, match=rf"401.*{dicomweb.USER}"):
            build_manifest(ask(server.dicomweb, tmp_path / "none"))
        monkeypatch.setenv(dicomweb.USER, "alice")
        monkeypatch.setenv(dicomweb.PASSWORD, "s3cret-word")
        build_manifest(ask(server.dicomweb, tmp_path / "user"))
        monkeypatch.delenv(dicomweb.USER)
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login alice password s3cret-word\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        build_manifest(ask(server.dicomweb, tmp_path / "netrc-too"))
        with between(server.url) as wire:
            monkeypatch.setenv(dicomweb.TOKEN, "t0ken-word")  # goes before netrc
            with pytest.raises(InputError, match="HTTP status 401") as caught:
                build_manifest(ask(f"{wire.url}/dicom-web", tmp_path / "token"))
            assert wire.headers["Authorization"] == "Bearer t0ken-word"
    assert digests(tmp_path / "user") == digests(tmp_path / "netrc-too") == digests(source)
    said = "".join([*capfd.readouterr(), str(caught.value)])
    kept = b"".join(p.read_bytes() for p in (tmp_path / "user").rglob("*") if p.is_file())
    assert "word" not in said and b"word" not in kept


def test_redirects_are_not_followed(orthanc: Orthanc, tmp_path: Path) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"{orthanc.url}{self.path}")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    with pytest.raises(InputError, match="a redirect"):
        build_manifest(ask(f"http://127.0.0.1:{server.server_port}/dicom-web", tmp_path / "f"))
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("uid", ["../../etc", "1.2/3", "..", "", "1.2.840.x", "1" * 65])
def test_a_uid_that_would_leave_the_folder_is_refused(orthanc: Orthanc, source: Path, tmp_path: Path, uid: str) -> None:
    orthanc.upload(next(source.rglob("*.dcm")).read_bytes())

    def spoil(path: str, times: int, answer: Answer) -> Answer:
        if not path.startswith("/dicom-web/studies?"):
            return answer
        found = json.loads(answer.body)
        for one in found:
            one[dicomweb.STUDY]["Value"] = [uid]
        return dataclasses.replace(answer, body=json.dumps(found).encode())

    with between(orthanc.url, spoil) as wire, pytest.raises(InputError, match="as a UID"):
        build_manifest(ask(f"{wire.url}/dicom-web", tmp_path / "f"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://alice:pw@pacs/dicom-web", "user, password"),
        ("https://pacs/dicom-web?token=pw", "user, password"),
        ("http://pacs.example.org/dicom-web", "unencrypted"),
        ("ftp://pacs/dicom-web", "https://HOST"),
        ("pacs/dicom-web", "https://HOST"),
    ],
)
def test_addresses_that_are_refused_at_the_door(url: str, expected: str, tmp_path: Path) -> None:
    faults = range_faults(Config(data=ask(url, tmp_path)))
    (fault,) = [fault for fault in faults if fault.where == "data.dicomweb.url"]
    assert expected in str(fault)
    assert "pw" not in str(fault)
    with pytest.raises(InputError, match=expected):
        build_manifest(ask(url, tmp_path))


def test_the_other_settings_at_the_door(tmp_path: Path) -> None:
    def faulty(data: DataConfig) -> list[str]:
        return [fault.where for fault in range_faults(Config(data=data)) if fault.where.startswith("data.")]

    bad = ask("https://pacs/dicom-web", tmp_path, study_date="2020", patients=str(tmp_path / "none"))
    assert faulty(bad) == ["data.dicomweb.study_date", "data.dicomweb.patients"]
    assert faulty(dataclasses.replace(bad, kind="dicom"))[0] == "data.dicomweb.url"
    assert faulty(DataConfig(kind="dicomweb", root=str(tmp_path))) == ["data.dicomweb.url"]
    assert faulty(ask("http://localhost:8042/dicom-web", tmp_path / "new", study_date="20200101-")) == []


def test_dates() -> None:
    assert build_dicomweb.date_range("20200102") == ("20200102", "20200102")
    assert build_dicomweb.date_range("20200102-20200304") == ("20200102", "20200304")
    assert build_dicomweb.date_range("-20200304") == ("00000000", "20200304")
    assert build_dicomweb.date_range("20200102-") == ("20200102", "99999999")
    assert [build_dicomweb.date_range(bad) for bad in ("", "-", "2020", "2020010220200304", "2020-01-02")] == [None] * 5
