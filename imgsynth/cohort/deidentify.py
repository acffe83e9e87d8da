"""A copy of a folder of DICOM files without names, ids and dates, made by dicognito. Never claimed to be complete.

dicognito (extra ``deid``) replaces names, ids, UIDs and addresses, and shifts dates; equal values become equal values,
so that studies stay with their patient. Here private elements go too, and files get new names, as paths often hold ids.
Nobody looks at pixels and at text that people typed: what is left of both is counted in the result.
"""

from __future__ import annotations

import hmac
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError

from imgsynth.cohort.visible import text_because
from imgsynth.console import track
from imgsynth.files import write_json
from imgsynth.types import Fault, InputError
from imgsynth.volumes.dicom_element import BROKEN

REPORT = "deidentification.json"
FREE_TEXT = ("LO", "LT", "SH", "ST", "UC", "UR", "UT", "AE")
REPLACED = ("PatientID", "AccessionNumber", "StudyID", "StationName", "OtherPatientIDs", "InstitutionName")
CLAIM = (
    "Names, ids, UIDs, addresses and dates in standard elements were replaced by dicognito, private elements and file "
    "names removed. This is no proof that nobody can be recognised: pixels were not looked at, and text that people "
    "typed was left as it is where no_person_looked_at counts it. Look at both before handing anything over."
)


def deidentify(source: Path, target: Path, key: bytes) -> dict[str, Any]:
    """Write de-identified copies of the DICOM files under ``source`` to ``target``; what was done, without a name.

    With the same ``key`` (the ledger's) the same ids become the same ids in every call. ``target`` appears whole or not
    at all. Raises InputError where it is there already, lies in ``source`` or holds it, where nothing is DICOM, or
    without dicognito.
    """
    anonymize = _anonymizer(hmac.digest(key, b"imgsynth deidentify", "sha256").hex())
    _check_places(source, target)
    files = sorted(path for path in source.rglob("*") if path.is_file())
    counts: Counter[str] = Counter()
    left: dict[str, Counter[str]] = {"free_text": Counter(), "pixels_may_show_text": Counter()}
    patients = set()
    with _whole_or_nothing(target) as folder:
        for path in track(files, "De-identifying", total=len(files)):
            dataset = _read(path, counts)
            if dataset is None:
                continue
            anonymize(dataset)
            counts["private_elements_removed"] += sum(element.tag.is_private for element in dataset.iterall())
            dataset.remove_private_tags()
            left["pixels_may_show_text"].update(text_because(dataset))
            left["free_text"].update({e.keyword or str(e.tag) for e in dataset.iterall() if _typed(e)})
            patients.add(str(dataset.get("PatientID", "")))
            _save(dataset, folder)
            counts["files"] += 1
        if not counts["files"]:
            raise InputError(Fault(str(source), "no DICOM file", "a folder of DICOM files", "imgsynth inspect"))
        said = {
            "claim": CLAIM,
            "by": f"dicognito {version('dicognito')}",
            "patients": len(patients),
            **{name: counts[name] for name in ("files", "no_image_left_out", "unreadable_left_out",
                                               "private_elements_removed")},
            "no_person_looked_at": {name: dict(sorted(found.items())) for name, found in left.items()},
        }  # fmt: skip
        write_json(folder / REPORT, said)
    return said


def _anonymizer(seed: str) -> Callable[[pydicom.Dataset], None]:
    try:
        from dicognito.anonymizer import Anonymizer
    except ImportError as error:
        raise InputError(
            Fault("imgsynth deidentify", "no dicognito", "the extra deid", "pip install 'imgsynth[deid]'")
        ) from error
    anonymize: Callable[[pydicom.Dataset], None] = Anonymizer(id_prefix="DEID", seed=seed).anonymize
    return anonymize


def _check_places(source: Path, target: Path) -> None:
    ours, theirs = target.resolve(), source.resolve()
    faults = []
    if not source.is_dir():
        faults.append(
            Fault(str(source), "no such folder", "a folder of DICOM files", "imgsynth deidentify SOURCE TARGET")
        )
    if ours == theirs or theirs in ours.parents or ours in theirs.parents:
        faults.append(Fault(str(target), "a folder in the source, or around it", "a folder apart", "another TARGET"))
    elif target.exists():
        faults.append(Fault(str(target), "a folder that is there", "a new one, which appears whole", "another TARGET"))
    if faults:
        raise InputError(*faults)


@contextmanager
def _whole_or_nothing(target: Path) -> Iterator[Path]:
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, mode=0o700)
    try:
        yield partial
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read(path: Path, counts: Counter[str]) -> pydicom.Dataset | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path)
            for _ in dataset.iterall():  # every element is decoded here, or the file is left out
                pass
            if "SOPInstanceUID" in dataset and "PixelData" in dataset:  # reports are text that people typed
                return dataset
            counts["no_image_left_out"] += 1
    except InvalidDicomError:
        counts["no_image_left_out"] += 1
    except BROKEN:
        counts["unreadable_left_out"] += 1
    return None


def _typed(element: pydicom.DataElement) -> bool:
    return element.VR in FREE_TEXT and bool(element.value) and element.keyword not in REPLACED


def _save(dataset: pydicom.Dataset, folder: Path) -> None:
    """By its new ids, which are all that the path says."""
    names = [
        str(dataset.get(keyword, "") or "none") for keyword in ("PatientID", "SeriesInstanceUID", "SOPInstanceUID")
    ]
    patient, series, instance = (name.replace("/", "_") for name in names)
    path = folder / patient / series / f"{instance}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    for keyword in ("SourceApplicationEntityTitle", "SendingApplicationEntityTitle", "ReceivingApplicationEntityTitle",
                    "PrivateInformationCreatorUID", "PrivateInformation"):  # fmt: skip
        if keyword in dataset.file_meta:
            delattr(dataset.file_meta, keyword)
    dataset.preamble = bytes(128)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(path, enforce_file_format=True)
