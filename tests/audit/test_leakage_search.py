"""The search for the source's strings: against a naive one, in every kind of file, encoding and container."""

from __future__ import annotations

import base64
import gzip
import io
import json
import lzma
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)
from pydicom.valuerep import PersonName

from imgsynth.audit.leakage import matcher as matcher_module
from imgsynth.audit.leakage import sources
from imgsynth.audit.leakage.matcher import Matcher
from imgsynth.audit.leakage.names import ID, NAME
from imgsynth.audit.leakage.public import program_text
from imgsynth.audit.leakage.scan import search
from imgsynth.audit.leakage.sought import Sought, forms, stands_alone
from imgsynth.audit.leakage.sources import strings_of
from imgsynth.audit.leakage.unpack import Unreadable, layers

SECRET = "Qzyxw^Vbnm^7731"


def naive(data: bytes, patterns: list[bytes]) -> set[tuple[int, int]]:
    lower = data.lower()
    return {(at, index) for index, p in enumerate(patterns) for at in range(len(lower)) if lower[at : at + len(p)] == p}


@given(
    st.lists(st.text("abAB1\0", min_size=6, max_size=15), min_size=1, max_size=12, unique_by=str.lower),
    st.text("abAB1\0", max_size=120),
    st.integers(1, 40),
)
def test_matcher_is_the_naive_search(texts: list[str], data: str, chunk: int) -> None:
    patterns = [text.lower().encode() for text in texts]
    content = (data + texts[0] + data[:5] + texts[-1]).encode()
    whole = matcher_module.CHUNK
    try:
        matcher_module.CHUNK = chunk
        found = list(Matcher(patterns).find(content))
    finally:
        matcher_module.CHUNK = whole
    assert len(found) == len(set(found))
    assert set(found) == naive(content, patterns)


def test_patterns_with_the_same_end_are_all_found() -> None:
    """UIDs of one study, an id within a longer one: their last bytes have one hash."""
    patterns = [b"abcdef", b"xxabcdef", b"yyabcdef", b"1.2.826.0.1.77.555", b"9.2.826.0.1.77.555"]
    data = b" xxABCDEF, yyabcdef: 9.2.826.0.1.77.555 1.2.826.0.1.77.555"
    assert set(Matcher(patterns).find(data)) == naive(data, patterns)
    assert {index for _, index in naive(data, patterns)} == set(range(5))


def test_patterns_that_are_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match="6 bytes"):
        Matcher([b"abcde"])
    with pytest.raises(ValueError, match="lower"):
        Matcher([b"ABCDEF"])
    assert list(Matcher([]).find(b"anything")) == []


def sought(*texts: str) -> Sought:
    found = Sought()
    for text in texts:
        found.add(text, "a test")
    return found


def files_with(folder: Path, text: str) -> dict[str, Path]:
    """One file of every kind that a release, a checkpoint or a log is made of, with ``text`` somewhere in it."""
    raw = text.encode()
    made: dict[str, bytes] = {
        "json": json.dumps({"name": text}).encode(),
        "utf16.txt": text.encode("utf-16"),
        "big-endian.txt": text.encode("utf-16-be"),
        "upper.md": text.upper().encode(),
        "table.csv": f"a,b\n1,{text}\n".encode(),
        "gz": gzip.compress(b"some " + raw),
        "two-members.gz": gzip.compress(b"one") + gzip.compress(raw),
        "xz": lzma.compress(raw),
        "nested.tar.gz": gzip.compress(zipped("inner.txt", gzip.compress(raw))),
        "name.zip": zipped(f"{text}.txt", b""),
        "deep.zip": zipped("a.zip", zipped("b.txt", raw)),
        "pickle": pickle.dumps({"name": text}),
        "report.html": b"<img src='data:image/png;base64," + base64.b64encode(png(text, compressed=True)) + b"'>",
        "text.png": png(text, compressed=False),
        "ztxt.png": png(text, compressed=True),
        "itxt.png": png(text, compressed=True, international=True),
    }
    found = {}
    for name, content in made.items():
        found[name] = folder / name
        found[name].write_bytes(content)
    found["npz"] = folder / "a.npz"
    np.savez_compressed(found["npz"], ids=np.array([text, "other"]))
    found["pt"] = folder / "a.pt"
    torch.save({"state": torch.zeros(3), "who": text}, found["pt"])
    for name, field in (("descrip", "descrip"), ("aux_file", "aux_file")):
        image = nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4))
        image.header[field] = raw
        found[name] = folder / f"{name}.nii.gz"
        nib.save(image, found[name])
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", raw))
    found["extension"] = folder / "extension.nii"
    nib.save(image, found["extension"])
    for name, syntax in (("dicom", ExplicitVRLittleEndian), ("deflated", DeflatedExplicitVRLittleEndian)):
        found[name] = folder / f"{name}.dcm"
        dicom(text, syntax).save_as(found[name], enforce_file_format=True)
    return found


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def png(text: str, compressed: bool, international: bool = False) -> bytes:
    chunks = PngImagePlugin.PngInfo()
    if international:
        chunks.add_itxt("Comment", text, zip=compressed)
    else:
        chunks.add_text("Comment", text, zip=compressed)
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def dicom(text: str, syntax: str) -> pydicom.Dataset:
    """``text`` in an item of a private sequence within a sequence."""
    inner = pydicom.Dataset()
    inner.private_block(0x0011, "TEST", create=True).add_new(1, "LT", text)
    outer = pydicom.Dataset()
    outer.private_block(0x0013, "TEST", create=True).add_new(1, "SQ", [inner])
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    dataset.ReferencedStudySequence = [outer]
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def test_the_secret_is_found_in_every_kind_of_file(tmp_path: Path) -> None:
    files = files_with(tmp_path, SECRET)
    found = search(tmp_path, [path.name for path in files.values()], sought(SECRET))
    assert found.not_read == []
    assert {finding.file for finding in found.findings} == {path.name for path in files.values()}
    other = search(tmp_path, [path.name for path in files.values()], sought("Qzyxw^Vbnm^7732"))
    assert other.findings == []
    assert other.files == len(files)


