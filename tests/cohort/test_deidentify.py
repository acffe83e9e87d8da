"""A de-identified copy: names, ids, dates and private text are gone, people stay apart, and what is left is said."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from planted import Planted, write_dicom
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from imgsynth.cohort import deidentify as module
from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.deidentify import deidentify
from imgsynth.schema import DataConfig
from imgsynth.types import InputError

KEY = bytes(range(32))
BAD = ("cut.dcm", "broken.dcm")
IDS = ("PatientID", "AccessionNumber", "StudyID", "OtherPatientIDs", "StationName")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients, of whom the first has a second study; a text file and a broken one among them."""
    folder = tmp_path_factory.mktemp("export") / "ward"
    write_dicom(folder, Planted(), patients=3)
    again = Path(shutil.copytree(sorted(folder.iterdir())[0], folder / "again"))
    for path in again.rglob("*.dcm"):
        d = pydicom.dcmread(path)
        d.StudyInstanceUID += ".1"
        d.SeriesInstanceUID += ".1"
        d.SOPInstanceUID += ".1"
        d.BurnedInAnnotation = "YES"
        d.save_as(path)
    (folder / "notes.txt").write_text("ZQXJVK, by hand")
    (folder / "cut.dcm").write_bytes(next(again.rglob("*.dcm")).read_bytes()[:3000])  # before its pixels
    deflated = pydicom.dataset.FileMetaDataset()
    deflated.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with (folder / "broken.dcm").open("wb") as file:
        file.write(bytes(128) + b"DICM")
        write_file_meta_info(file, deflated, enforce_standard=False)
        file.write(b"what is no deflate stream")
    return folder


@pytest.fixture(scope="module")
def copy(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("copies") / "copy"
    deidentify(source, target, KEY)
    return target


def secrets_of(source: Path) -> set[bytes]:
    """Names, ids, dates and what is private, of every file and at every depth; names of files and folders."""
    found = set()
    for path in source.rglob("*.dcm"):
        if path.name in BAD:
            continue
        found |= {part.encode() for part in (path.stem, path.parent.name)}
        d = pydicom.dcmread(path)
        for element in d.iterall():
            standard = element.keyword.endswith("ClassUID") or str(element.value).startswith("1.2.840.10008.")
            hidden = element.VR in ("PN", "UI", "DA", "DT") or element.keyword in IDS
            private = element.tag.is_private and element.VR in ("LO", "LT", "SH", "ST", "UT")
            if (hidden or private) and element.value and not standard:
                found.add(str(element.value).encode())
    return found


def test_no_name_id_date_or_private_text_is_in_any_byte_of_the_copy(source: Path, copy: Path) -> None:
    secrets = secrets_of(source)
    assert len(secrets) > 1000
    files = [path for path in copy.rglob("*") if path.is_file()]
    everything = b"\n".join([path.read_bytes() + str(path.relative_to(copy)).encode() for path in files])
    assert len(files) == 4 * 8 + 1
    left = [one for one in secrets if re.search(re.escape(one) + rb"(?![\d.])", everything)]  # no part of a class' UID
    assert left == []


def test_people_and_their_studies_stay_together_and_images_as_they_are(source: Path, copy: Path) -> None:
    data = DataConfig(kind="dicom", root=str(source))
    before, after = (build_manifest(dataclasses.replace(data, root=str(root)))[0] for root in (source, copy))
    assert sorted(map(len, before.by_patient.values())) == sorted(map(len, after.by_patient.values())) == [1, 1, 2]
    assert not set(before.patients()) & set(after.patients())

    def pixels(root: Path) -> set[bytes]:
        return {pydicom.dcmread(p).PixelData for p in root.rglob("*.dcm") if p.name not in BAD}

    assert pixels(source) == pixels(copy)


def test_the_same_key_gives_the_same_ids_and_another_one_others(source: Path, copy: Path, tmp_path: Path) -> None:
    deidentify(source, tmp_path / "same", KEY)
    deidentify(source, tmp_path / "other", bytes(32))
    names = [{p.relative_to(root).as_posix() for p in root.rglob("*.dcm")}
             for root in (copy, tmp_path / "same", tmp_path / "other")]  # fmt: skip
    assert names[0] == names[1] and not names[0] & names[2]


def test_it_says_what_it_did_and_what_nobody_looked_at(copy: Path) -> None:
    said = json.loads((copy / "deidentification.json").read_text())
    assert (said["patients"], said["files"], said["no_image_left_out"]) == (3, 32, 2)
    assert said["unreadable_left_out"] == 1 and said["private_elements_removed"] > 100
    unseen = said["no_person_looked_at"]
    assert unseen["pixels_may_show_text"]["BurnedInAnnotation YES"] == 8
    assert {"PatientComments", "ImageComments"} <= set(unseen["free_text"])
    assert "no proof" in said["claim"] and "dicognito" in said["by"]
    assert "DICOGNITO" in str(pydicom.dcmread(next(copy.rglob("*.dcm"))).DeidentificationMethod)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (lambda source: source / "in", "a folder in the source"),
        (lambda source: source, "a folder in the source"),
        (lambda source: source.parent, "around it"),
    ],
    ids=["inside", "the same", "around"],
)
def test_a_target_that_is_not_apart_is_refused(place: Callable[[Path], Path], said: str, source: Path) -> None:
    with pytest.raises(InputError, match=said):
        deidentify(source, place(source), KEY)


def test_whole_or_not_at_all(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="a folder that is there"):
        deidentify(source, tmp_path / "there", KEY)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no DICOM file"):
        deidentify(tmp_path / "empty", tmp_path / "new", KEY)
    save, saved = module._save, []

    def full(*arguments: object) -> None:
        saved.append(1)
        if len(saved) == 5:
            raise OSError("no space left")
        save(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_save", full)
    with pytest.raises(OSError, match="no space"):
        deidentify(source, tmp_path / "new", KEY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "there"]
    assert np.all(saved)
