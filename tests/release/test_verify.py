"""A sound release verifies; every way to tamper with one is found, and named."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

from imgsynth.files import read_json, write_json
from imgsynth.release.card import card_markdown
from imgsynth.release.folder import write_checksums
from imgsynth.release.sample import sample_release
from imgsynth.release.verify import checked, examine, verify_release
from imgsynth.release.verify_card import card_faults
from imgsynth.training.run import load_run
from imgsynth.types import CheckFailed, InputError
from imgsynth.volumes import parallel


def faults(folder: Path, sums: bool = True) -> str:
    """What verify finds; with ``sums`` whoever tampered made the checksums anew."""
    if sums:
        write_checksums(folder)
    with pytest.raises(CheckFailed) as caught:
        verify_release(folder)
    assert caught.value.exit_code == 1
    return str(caught.value)


def edit_json(path: Path, edit: Callable[[Any], None]) -> None:
    value = read_json(path)
    edit(value)
    write_json(path, value)


def edit_dicom(path: Path, edit: Callable[[pydicom.Dataset], None]) -> None:
    dataset = pydicom.dcmread(path)
    edit(dataset)
    dataset.save_as(path)


def first(folder: Path, pattern: str) -> Path:
    return sorted(folder.rglob(pattern))[0]


@pytest.mark.parametrize("kind", ["ct", "mr", "dx"])
def test_a_release_as_written_verifies(kind: str, request: pytest.FixtureRequest) -> None:
    run_dir = request.getfixturevalue(f"{kind}_run")
    result = verify_release(sample_release(run_dir, load_run(run_dir).config))
    assert result["patients"] == 4 and 0 < result["epsilon"] <= 8
    assert result["unit"] == ("image" if kind == "dx" else "patient")
    lines = checked(examine(run_dir / "release"))
    assert f"{result['files']} files" in lines[1] and "not audited yet" in lines[-1]
    assert result["files"] > result["dicom"] + result["nifti"] >= 4
    assert any(line.split()[0] == "NIfTI" for line in lines) == (result["nifti"] > 0)  # only what is there


def test_a_folder_that_is_no_release_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no privacy_card"):
        verify_release(tmp_path)


def test_all_faults_are_reported_at_once(tampered: Path) -> None:
    first(tampered, "*.dcm").unlink()
    (tampered / "notes.txt").write_text("hello")
    (tampered / "synthetic_cohort.csv").write_text("id,label,files\n")
    found = faults(tampered, sums=False)
    assert "000001.dcm" in found and "notes.txt" in found and "synthetic_cohort.csv" in found


DICOM: dict[str, Callable[[pydicom.Dataset], None]] = {
    "SyntheticData": lambda d: setattr(d, "SyntheticData", "NO"),
    "PatientID": lambda d: setattr(d, "PatientID", "4711"),
    "PatientName": lambda d: setattr(d, "PatientName", "Doe^Jane"),
    "PatientIdentityRemoved": lambda d: delattr(d, "PatientIdentityRemoved"),
    "DeidentificationMethod": lambda d: delattr(d, "DeidentificationMethod"),
    "ImageType": lambda d: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY"]),
    "PatientBirthDate": lambda d: setattr(d, "PatientBirthDate", "19310913"),
    "InstitutionName": lambda d: setattr(d, "InstitutionName", "Somewhere"),
    "StudyDate": lambda d: setattr(d, "StudyDate", "20240101"),
    "BurnedInAnnotation": lambda d: setattr(d, "BurnedInAnnotation", "NO"),
    "Modality": lambda d: setattr(d, "Modality", "OT"),
    "a private element": lambda d: d.private_block(0x0011, "X", create=True).add_new(1, "LO", "hidden"),
    "bytes that are not zero": lambda d: setattr(d, "preamble", b"x" * 128),
    "more than once": lambda d: setattr(d, "SOPInstanceUID", d.StudyInstanceUID),
    "one series of one study": lambda d: setattr(d, "StudyInstanceUID", "1.2.3"),
    "values": lambda d: setattr(d, "PixelData", np.full(64, 2000, "<i2").tobytes()),
    "affine": lambda d: setattr(d, "ImagePositionPatient", [0, 0, 0]),
}


@pytest.mark.parametrize("expected", DICOM)
def test_each_change_to_a_dicom_file_is_found(tampered: Path, expected: str) -> None:
    edit = DICOM[expected]
    for path in sorted((tampered / "dicom" / "SYN-000002").rglob("*.dcm"))[: 8 if expected == "affine" else 1]:
        if expected == "affine":  # the whole series moved by a metre
            edit_dicom(
                path,
                lambda d: setattr(
                    d, "ImagePositionPatient", [1000 + d.ImagePositionPatient[0], *d.ImagePositionPatient[1:]]
                ),
            )
        else:
            edit_dicom(path, edit)
    assert expected in faults(tampered)


def test_two_patients_that_share_a_study_are_found(tampered: Path) -> None:
    uid = pydicom.dcmread(first(tampered / "dicom" / "SYN-000001", "*.dcm")).StudyInstanceUID
    for path in (tampered / "dicom" / "SYN-000002").rglob("*.dcm"):
        edit_dicom(path, lambda d: setattr(d, "StudyInstanceUID", uid))
    assert f"UID {uid} more than once" in faults(tampered)


def test_a_dicom_file_that_cannot_be_read_is_found(tampered: Path) -> None:
    first(tampered, "*.dcm").write_bytes(b"not a DICOM file")
    assert "unreadable" in faults(tampered)


def test_two_slices_that_changed_places_are_found(tampered: Path) -> None:
    folder = tampered / "dicom" / "SYN-000001" / "CT"
    edit_dicom(folder / "000003.dcm", lambda d: setattr(d, "ImagePositionPatient", [35, 35, 17]))
    assert "SYN-000001" in faults(tampered)


def save(image: nib.Nifti1Image, path: Path) -> None:
    nib.save(image, path)


NIFTI: dict[str, Callable[[nib.Nifti1Image], Any]] = {
    "qform": lambda i: i.header.__setitem__("qform_code", 0),
    "xyzt_units": lambda i: i.header.set_xyzt_units("unknown", "unknown"),
    "descrip": lambda i: i.header.__setitem__("descrip", b"Jane Doe"),
    "no text but descrip": lambda i: i.header.__setitem__("db_name", b"Jane Doe"),
    "an extension": lambda i: i.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe")),
    "left-handed": lambda i: i.set_sform(np.diag([-1, 1, 1, 1]) @ i.affine, 1) or i.set_qform(i.affine, 1),
    "affine": lambda i: i.set_sform(np.diag([2, 2, 2, 1]) @ i.affine, 1) or i.set_qform(i.affine, 1),
}


@pytest.mark.parametrize("expected", NIFTI)
def test_each_change_to_a_nifti_header_is_found(tampered: Path, expected: str) -> None:
    path = first(tampered, "*.nii.gz")
    image = nib.load(path)
    image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    NIFTI[expected](image)
    nib.save(image, path)
    assert expected in faults(tampered)


def test_nifti_values_outside_the_range_and_broken_files_are_found(tampered: Path) -> None:
    one, two = sorted(tampered.rglob("*.nii.gz"))[:2]
    image = nib.load(one)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 5000, image.affine, image.header), one)
    two.write_bytes(two.read_bytes()[:50])
    found = faults(tampered)
    assert f"{one.relative_to(tampered).as_posix()}: got values" in found and "unreadable NIfTI" in found


def understate(card: dict[str, Any]) -> None:
    card["guarantee"]["epsilon"] = card["plan"]["epsilon"] = card["cohort_ledger"]["epsilon"] = 0.5


CARD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "ε understated everywhere": (understate, "plan: got 0.5"),
    "ε of the guarantee": (lambda c: c["guarantee"].__setitem__("epsilon", 1.0), "guarantee"),
    "ε overstated": (lambda c: c["guarantee"].__setitem__("epsilon", 9.0), "guarantee"),
    "δ": (lambda c: c["guarantee"].__setitem__("delta", 1e-9), "guarantee"),
    "noise": (lambda c: c["plan"].__setitem__("noise_multiplier", 0.3), "plan"),
    "steps": (lambda c: c["plan"].__setitem__("steps", 300), "plan"),
    "ids": (lambda c: c["plan"].__setitem__("ids", "case"), "patient_ids"),
    "text in pixels": (lambda c: c.__setitem__("burned_in_annotation", "NO"), "BurnedInAnnotation: got None"),
    "text in pixels, no value": (lambda c: c.__setitem__("burned_in_annotation", "MAYBE"), "burned_in_annotation: got"),
    "unit": (lambda c: c.__setitem__("unit", "image"), "unit"),
    "n": (lambda c: c["plan"].__setitem__("n", 5000), "plan"),
    "event": (lambda c: c["event"].__setitem__("count", 1), "event"),
    "attacker": (lambda c: c["any_attacker_at_most"][0].__setitem__("members_found_at_most", 0.0), "any_attacker"),
    "two": (lambda c: c.__setitem__("two_units", {"epsilon": 1.0, "delta": 1e-9}), "two_units"),
    "ledger": (lambda c: c["cohort_ledger"].__setitem__("epsilon", 0.1), "cohort_ledger"),
    "audit": (lambda c: c["audit"].__setitem__("verdict", "PRIVATE"), "audit"),
    "statement": (lambda c: c.__setitem__("statement", "The data are anonymous."), "statement"),
    "limits": (lambda c: c["not_covered"].pop(), "not_covered"),
    "format": (lambda c: c.__setitem__("format", "other"), "format"),
    "missing": (lambda c: c.pop("audit"), "KeyError"),
}


@pytest.mark.parametrize("what", CARD)
def test_each_change_to_the_card_is_found(tampered: Path, what: str) -> None:
    edit, expected = CARD[what]
    edit_json(tampered / "privacy_card.json", edit)
    if what not in ("missing", "audit"):  # of these no text can be made
        (tampered / "privacy_card.md").write_text(card_markdown(read_json(tampered / "privacy_card.json")))
    assert expected in faults(tampered)


def test_a_card_for_people_that_says_something_else_is_found(tampered: Path) -> None:
    path = tampered / "privacy_card.md"
    path.write_text(path.read_text() + "\nAll data are anonymous.\n")
    assert "privacy_card.md" in faults(tampered)


@pytest.mark.parametrize("broken", ["{", "[]"])
def test_a_card_that_is_no_json_object_is_a_fault_and_no_crash(tampered: Path, broken: str) -> None:
    (tampered / "privacy_card.json").write_text(broken)
    (tampered / "synthetic_cohort.json").write_text(broken)
    found = faults(tampered)
    assert "privacy_card.json" in found and "synthetic_cohort.json" in found


COHORT: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a patient left out": (lambda c: c["patients"].pop(), "an image of no synthetic patient"),
    "an image that is not there": (lambda c: c["patients"][0]["nifti"].append("nifti/no.nii.gz"), "no such image"),
    "an image twice": (lambda c: c["patients"][0].__setitem__("nifti", c["patients"][1]["nifti"]), "more than once"),
    "a path to elsewhere": (lambda c: c["patients"][0]["nifti"].append("../../x.nii.gz"), "no such image"),
    "an id": (lambda c: c["patients"][0].__setitem__("id", "4711"), "SYN-000001"),
    "a label": (lambda c: c["patients"][0].__setitem__("label", "HIV"), "label"),
    "the grid": (lambda c: c["grid"].__setitem__("spacing", [1.0, 1.0, 1.0]), "affine"),
    "the range": (lambda c: c["grid"].__setitem__("high", -999.0), "values"),
    "no grid": (lambda c: c.pop("grid"), "KeyError"),
}


@pytest.mark.parametrize("what", COHORT)
def test_each_change_to_the_cohort_is_found(tampered: Path, what: str) -> None:
    edit, expected = COHORT[what]
    edit_json(tampered / "synthetic_cohort.json", edit)
    assert expected in faults(tampered)


def test_a_csv_that_differs_and_a_file_beyond_the_releases_are_found(tampered: Path) -> None:
    path = tampered / "synthetic_cohort.csv"
    with path.open(newline="") as handle:
        rows = list(csv.reader(handle))
    rows[1][1] = "lesion"
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows(rows)
    (tampered / "dicom" / "patients.csv").write_text("Jane Doe\n")
    found = faults(tampered)
    assert "synthetic_cohort.csv" in found and "dicom/patients.csv" in found


@pytest.mark.parametrize(
    ("privacy", "reason"),
    [({"mode": "none"}, "not differentially private"), ({"seed": 7}, "came from a seed"),
     ({"epsilon": None, "noise_multiplier": 0.0}, "multiplier is 0")],
)  # fmt: skip
def test_what_is_not_releasable_says_so_everywhere_and_does_not_verify(
    make_run: Callable[..., Path], ct_run: Path, privacy: dict, reason: str
) -> None:
    cfg = load_run(ct_run).config
    run_dir = make_run(cfg.data, cfg.preprocess, privacy={**privacy, "ledger": cfg.privacy.ledger + "-other"})
    release = sample_release(run_dir, load_run(run_dir).config)
    assert read_json(release / "privacy_card.json")["releasable"] is False
    for name in ("privacy_card.md", "README.md"):
        assert "NOT RELEASABLE" in (release / name).read_text()
    dataset = pydicom.dcmread(first(release, "*.dcm"))
    assert dataset.BurnedInAnnotation == "YES"
    told = [dataset.DerivationDescription, read_json(first(release / "nifti", "*desc-synthetic*.json"))["Description"]]
    told.append(nib.load(first(release, "*.nii.gz")).header["descrip"].item().decode())
    seeded = "seed" in privacy
    for text in told:
        assert "not releasable" in text and "epsilon = 7" not in text and "eps<=" not in text
        assert ("whoever knows the seed" in text) == seeded
    assert read_json(first(release / "nifti", "*desc-synthetic*.json"))["Epsilon"] is None
    assert ("void for whoever knows it" in read_json(release / "provenance.json")["seed"]) == seeded
    found = faults(release, sums=False)
    assert "NOT RELEASABLE" in found and reason in found
    edit_json(release / "privacy_card.json", lambda c: c.update(releasable=True, not_releasable_because=[]))
    assert "releasable" in faults(release)


def test_the_card_is_json_that_every_reader_takes(ct_release: Path) -> None:
    def refuse(token: str) -> None:
        raise AssertionError(token)

    json.loads((ct_release / "privacy_card.json").read_text(), parse_constant=refuse)
    assert shutil.which("sha256sum") is not None


def test_a_card_of_before_there_were_queries_is_no_forgery(ct_release: Path) -> None:
    card = read_json(ct_release / "privacy_card.json") | {"imgsynth": "0.0.9"}
    del card["plan"]["queries"], card["guarantee"]["epsilon_queries"]
    assert not card_faults(ct_release, card)
    card["plan"]["queries"] = [{"name": "means", "clipping_norm": 1.0, "noise_multiplier": 0.5}]
    assert card_faults(ct_release, card)  # a query that the stated ε does not pay for


def test_a_large_release_is_verified_by_several_processes_with_the_same_findings(
    tampered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patients = read_json(tampered / "synthetic_cohort.json")["patients"]
    series = [patient["dicom"][0] for patient in patients]
    for name, other in ((series[0], series[1]), (series[2], series[3])):  # UIDs twice, in what two processes look at
        (tampered / name).write_bytes((tampered / other).read_bytes())
    (tampered / patients[1]["nifti"][0]).write_bytes(b"torn")
    alone = faults(tampered)
    assert alone.count("more than once") >= 2 and "unreadable NIfTI" in alone
    monkeypatch.setattr(parallel, "PARALLEL_FROM", 1)
    monkeypatch.setattr(parallel, "CHUNK", 1)
    assert faults(tampered) == alone
