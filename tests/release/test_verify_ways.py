"""Every way in which docs/release.md says that a release can be broken: each is found, by the check that it names."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from forked import imgsynth_forked

from imgsynth.files import read_json, write_json
from imgsynth.release.documents import write_documents
from imgsynth.release.facts import Facts, facts_of
from imgsynth.release.folder import PUBLIC_KEY, SIGNATURE, write_checksums
from imgsynth.release.sign import seal
from imgsynth.release.verify import Examined, examine
from imgsynth.release.verify_documents import document_faults
from imgsynth.release.verify_forbidden import forbidden_faults
from imgsynth.release.verify_nifti import nifti_faults
from imgsynth.release.verify_provenance import provenance_faults
from imgsynth.release.verify_report import write_verify_report
from imgsynth.release.verify_zarr import zarr_faults
from imgsynth.types import Fault, InputError

needs_zarr = pytest.mark.skipif(sys.version_info < (3, 11), reason="zarr 3 needs Python 3.11")


def found_by(folder: Path, key: Path | None = None) -> dict[str, str]:
    """What each check that fails says."""
    return {check.name: "\n".join(map(str, check.faults)) for check in examine(folder, key).checks if check.faults}


CHECKS: dict[str, Callable[[Path, Facts], Iterable[Fault]]] = {
    "provenance": lambda folder, facts: provenance_faults(facts),
    "documents": document_faults,
    "NIfTI": nifti_faults,
    "Zarr": zarr_faults,
    "forbidden": forbidden_faults,
}


def found(name: str, folder: Path) -> str:
    """What one check says; that ``examine`` makes each is tested once below."""
    return "\n".join(map(str, CHECKS[name](folder, facts_of(folder))))


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    value = read_json(path)
    change(value)
    write_json(path, value)


def edit_dicom(folder: Path, change: Callable[[pydicom.Dataset], Any]) -> None:
    path = sorted((folder / "dicom").rglob("*.dcm"))[3]
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


PROVENANCE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "fewer steps": (lambda m: m["config"]["trainer"].update(steps=2), "config (steps)"),
    "more steps": (lambda m: m["config"]["trainer"].update(steps=30), "config (steps)"),
    "a larger ε": (lambda m: m["config"]["privacy"].update(epsilon=9.0), "config (epsilon)"),
    "a smaller ε": (lambda m: m["config"]["privacy"].update(epsilon=1.0), "config (epsilon)"),
    "another δ": (lambda m: m["config"]["privacy"].update(delta=1e-4), "config (delta)"),
    "no privacy": (lambda m: m["config"]["privacy"].update(mode="none", epsilon=None), "config (mode)"),
    "another batch": (lambda m: m["config"]["privacy"].update(batch_patients=2), "config (sampling_rate)"),
    "another norm": (lambda m: m["config"]["privacy"].update(clipping_norm=2.0), "config (clipping_norm)"),
    "another n": (lambda m: m["config"]["privacy"].update(n=90), "config (n)"),
    "more images of a patient": (lambda m: m["config"]["data"].update(images_per_patient=9), "images_per_patient"),
    "another unit": (lambda m: m["config"]["data"].update(unit="image"), "config.data.unit"),
    "another grid": (lambda m: m["config"]["preprocess"].update(spacing=[1.0, 1.0, 1.0]), "config.preprocess"),
    "more patients": (lambda m: m["config"]["sample"].update(n=40), "config.sample.n"),
    "a format that is not there": (lambda m: m["config"]["sample"].update(formats=["dicom"]), "config.sample.formats"),
    "other labels": (lambda m: m["config"]["sample"].update(labels="histogram"), "config.sample.labels"),
    "text in pixels": (lambda m: m["config"]["sample"].update(burned_in="NO"), "config.sample.burned_in"),
    "a private setting": (lambda m: m["config"]["data"].update(root="scans"), "config.data"),
    "another section": (lambda m: m["config"].update(audit={"n": 3}), "config.audit"),
    "another entry of the ledger": (lambda m: m["ledger_entry"].update(sha256="0" * 64), "ledger_entry"),
    "the entry of another run": (lambda m: m["ledger_entry"].update(run="0" * 64), "ledger_entry"),
    "no entry of the ledger": (lambda m: m.update(ledger_entry=None), "ledger_entry"),
    "another version": (lambda m: m.update(imgsynth="0.0.9"), "imgsynth"),
    "another format": (lambda m: m.update(format="imgsynth-provenance-1"), "format"),
}


@pytest.mark.parametrize("way", PROVENANCE)
def test_settings_that_do_not_give_the_card_are_found(way: str, broken: Path) -> None:
    change, expected = PROVENANCE[way]
    edit(broken / "provenance.json", change)
    assert expected in found("provenance", broken)


def test_a_card_of_another_mechanism_is_not_what_the_ledger_has(broken: Path) -> None:
    """ε computed anew and all settings in agreement: the digest alone knows."""
    from imgsynth.privacy.plan import PrivacyPlan
    from imgsynth.release.card import build_card, write_card

    card, made = (read_json(broken / name) for name in ("privacy_card.json", "provenance.json"))
    made["config"]["privacy"].update(epsilon=None, noise_multiplier=50.0)
    plan = dataclasses.replace(PrivacyPlan.from_json(card["plan"]), noise_multiplier=50.0)
    write_card(broken, build_card(plan, "uniform", card["cohort_ledger"] | {"epsilon": 8.0}, card["audit"]))
    write_json(broken / "provenance.json", made)
    write_documents(broken)
    seal(broken, None)
    said = found_by(broken)
    assert "privacy card" not in said and "documents" not in said  # and each image still says what it was made with
    assert "as the card has it" in said["forbidden"] and "Epsilon" in said["NIfTI"] and "attributes" in said["Zarr"]
    assert "digest of the card's mechanism" in said["provenance"]


DOCUMENTS = ["README.md", "datasheet.md", "model_card.md", "LICENSE.txt", "CITATION.cff", "croissant.json",
             "nifti/dataset_description.json", "nifti/README", "nifti/participants.tsv", "nifti/participants.json",
             "nifti/descriptions.tsv", "nifti/.bidsignore"]  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_with_another_word_and_one_that_is_missing_are_found(name: str, broken: Path) -> None:
    text = (broken / name).read_text()
    (broken / name).write_text(text.replace("e", "E", 1) if "e" in text else text + "x")
    assert f"{name}: got another text" in found("documents", broken)
    (broken / name).unlink()
    assert f"{name}: got no such file" in found("documents", broken)


@pytest.mark.parametrize("name", CHECKS)
def test_verify_makes_every_check(name: str, broken: Path) -> None:
    """One break for each, with checksums that fit."""
    breaks: dict[str, Callable[[], Any]] = {
        "provenance": lambda: edit(broken / "provenance.json", lambda m: m.update(ledger_entry=None)),
        "documents": lambda: (broken / "datasheet.md").write_text("Nothing."),
        "NIfTI": lambda: edit(sorted(broken.rglob("*_ct.json"))[0], lambda said: said.update(Delta=0.0)),
        "Zarr": lambda: (broken / "zarr" / "cohort.zarr" / "more").write_text(""),
        "forbidden": lambda: edit_dicom(broken, lambda d: setattr(d, "SeriesDescription", "see /home/jane/7")),
    }
    if name == "Zarr" and not (broken / "zarr").exists():
        pytest.skip("zarr 3 needs Python 3.11")
    breaks[name]()
    seal(broken, None)
    assert name in found_by(broken)


BILL: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another imgsynth": (lambda b: b["metadata"]["component"].update(version="9"), "of imgsynth 9"),
    "another torch": (lambda b: [p.update(version="9") for p in b["components"] if p["name"] == "torch"], "torch"),
    "the hour": (lambda b: b["metadata"].update(timestamp="2026-11-22T10:00:00Z"), "timestamp"),
    "where it lies": (lambda b: b["components"][3].update(evidence={}), "evidence"),
    "no format": (lambda b: b.pop("bomFormat"), "got None of imgsynth"),
}


@pytest.mark.parametrize("way", BILL)
def test_each_change_to_the_bill_of_materials_is_found(way: str, broken: Path) -> None:
    change, expected = BILL[way]
    edit(broken / "sbom.cdx.json", change)
    assert expected in found("documents", broken)


SIDECAR: dict[str, tuple[str, Any]] = {
    "a smaller ε": ("Epsilon", 0.5), "another unit": ("PrivacyUnit", "case"), "another making": ("Description", "Scan"),
    "not synthetic": ("SyntheticData", False), "another patient": ("SyntheticPatientID", "SYN-000009"),
    "a label": ("Label", "HIV"), "more than was written": ("InstitutionName", "Somewhere"),
}  # fmt: skip


@pytest.mark.parametrize("way", SIDECAR)
def test_a_sidecar_that_says_something_else_is_found(way: str, broken: Path) -> None:
    key, value = SIDECAR[way]
    edit(sorted(broken.rglob("*_ct.json"))[1], lambda said: said.update({key: value}))
    assert f"sub-syn0002_desc-synthetic_ct.json: {key}" in found("NIfTI", broken)


def test_a_nifti_file_with_another_epsilon_and_in_another_place_is_found(broken: Path) -> None:
    path = sorted(broken.rglob("*_ct.nii.gz"))[0]
    image = nib.load(path)
    image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    image.header["descrip"] = b"synthetic; imgsynth 0.1.0; eps<=0.1 delta=1e-09 per patient"
    nib.save(image, path)
    assert "descrip: got b'synthetic; imgsynth 0.1.0; eps<=0.1" in found("NIfTI", broken)
    moved = path.with_name("sub-syn0001_desc-synthetic_T1w.nii.gz")
    path.rename(moved)
    path.with_name("sub-syn0001_desc-synthetic_ct.json").rename(moved.with_name("sub-syn0001_desc-synthetic_T1w.json"))
    name = moved.relative_to(broken).as_posix()
    edit(broken / "synthetic_cohort.json", lambda c: c["patients"][0].update(nifti=[name]))
    assert "a file in another place" in found("NIfTI", broken)


DICOM: dict[str, tuple[Callable[[pydicom.Dataset], Any], str]] = {
    "a name": (lambda d: setattr(d, "OtherPatientNames", "Doe^Jane"), "OtherPatientNames: got a person"),
    "a physician": (lambda d: setattr(d, "ReferringPhysicianName", "Doe^Jane"), "ReferringPhysicianName: got a name"),
    "a birth date": (lambda d: setattr(d, "PatientBirthDate", "19310913"), "PatientBirthDate: got a date"),
    "an address": (lambda d: setattr(d, "PatientAddress", "Street 1"), "PatientAddress: got an address"),
    "an institution": (lambda d: setattr(d, "InstitutionName", "Somewhere"), "InstitutionName: got an address"),
    "a date of the source": (lambda d: setattr(d, "AcquisitionDateTime", "20240101"), "Time: got a date"),
    "a time": (lambda d: setattr(d, "StudyTime", "101500"), "StudyTime: got a date or time"),
    "a visit": (lambda d: setattr(d, "AccessionNumber", "A4711"), "AccessionNumber: got a visit"),
    "a scanner": (lambda d: setattr(d, "DeviceSerialNumber", "4711"), "DeviceSerialNumber: got a scan or scanner"),
    "a station": (lambda d: setattr(d, "StationName", "CT1"), "StationName"),
    "a comment": (lambda d: setattr(d, "ImageComments", "see chart"), "ImageComments"),
    "an overlay": (lambda d: d.add_new(0x60003000, "OW", b"\0\0"), "an overlay"),
    "a UID of another": (lambda d: setattr(d, "SynchronizationFrameOfReferenceUID", "1.2.3.4"), "UID 1.2.3.4"),
    "a study of another": (lambda d: setattr(d, "StudyInstanceUID", "1.3.6.1.4.1.5962.1"), "UID 1.3.6.1.4.1.5962.1"),
    "a path": (lambda d: setattr(d, "DerivationDescription", "from /home/jane/scans/7"), "a path, '/home/jane"),
    "a path of Windows": (lambda d: setattr(d, "DerivationDescription", r"from C:\Users\jane"), "a path, 'C:"),
    "a share": (lambda d: setattr(d, "DerivationDescription", r"from \\pacs01\export"), "a path"),
    "an e-mail address": (lambda d: setattr(d, "SeriesDescription", "jane@hospital.org"), "an e-mail address"),
    "a host": (lambda d: setattr(d, "SeriesDescription", "made on gpu7.radiology.local"), "a host"),
    "an address of a machine": (lambda d: setattr(d, "SeriesDescription", "from 192.168.7.11"), "of a machine"),
}  # fmt: skip


@pytest.mark.parametrize("way", DICOM)
def test_each_forbidden_attribute_and_string_of_a_dicom_file_is_found(way: str, broken: Path) -> None:
    change, expected = DICOM[way]
    edit_dicom(broken, change)
    assert expected in found("forbidden", broken)


def test_a_forbidden_attribute_in_a_nested_item_is_found(broken: Path) -> None:
    item = pydicom.Dataset()
    item.ReferencedSOPInstanceUID, item.OperatorsName = "1.2.3.4.5", "Doe^Jane"
    edit_dicom(broken, lambda d: setattr(d, "ReferencedRawDataSequence", [item]))
    said = found("forbidden", broken)
    assert "UID 1.2.3.4.5" in said and "OperatorsName" in said


def test_forbidden_strings_in_a_nifti_header_a_sidecar_and_a_files_name_are_found(broken: Path) -> None:
    path = sorted(broken.rglob("*_ct.nii.gz"))[0]
    image = nib.load(path)
    image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    image.header["aux_file"] = b"/mnt/pacs/7.nii"
    nib.save(image, path)
    edit(sorted(broken.rglob("*_ct.json"))[1], lambda said: said.update(Source="file:///scans/7"))
    (broken / "jane@hospital.org").write_text("")
    said = found("forbidden", broken)
    for what in ("/mnt/pacs", "file:/", "(its name)"):
        assert what in said


def test_what_the_custodian_chose_to_say_is_not_forbidden(packaged: dict[str, Path], broken: Path) -> None:
    assert "data@example.org" in (broken / "README.md").read_text() and found_by(packaged["ct"]) == {}
    edit(broken / "provenance.json", lambda m: m["config"]["release"].update(contact="nobody"))
    edit_dicom(broken, lambda d: setattr(d, "SeriesDescription", "data@example.org"))
    assert "data@example.org" in found("forbidden", broken)


def test_a_signature_is_of_these_files_and_of_the_publishers_key(
    packaged: dict[str, Path], broken: Path, signing_key: Path, tmp_path: Path
) -> None:
    own = packaged["ct"] / PUBLIC_KEY
    assert found_by(packaged["ct"], own) == {}
    public = ["openssl", "pkeyutl", "-verify", "-pubin", "-rawin", "-inkey", str(own)]
    if shutil.which("openssl"):
        done = subprocess.run(
            [*public, "-in", "checksums.sha256", "-sigfile", SIGNATURE], cwd=packaged["ct"], capture_output=True
        )
        assert done.returncode == 0, done.stderr
    (broken / "README.md").write_text("Data of persons.")
    write_checksums(broken)
    assert "no signature of these checksums" in found_by(broken)["signature"]
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    forger = tmp_path / "forger.pem"
    forger.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_documents(broken)
    seal(broken, str(forger))
    assert found_by(broken) == {}  # whole, but whose?
    assert PUBLIC_KEY in found_by(broken, own)["signature"]
    seal(broken, None)
    assert not (broken / SIGNATURE).exists() and found_by(broken) == {}
    assert "no signature" in found_by(broken, own)["signature"]
    (broken / SIGNATURE).write_bytes(b"x" * 64)
    assert PUBLIC_KEY in found_by(broken)["signature"]


def test_signing_twice_gives_the_same_bytes_and_no_key_is_refused(broken: Path, signing_key: Path) -> None:
    before = {path: path.read_bytes() for path in broken.rglob("*") if path.is_file()}
    seal(broken, str(signing_key))
    assert before == {path: path.read_bytes() for path in broken.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"sample\.sign"):
        seal(broken, str(broken / "README.md"))
    with pytest.raises(InputError, match="--key"):
        examine(broken, broken / "README.md")


def said(store: Any, **values: Any) -> None:
    store.attrs.update(imgsynth={**store.attrs["imgsynth"], **values})


ZARR: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another affine": (lambda z: said(z, affine=np.eye(4).tolist()), "affine"),
    "not synthetic": (lambda z: said(z, synthetic=False), "attributes"),
    "another spacing": (lambda z: z.attrs.update(ome={"version": "0.5"}), "attributes: got ome"),
    "another label": (lambda z: z["class_index"].__setitem__(0, 3), "other labels"),
    "values": (lambda z: z["0"].__setitem__((1, 2, 2, 2), 3000), "SYN-000002 (Zarr): got values"),
    "a word on an array": (lambda z: z["0"].attrs.update(note="Doe"), "attributes of their own"),
}  # fmt: skip


@needs_zarr
@pytest.mark.parametrize("way", ZARR)
def test_each_change_to_the_zarr_store_is_found(way: str, broken: Path) -> None:
    import zarr

    change, expected = ZARR[way]
    change(zarr.open_group(str(broken / "zarr" / "cohort.zarr"), mode="r+"))
    assert expected in found("Zarr", broken)


@needs_zarr
def test_a_store_with_a_file_more_or_less_or_without_an_array_is_found(broken: Path) -> None:
    store = broken / "zarr" / "cohort.zarr"
    (store / "patients.json").write_text("[]")
    (store / "0" / "c" / "0" / "0" / "0" / "0").unlink()
    said = found("Zarr", broken)
    assert "patients.json: got a file" in said and "0/c/0/0/0/0: got no such file" in said
    shutil.rmtree(store / "0")
    assert "unreadable" in found("Zarr", broken)


def test_verify_runs_where_there_is_nothing_but_the_release(packaged: dict[str, Path], tmp_path: Path) -> None:
    """Empty home and working folder, no run, no ledger: exit code 0, and 1 for a release that was changed."""
    release = Path(shutil.copytree(packaged["ct"], tmp_path / "given" / "data set"))
    home = tmp_path / "home"
    home.mkdir()
    root = Path(__file__).parents[2]
    env = {key: value for key, value in os.environ.items() if not key.startswith("IMGSYNTH")}
    env |= {"HOME": str(home), "PYTHONPATH": str(root)}
    report = tmp_path / "checked.html"
    command = [sys.executable, "-m", "imgsynth.cli", "verify", str(release), "--report", str(report)]
    policy = home / "policy.yaml"
    policy.write_text("max_epsilon: 8.5\n")
    done = subprocess.run([*command, "--policy", str(policy)], cwd=home, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "forbidden" in done.stdout and "passed" in report.read_text()
    (release / "LICENSE.txt").write_text("Public domain.\n")
    policy.write_text("max_epsilon: 1\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.delenv("IMGSYNTH_LEDGER")
        done = imgsynth_forked("verify", str(release), "--report", str(report), "--policy", str(policy), cwd=home)
    assert done.returncode == 1 and "LICENSE.txt" in done.stderr and "policy: max_epsilon" in done.stderr
    assert "FAILED" in report.read_text() and "LICENSE.txt" in report.read_text()
    assert not (home / ".imgsynth").exists()


def test_a_report_says_what_was_checked_of_which_release(packaged: dict[str, Path], tmp_path: Path) -> None:
    checked = examine(packaged["mr"])
    said = read_json(write_verify_report(tmp_path / "a.json", checked))
    assert said["passed"] and said["facts"]["patients"] == 4 and len(said["release_sha256"]) == 64
    assert [check["name"] for check in said["checks"]] == [check.name for check in checked.checks]
    assert said == read_json(write_verify_report(tmp_path / "b.json", examine(packaged["mr"])))
    assert str(tmp_path) not in json.dumps(said) and str(packaged["mr"]) not in json.dumps(said)
    with pytest.raises(InputError, match=r"\.json or \.html"):
        write_verify_report(tmp_path / "a.txt", Examined(None))
