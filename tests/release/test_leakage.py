"""The audit's search for the source's strings, over whole runs: clean as they are, and caught when one is planted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from imgsynth.audit.leakage.scan import scan_run, source_strings
from imgsynth.audit.leakage.sought import Sought
from imgsynth.audit.leakage.sources import collect
from imgsynth.files import read_json
from imgsynth.release.sample import sample_release
from imgsynth.training.run import load_run

SENTINEL = "ZQXJSENTINEL"
WHERE = {
    "ct": {f"{SENTINEL}000", f"{SENTINEL}^Jane", SENTINEL, f"{SENTINEL} CREATOR", f"{SENTINEL}-binary", "19310913",
           f"{SENTINEL}-nested", f"{SENTINEL}_Doe_0", f"{SENTINEL}_0.dcm", f"{SENTINEL}_export", f"{SENTINEL}-cohort",
           "1.2.826.0.1.3680043.77.3.2.555555"},
    "mr": {SENTINEL, f"{SENTINEL}-aux", f"{SENTINEL}-int", f"sub-{SENTINEL}003_T1w", f"{SENTINEL}-note-7",
           f"{SENTINEL}-column", f"{SENTINEL}_export"},
    "dx": {SENTINEL},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["ct", "mr", "dx"])
def test_nothing_of_the_source_is_in_what_a_run_makes(kind: str, request: pytest.FixtureRequest) -> None:
    run = load_run(request.getfixturevalue(f"{kind}_run"))
    sample_release(run.root, run.config)
    sought = Sought()
    assert collect(sought, run.manifest, run.config.data) == []
    assert set(sought.origin) >= WHERE[kind], "every planted string is looked for"
    found = scan_run(run.root, *source_strings(run.manifest, run.config))
    assert found["findings"] == [] and found["clean"] and found["not_read"] == []
    assert found["strings"]["sought"] > len(WHERE[kind])
    assert found["files"] > 10
    assert {"manifest.json", "config.json"} <= set(found["local_files"])
    assert found["strings"]["left_out"]["too short"] > 0


def planted(run_dir: Path, where: str, text: str) -> str:
    """Plant ``text`` in a run's folder; the file that has it."""
    release = run_dir / "release"
    if where == "checkpoint":
        with (run_dir / "checkpoints" / "last.pt").open("ab") as file:
            file.write(text.encode())
        return "checkpoints/last.pt"
    if where == "log":
        with (run_dir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"note": text}) + "\n")
        return "metrics.jsonl"
    if where == "report":
        (run_dir / "report_public.html").write_text(f"<p>{text}</p>", encoding="utf-16")
        return "report_public.html"
    if where == "nifti":
        path = next(release.rglob("*.nii.gz"))
        image = nib.load(path)
        image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
        image.header["descrip"] = text[:80].encode()
        nib.save(image, path)
    elif where == "private tag":
        path = next(release.rglob("*.dcm"))
        dataset = pydicom.dcmread(path)
        dataset.private_block(0x0009, "SOMEBODY", create=True).add_new(0x01, "UN", text.encode())
        dataset.save_as(path)
    elif where == "padding":
        path = next(release.rglob("*.dcm"))
        content = bytearray(path.read_bytes())
        content[: len(text)] = text.encode()  # the preamble, which no reader shows
        path.write_bytes(content)
    elif where == "file name":
        path = release / "nifti" / f"{text}.json"
        path.write_text("{}")
    else:
        path = release / "README.md"
        path.write_text(path.read_text() + text.lower())
    return path.relative_to(run_dir).as_posix()


@pytest.fixture(scope="module")
def whole_run(ct_run: Path) -> Path:
    sample_release(ct_run, load_run(ct_run).config)
    return ct_run


@pytest.mark.parametrize(
    "where", ["checkpoint", "log", "report", "nifti", "private tag", "padding", "file name", "readme"]
)
def test_a_planted_string_is_found_and_not_repeated(where: str, whole_run: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(whole_run, tmp_path / "run"))
    secret = f"{SENTINEL}004"
    name = planted(run_dir, where, secret)
    run = load_run(run_dir)
    found = scan_run(run_dir, *source_strings(run.manifest, run.config))
    assert not found["clean"] and found["n_findings"] >= 1
    assert "DICOM (0010,0020) PatientID, an id" in {finding["of"] for finding in found["findings"]}
    assert SENTINEL.lower() not in json.dumps(found).lower()
    local = read_json(run_dir / "local" / "leakage.json")["findings"]
    assert {entry["file"] for entry in local} == {name}
    mine = next(entry for entry in local if entry["text"] == secret)
    assert mine["token"] in {finding["string"] for finding in found["findings"]}


def test_a_source_that_is_gone_is_said(ct_run: Path, ct_source: Path, tmp_path: Path) -> None:
    run = load_run(ct_run)
    aside = Path(shutil.move(ct_source, tmp_path / "aside"))
    try:
        found = scan_run(run.root, *source_strings(run.manifest, run.config))
    finally:
        shutil.move(aside, ct_source)
    assert found["not_read"] == [f"{15 * 8} of {15 * 8} source files could not be read"]
    assert found["strings"]["sought"] > 100  # the manifest's