def test_a_file_name_is_searched_too(tmp_path: Path) -> None:
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "doe_jane_1931.dcm").write_bytes(b"nothing")
    (found,) = search(tmp_path, ["dicom/doe_jane_1931.dcm"], sought("Doe_Jane")).findings
    assert (found.where, found.text) == ("file name", "Doe_Jane")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("Müller-Lüdenscheidt", "Müller-Lüdenscheidt".encode("latin-1")),
        ("Müller-Lüdenscheidt", "Müller-Lüdenscheidt".encode("utf-16-be")),
        ("Müller-Lüdenscheidt", json.dumps("Müller-Lüdenscheidt").encode()),
        ("山田太郎一二", "山田太郎一二".encode()),
        ("C:\\scans\\doe", json.dumps("C:\\scans\\doe").encode()),
        ("/home/jane doe/scans", b"file:///home/jane%20doe/scans"),
        ("Doe^Jane^Mary", b"DOE JANE MARY"),
        ("A&B Clinic", b"<td>A&amp;B Clinic</td>"),
        ("19310913", b"born 1931-09-13"),
        ("DOE^JANE\0 ", b"DOE^JANE"),
        ("7731042", b"patient_7731042.dcm".replace(b"_", b"-")),
        ("a long comment that a header of eighty bytes has to cut somewhere near its end, or so it seems to be",
         b"a long comment that a header of eighty bytes has to cut some"),
    ],
)  # fmt: skip
def test_spellings_of_a_string_are_found(tmp_path: Path, text: str, content: bytes) -> None:
    (tmp_path / "file").write_bytes(b"before " + content + b" after")
    assert search(tmp_path, ["file"], sought(text)).findings


@pytest.mark.parametrize("content", [b"0.7731042", b"17731042", b"77310421", b"a7731042b", b"3.7731042e-5"])
def test_an_id_of_digits_is_not_found_within_another_number(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(b"x: " + content + b",")
    assert search(tmp_path, ["file"], sought("7731042")).findings == []
    assert not stands_alone(content, content.index(b"7731042"), 7)


@pytest.mark.parametrize(
    ("text", "rule"),
    [("CT", "too short"), ("F", "too short"), ("1.5", "numbers"), ("-125.500000", "numbers"), ("1.0e-05", "numbers"),
     ("000123", "numbers"), ("12345", "numbers"), ("1.2.840.10008.1.2.1", "standard UIDs"), ("Pneumonia", "declared")],
)  # fmt: skip
def test_what_is_left_out_is_counted_by_rule(text: str, rule: str) -> None:
    found = Sought(declared=["pneumonia"])
    found.add(text, "a test")
    assert found.origin == {} and found.counts() == {rule: 1}


@pytest.mark.parametrize("text", ["A12345", "1.2.840.113619.2.55", "7731042", "12_345678", "12E3456", "19310913"])
def test_what_could_be_an_id_is_sought(text: str) -> None:
    assert set(sought(text).origin) == {text}


def test_what_the_program_itself_says_is_public() -> None:
    found = sought("MONOCHROME2", "derived", "FloatStorage", "Synthesizing Equipment", "hippocampus", SECRET)
    found.leave_out_public(program_text())
    assert set(found.origin) == {SECRET}
    assert found.counts() == {"program": 5}


def test_packed_data_that_cannot_be_unpacked_is_said(tmp_path: Path) -> None:
    (tmp_path / "broken.gz").write_bytes(gzip.compress(b"x" * 1000)[:-12])
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "link").symlink_to(tmp_path / "broken.gz")
    found = search(tmp_path, ["broken.gz", "broken.zip", "link", "gone"], sought(SECRET))
    assert [text.split(":")[0] for text in found.not_read] == ["broken.gz", "broken.zip", "link", "gone"]
    with pytest.raises(Unreadable):
        list(layers(tmp_path / "broken.gz"))


