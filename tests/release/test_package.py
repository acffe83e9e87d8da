"""What lies beside the images: each document judged by whoever knows its format, and true for every kind of run."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from imgsynth.files import read_json
from imgsynth.release.documents import documents, write_documents
from imgsynth.release.facts import Facts, facts_of
from imgsynth.release.licences import licence_faults, license_document
from imgsynth.release.sbom import bill
from imgsynth.release.verify import examine
from imgsynth.schema import ReleaseConfig

KINDS = ["ct", "mr", "dx"]
SAID = ("datasheet.md", "model_card.md", "README.md")


@pytest.mark.parametrize("kind", KINDS)
def test_every_release_passes_every_check(kind: str, packaged: dict[str, Path]) -> None:
    found = examine(packaged[kind])
    assert found.faults == []
    assert {check.name for check in found.checks} >= {"checksums", "provenance", "documents", "forbidden", "Zarr"}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="mlcroissant needs Python 3.11")
@pytest.mark.parametrize("kind", KINDS)
def test_mlcroissant_finds_no_error_and_reads_every_record(kind: str, packaged: dict[str, Path]) -> None:
    import mlcroissant

    dataset = mlcroissant.Dataset(jsonld=packaged[kind] / "croissant.json")
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    assert all("recommended" in warning for warning in issues.warnings) and (kind != "ct" or not issues.warnings)
    rows = [{key.split("/")[1]: value and value.decode() for key, value in row.items()}
            for row in dataset.records("patients")]  # fmt: skip
    patients = read_json(packaged[kind] / "synthetic_cohort.json")["patients"]
    assert [row["id"] for row in rows] == [patient["id"] for patient in patients]
    if kind == "dx":
        assert [row["label"] for row in rows] == [patient["label"] for patient in patients]
    slices = {row["dicom_files/path"].decode(): row["dicom_files/pixels"] for row in dataset.records("dicom_files")}
    assert len(slices) == sum(len(patient["dicom"]) for patient in patients)
    name = patients[1]["dicom"][0]
    np.testing.assert_array_equal(slices[name], pydicom.dcmread(packaged[kind] / name).pixel_array)
    described = read_json(packaged[kind] / "croissant.json")
    assert described["rai:personalSensitiveInformation"][1].startswith("Adding or removing")
    assert ("UNIT IS THE IMAGE" in json.dumps(described)) == (kind == "dx")


def test_mlcroissant_notices_another_table(packaged: dict[str, Path], broken: Path) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("mlcroissant needs Python 3.11")
    import mlcroissant

    (broken / "synthetic_cohort.csv").write_text("id,label,files\nSYN-000009,,\n")
    with pytest.raises(mlcroissant.GenerationError, match=r"Download\(cohort\)"):  # its hash is another
        list(mlcroissant.Dataset(jsonld=broken / "croissant.json").records("patients"))


@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_the_bids_validator_returns_0(kind: str, packaged: dict[str, Path], tmp_path: Path) -> None:
    validator = shutil.which("bids-validator-deno")
    if validator is None:
        pytest.skip("bids-validator-deno is not installed (pip install bids-validator-deno)")
    folder = Path(shutil.copytree(packaged[kind] / "nifti", tmp_path / "nifti"))
    done = subprocess.run([validator, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "participants.tsv").write_text("label\nn/a\n")
    assert subprocess.run([validator, str(folder)], capture_output=True, text=True).returncode != 0


def test_the_bill_of_materials_is_strict_cyclonedx_and_says_nothing_of_the_machine(packaged: dict[str, Path]) -> None:
    text = (packaged["ct"] / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found = json.loads(text)
    parts = {part["name"]: part for part in found["components"]}
    assert {"torch", "numpy", "pydicom", "opacus"} <= parts.keys()
    assert parts["numpy"]["version"] == __import__("numpy").__version__
    refs = {part["bom-ref"] for part in found["components"]} | {found["metadata"]["component"]["bom-ref"]}
    assert all({edge["ref"], *edge["dependsOn"]} <= refs for edge in found["dependencies"])
    assert bill() == found  # nothing of the hour in it
    for word in (socket.gethostname(), str(Path.home()), "timestamp", "serialNumber"):
        assert word not in text
    if len(getpass.getuser()) > 5:
        assert getpass.getuser() not in text


def test_citation_and_licence_are_what_was_answered(packaged: dict[str, Path]) -> None:
    cited = yaml.safe_load((packaged["ct"] / "CITATION.cff").read_text())
    assert cited["authors"] == [{"family-names": "Doe", "given-names": "Jane"}, {"name": "Example Hospital"}]
    assert cited["license"] == "CC-BY-4.0" and cited["date-released"] == "2026-11-22" and cited["type"] == "dataset"
    assert "creativecommons.org/licenses/by/4.0" in (packaged["ct"] / "LICENSE.txt").read_text()
    assert not (packaged["mr"] / "CITATION.cff").exists()  # nobody to cite was named
    assert "grants no rights" in (packaged["mr"] / "LICENSE.txt").read_text()


def test_terms_of_ones_own_come_with_their_text(tmp_path: Path) -> None:
    terms = tmp_path / "terms.txt"
    terms.write_text("Ask first.\n")
    own = ReleaseConfig(license="LicenseRef-DUA-7", license_text=str(terms))
    assert licence_faults(own) == []
    assert license_document(own, "Ask first.\n") == "SPDX-License-Identifier: LicenseRef-DUA-7\n\nAsk first.\n"
    wrong = {
        "CC-BY": ReleaseConfig(license="CC-BY"),
        "the file with the terms": ReleaseConfig(license="LicenseRef-DUA-7"),
        "nothing.txt": ReleaseConfig(license="CC0-1.0", license_text="nothing.txt"),
        "the licence that": ReleaseConfig(license_text=str(terms)),
    }
    for said, release in wrong.items():
        (fault,) = licence_faults(release)
        assert said in str(fault)
    assert "release.license=CC-BY-4.0" in str(*licence_faults(ReleaseConfig(license="CC-BY4.0")))


@pytest.mark.parametrize("name", SAID)
def test_unanswered_questions_are_called_open_and_answers_are_given(name: str, packaged: dict[str, Path]) -> None:
    opened = (packaged["mr"] / name).read_text()
    assert "Not answered by whoever made this release (release.contact)" in opened
    answered = (packaged["ct"] / name).read_text()
    assert "Not answered" not in answered and "data@example.org" in answered and "CC-BY-4.0" in answered


SECTIONS = {
    "datasheet.md": ("Motivation", "Composition", "Collection", "Preprocessing, cleaning, labelling", "Uses",
                     "Distribution", "Maintenance"),
    "model_card.md": ("Model details", "Intended use", "Factors", "Metrics and quantitative analyses", "Training data",
                      "Evaluation data", "Ethical considerations", "Caveats and recommendations"),
}  # fmt: skip


@pytest.mark.parametrize("name", SECTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_datasheet_and_model_card_have_their_sections(name: str, kind: str, packaged: dict[str, Path]) -> None:
    text = (packaged[kind] / name).read_text()
    assert re.findall("^## (.*)$", text, re.M) == list(SECTIONS[name])
    assert ("normal, pneumonia" in text) == (kind == "dx") and ("There are no labels" in text) == (kind != "dx")
    assert ("UNIT IS THE IMAGE" in text) == (kind == "dx") and "None" not in text.replace("None. Synthetic", "")
    assert "n = 21 images" in text if kind == "dx" else "patients is the declared size" in text


def said_of(folder: Path, **changes: dict) -> str:
    """All documents of a release whose card, provenance or cohort were others."""
    facts = facts_of(folder)
    merged = {name: {**getattr(facts, name), **value} for name, value in changes.items()}
    return "\n".join(documents(Facts(**{**vars(facts), **merged})).values())


def test_documents_of_a_run_without_a_proof_claim_none(packaged: dict[str, Path]) -> None:
    card = facts_of(packaged["mr"]).card
    why = "training was not differentially private (privacy.mode=none): ε = ∞, images may copy patients"
    none = {
        "plan": card["plan"] | {"mode": "none", "noise_multiplier": 0.0, "epsilon": None, "histogram_epsilon": 0.0},
        "guarantee": card["guarantee"] | {"epsilon": None}, "releasable": False, "not_releasable_because": [why],
        "statement": "No privacy guarantee: training was not differentially private.",
    }  # fmt: skip
    text = said_of(packaged["mr"], card=none)
    assert text.count("NOT RELEASABLE") >= 4 and "may be a copy of a patient's" in text and why in text
    assert "ε that is proven" not in text and "probability of any outcome" not in text
    with_proof = said_of(packaged["mr"])
    assert "NOT RELEASABLE" not in with_proof and "may be a copy" not in with_proof


def test_phantoms_are_nobodys_and_cases_are_no_patients(packaged: dict[str, Path]) -> None:
    made, card = facts_of(packaged["mr"]).made, facts_of(packaged["mr"]).card
    settings = made["config"] | {"data": made["config"]["data"] | {"kind": "phantom"}}
    text = said_of(packaged["mr"], made={"config": settings})
    assert "no person is behind any of them" in text and "Nobody: phantoms." in text
    assert "release.ethics" not in text.split("rai:")[0].replace("`release.*`", "")
    cases = {"counted_unit": "case", "unit_warning": "CASES, NOT PATIENTS: …", "plan": card["plan"] | {"ids": "case"}}
    text = said_of(packaged["mr"], card=cases)
    assert "CASES, NOT PATIENTS" in text and "cases is the declared size" in text and "one real patient" not in text


def test_documents_are_functions_of_the_release_alone(broken: Path) -> None:
    before = {path.name: path.read_bytes() for path in broken.iterdir() if path.is_file()}
    for name in SAID:
        (broken / name).unlink()
    write_documents(broken)
    assert before == {path.name: path.read_bytes() for path in broken.iterdir() if path.is_file()}
