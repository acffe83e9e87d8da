"""Series of an image server: fetched once into a folder, and read from there like any folder of DICOM files."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from imgsynth.cohort.build_dicom import find_dicom
from imgsynth.cohort.build_scan import Found
from imgsynth.cohort.dicomweb import SERIES, SOP, STUDY, Server, url_fault, value_of
from imgsynth.cohort.ids import clean_id
from imgsynth.console import say, track
from imgsynth.files import atomic_path, read_json, write_json
from imgsynth.schema import DataConfig
from imgsynth.types import Fault, InputError

LISTING = ".imgsynth-dicomweb.json"  # hidden, so that no reader takes it for an image
FORMAT = "imgsynth-dicomweb-1"
WORKERS = 4  # instances that are asked for at once
GIVE_UP = 20  # instances that failed after all attempts: the server is not going to recover in this run
_PATIENT, _DATE, _MODALITY = "00100020", "00080020", "00080060"
_UID = re.compile(r"[0-9.]{1,64}")  # UIDs become names of files: nothing else may
_RANGE = re.compile(r"(\d{8})?(-)?(\d{8})?")

S = TypeVar("S")
T = TypeVar("T")
Instance = tuple[str, str, str]  # UIDs of study, series and object


def find_dicomweb(data: DataConfig) -> Found:
    """What ``find_dicom`` finds in ``data.root`` once all that the query matches is there.

    The list of instances is taken once, and is the cohort from then on; each file appears whole or not at all. A fetch
    that was killed goes on with what is missing, and a complete one asks the server nothing.
    """
    if fault := url_fault(str(data.dicomweb.url)):
        raise InputError(fault)
    root = Path(str(data.root))
    listing = _listing(root, data)
    instances: list[Instance] = [(a, b, c) for a, b, c in listing["instances"]]
    _fetch(root, str(data.dicomweb.url), [one for one in instances if not _path(root, one).is_file()])
    found = find_dicom(data)
    found.skipped += [
        Fault(f"data.dicomweb.patients, {name}", "no series on the server", "a patient with series that match",
              "correct the id, or nothing if the patient has none", "rows_without_image")
        for name in listing["absent"]
    ]  # fmt: skip
    return found


def date_range(text: str) -> tuple[str, str] | None:
    """The first and last day of a DICOM date or range of dates (PS3.4 C.2.2.2.5); None if it is neither."""
    match = _RANGE.fullmatch(text)
    if match is None or not (match.group(1) or match.group(3)):
        return None
    first, dash, last = match.groups()
    if not dash:
        return None if first and last else (first or last, first or last)
    return first or "00000000", last or "99999999"


def _listing(root: Path, data: DataConfig) -> dict[str, Any]:
    """The list of what belongs into ``root``: the one that is there, or a new one from the server."""
    path, query = root / LISTING, _query(data)
    if path.is_file():
        listing = read_json(path)
        if listing.get("format") != FORMAT or listing["query"] != query:
            raise InputError(
                Fault(
                    "data.root",
                    f"{root}, which has been fetched into by another query or version",
                    "a folder of its own for each query",
                    "data.root=<new folder>, or the settings of data.dicomweb and data.modality of before",
                )
            )
        return dict(listing)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(
            Fault("data.root", f"{root}, which has other files", "a new or empty folder to fetch into", "data.root=DIR")
        )
    instances, absent = _search(data)
    return dict(
        read_json(write_json(path, {"format": FORMAT, "query": query, "instances": instances, "absent": absent}))
    )


def _query(data: DataConfig) -> dict[str, str | None]:
    asked = _patients(data)
    digest = None if asked is None else sha256("\n".join(asked).encode()).hexdigest()
    return {
        "url": data.dicomweb.url,
        "modality": data.modality,
        "study_date": data.dicomweb.study_date,
        "patients": digest,
    }


def _patients(data: DataConfig) -> list[str] | None:
    if data.dicomweb.patients is None:
        return None
    path = Path(data.dicomweb.patients)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            Fault("data.dicomweb.patients", f"{path} ({type(error).__name__})", "a text file in UTF-8, one id a line",
                  "data.dicomweb.patients=FILE")
        ) from error  # fmt: skip
    return sorted({clean_id(line) for line in lines} - {""})


def _search(data: DataConfig) -> tuple[list[Instance], list[str]]:
    """All instances that match, sorted; and patients who were asked for and have none.

    What the server answers is held against the query here: one that ignores a filter, or takes an id with an asterisk
    for a pattern, must not widen the cohort.
    """
    url, asked = str(data.dicomweb.url), _patients(data)
    connect = _connections(url)
    filters = {"StudyDate": data.dicomweb.study_date, "ModalitiesInStudy": data.modality}
    plain = {name: value for name, value in filters.items() if value is not None}
    dates = date_range(data.dicomweb.study_date) if data.dicomweb.study_date else None
    studies: dict[str, str] = {}
    for name in asked if asked is not None else [None]:
        for study in connect().studies(plain if name is None else {**plain, "PatientID": name}):
            patient = clean_id(value_of(study, _PATIENT))
            if (name is None or patient == name) and (dates is None or dates[0] <= value_of(study, _DATE) <= dates[1]):
                studies[_uid(url, value_of(study, STUDY))] = patient
    say(f"{len(studies)} studies on {url} match")

    def instances_of(study: str) -> list[Instance]:
        server, found = connect(), []
        for one in server.series(study, {} if data.modality is None else {"Modality": data.modality}):
            if data.modality in (None, value_of(one, _MODALITY)):
                series = _uid(url, value_of(one, SERIES))
                found += [
                    (study, series, _uid(url, value_of(object_, SOP))) for object_ in server.instances(study, series)
                ]
        return found

    listed = list(_side_by_side(instances_of, list(studies), "Listing series"))
    having = {studies[study] for study, found in zip(studies, listed, strict=True) if found}
    instances = sorted({one for found in listed for one in found})
    if not instances:
        wanted = ", ".join(f"{name}={value}" for name, value in plain.items()) or "no filter"
        raise InputError(
            Fault(url, f"no series ({wanted}{'' if asked is None else f', {len(asked)} patients'})",
                  "series that match the query", "wider filters: data.modality, data.dicomweb.study_date or .patients")
        )  # fmt: skip
    return instances, sorted(set(asked or ()) - having)


def _fetch(root: Path, url: str, missing: list[Instance]) -> None:
    """Fetch what is ``missing``; InputError with every instance that could not be had, when the others are on disk."""
    if not missing:
        return
    for partial in root.rglob(".*.partial"):  # of a fetch that was killed
        partial.unlink()
    connect = _connections(url)
    faults: list[Fault] = []

    def fetch(one: Instance) -> tuple[Fault, ...]:
        if len(faults) >= GIVE_UP:
            return ()
        try:
            content = connect().instance(*one)
        except InputError as error:
            return error.faults
        with atomic_path(_path(root, one)) as partial:
            partial.write_bytes(content)
        return ()

    for found in _side_by_side(fetch, missing, "Fetching"):
        faults += found
    if faults:
        raise InputError(*faults)


def _side_by_side(work: Callable[[S], T], on: list[S], what: str) -> Iterator[T]:
    """Results in order, from ``WORKERS`` threads; when one fails or the user stops, what is not begun is dropped."""
    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield from track(pool.map(work, on), what, total=len(on))
    finally:
        pool.shutdown(cancel_futures=True)


def _connections(url: str) -> Callable[[], Server]:
    """A server of its own for each thread that asks."""
    own = threading.local()

    def connect() -> Server:
        if not hasattr(own, "server"):
            own.server = Server(url)
        server: Server = own.server
        return server

    return connect


def _uid(url: str, text: str) -> str:
    if not _UID.fullmatch(text) or not text.strip("."):
        raise InputError(Fault(url, f"{text!r} as a UID", "digits and points, 64 at most", "repair it on the server"))
    return text


def _path(root: Path, one: Instance) -> Path:
    study, series, sop = one
    return root / study / series / f"{sop}.dcm"