def test_every_spelling_has_the_length_that_the_matcher_needs() -> None:
    short: Callable[[str], list[bytes]] = lambda text: [form for form in forms(text) if len(form) < 6]  # noqa: E731
    assert [short(text) for text in ("abcdef", "äöüßéè", SECRET)] == [[], [], []]


def named(name: str, origin: str = f"DICOM (0010,0010) PatientName{NAME}") -> Sought:
    found = Sought()
    found.add(name, origin)
    return found


def finds(folder: Path, what: Sought, content: bytes) -> bool:
    (folder / "file").write_bytes(b"before " + content + b" after")
    return bool(search(folder, ["file"], what).findings)


@pytest.mark.parametrize("source", ["MÜLLER^JÖRG", "Müller^Jörg", "müller^jörg", "Mu\u0308ller^Jo\u0308rg"])
@pytest.mark.parametrize("release", ["MÜLLER^JÖRG", "Müller^Jörg", "müller^jörg", "MU\u0308LLER^JO\u0308RG"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_case_and_accents_of_any_letter_hide_nothing(tmp_path: Path, source: str, release: str, encoding: str) -> None:
    assert finds(tmp_path, sought(source), release.encode(encoding))


@pytest.mark.parametrize("source", ["SMITH^ANNA", "SMITH^ANNA^MARIE^DR", "Smith, Anna", "Anna Smith", "anna_smith"])
@pytest.mark.parametrize(
    "release", ["Anna Smith", "Smith, Anna", "anna_smith", "SMITH^ANNA", "smith-anna", "Anna.Smith", "annasmith2"]
)
def test_a_name_is_found_in_any_order_of_its_parts(tmp_path: Path, source: str, release: str) -> None:
    assert finds(tmp_path, named(source), release.encode())
    assert finds(tmp_path, named(source), release.encode("utf-16-le"))


@pytest.mark.parametrize(
    "release", ["Hanna Smith", "Anna Smithson", "Smith, Hannah", "Anna Smyth", "Smith", "Anna, J. Smith"]
)
def test_other_names_are_not_taken_for_it(tmp_path: Path, release: str) -> None:
    assert not finds(tmp_path, named("SMITH^ANNA"), release.encode())


def test_only_names_are_turned_round(tmp_path: Path) -> None:
    assert not finds(tmp_path, sought("chest routine"), b"routine chest")


def test_family_names_of_several_words_and_middle_names_are_found(tmp_path: Path) -> None:
    assert finds(tmp_path, named("VAN DER BERG^JAN"), b"jan_van_der_berg")
    assert finds(tmp_path, named("SMITH^ANNA^MARIE"), b"Anna Marie Smith")


def test_names_and_ids_that_the_program_says_too_are_sought_all_the_same(tmp_path: Path) -> None:
    found = named("WILSON")
    found.add("Pearson", "table, column 2")
    found.add("Cooper", "table, column 2")
    found.add("FloatStorage", f"manifest, patient{ID}")
    found.leave_out_public([b"Wilson's intervals (1927); Pearsonian; a Cooper; FloatStorage"])
    assert set(found.origin) == {"WILSON", "Pearson", "FloatStorage"}
    assert found.counts() == {"program": 1}
    assert finds(tmp_path, found, b"wilson") and finds(tmp_path, found, b"Dr Pearson")
    assert not finds(tmp_path, found, b"Wilsonian") and not finds(tmp_path, found, b"Pearsonian")


def test_words_that_name_nobody_are_no_names() -> None:
    assert named("ANONYMOUS").counts() == {"placeholders": 1}
    assert named("Anonymous^Patient").counts() == {"placeholders": 1}
    assert named("Anonymous^Anna").counts() == {}


def test_names_and_ids_are_known_by_where_they_stand(tmp_path: Path) -> None:
    dataset = dicom(SECRET, ExplicitVRLittleEndian)
    dataset.PatientName, dataset.PatientID, dataset.Manufacturer = "SMITH^ANNA", "AB123456", "Cooper Scans"
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    (tmp_path / "t.csv").write_text("patient_id,Last Name,site name\nP-000001,Johnson,Westmead\n")
    (tmp_path / "b.json").write_text(json.dumps({"PatientName": "Doe^Janet", "n": [{"mrn": "M-123456"}, "Protocol"]}))
    origins = {text: where for name in ("a.dcm", "t.csv", "b.json") for text, where in strings_of(tmp_path / name)}
    assert {text for text, where in origins.items() if where.endswith(NAME)} == {
        "SMITH^ANNA", "SMITH", "ANNA", "Johnson", "Doe^Janet"}  # fmt: skip
    ids = {text for text, where in origins.items() if where.endswith(ID)}
    assert ids == {"AB123456", "P-000001", "M-123456", dataset.SOPInstanceUID}


def _every_element(path: Path) -> set[tuple[str, str]]:
    """Texts and where they stand, of one file by itself, by pydicom's own walk."""
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    found = set()
    for element in (*dataset.file_meta.iterall(), *dataset.iterall()):
        several = element.value if isinstance(element.value, (list, pydicom.multival.MultiValue)) else [element.value]
        if element.VR != "SQ":
            found |= {(str(value), str(element.tag)) for value in several if isinstance(value, str | PersonName)}
    return found


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_passing_over_what_came_before_misses_no_string(tmp_path: Path, syntax: UID) -> None:
    """Slices that share nearly all: in an item, in a private element, in bytes alone (another character set)."""
    plain = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Änne", "ProtocolName": "Thorax routine"}
    changes: list[dict[str, object]] = [
        {}, {"PatientName": "Schöne^Rita"}, {"nested": "Prof. Überall"}, {"private": "ward seven"},
        {"SpecificCharacterSet": "ISO_IR 144", "PatientName": "Мария^Ивановна"},
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Мария^Ивановна".encode("iso8859_5").decode("latin-1")},
    ]  # fmt: skip
    expected: set[tuple[str, str]] = set()
    found: set[tuple[str, str]] = set()
    known: set = set()
    for number, change in enumerate(changes):
        said = {"nested": "Prof. Unter", "private": "ward six", **plain, **change}
        dataset = dicom(SECRET, syntax)
        for keyword in plain:
            setattr(dataset, keyword, said[keyword])
        item = pydicom.Dataset()
        item.ReferringPhysicianName = said["nested"]
        dataset.RequestAttributesSequence = [item]
        dataset.private_block(0x0011, "HOUSE", create=True).add_new(0x01, "LO", said["private"])
        path = tmp_path / f"{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        expected |= _every_element(path)
        found |= {(text, where.split(" ", 1)[1][:11]) for text, where in strings_of(path, known)}
    assert len({tag for _, tag in expected}) > 12
    assert {text for text, _ in expected} > {"Мария^Ивановна", "Prof. Überall", "Schöne^Rita"}
    missing = expected - found
    assert not missing
    explicit = syntax is ExplicitVRLittleEndian
    assert any(tag >> 16 > 2 for tag, *_ in known) == explicit  # where the file does not say the VR, all is read
    assert ("Müller^Änne" not in {text for text, _ in strings_of(tmp_path / "0.dcm", known)}) == explicit


def test_an_element_that_could_not_be_read_is_not_passed_over_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dicom("an item's text", ExplicitVRLittleEndian)
    dataset.PatientName = SECRET
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    known: set = set()
    with monkeypatch.context() as patch:
        patch.setattr(sources, "_of_element", _failing)
        with pytest.raises(ValueError, match="cannot be read"):
            list(strings_of(tmp_path / "a.dcm", known))
    assert SECRET in {text for text, _ in strings_of(tmp_path / "a.dcm", known)}


def _failing(element: pydicom.DataElement) -> list[str]:
    if element.keyword == "PatientName":
        raise ValueError("cannot be read")
    return []


def test_no_more_is_remembered_than_memory_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_MOST_KNOWN", 3)
    dicom(SECRET, ExplicitVRLittleEndian).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    known: set = set()
    first, second = (set(strings_of(tmp_path / "a.dcm", known)) for _ in range(2))
    assert len(known) == 3 and SECRET in {text for text, _ in second} and second < first
