"""Thousands of sentinels in three sources: none in any byte that a run makes and that may leave or is searched."""

from __future__ import annotations

import base64
import gzip
import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from planted import WORD, Planted, found_in, write_dicom, write_nifti, write_npz

from imgsynth import config, pipeline
from imgsynth.cohort.manifest import Manifest
from imgsynth.training.whois import whois

SMALL = (
    "trainer.steps=2", "trainer.checkpoint_every=1", "trainer.sheet_every=1", "sample.n=3", "privacy.delta=1e-3",
    "privacy.batch_patients=4", "model=vae", "model.latent=2", "model.channels=2", "model.widest=4", "audit.n=8",
    "audit.bootstrap=100", "audit.extraction_samples=0", "audit.ocr_pictures=0", "audit.controls=false",
    "encoder=random_conv", "evaluate.n=8", "evaluate.bootstrap=10", "evaluate.classifier_seeds=1",
)  # fmt: skip
# What is about patients by design and stays (docs/privacy.md).
STAYS = ("config.json", "config.yaml", "report.html", "evaluation.json", "audit.json", "local/")
PATIENTS = 10


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, planted: Planted) -> dict[str, Path]:
    """A run of each kind of source through every verb."""
    base = tmp_path_factory.mktemp("sources")
    source = {kind: base / planted.text("folder") for kind in ("dicom", "nifti", "npz")}
    write_dicom(source["dicom"], planted, PATIENTS)
    mr = write_nifti(source["nifti"], planted, PATIENTS)
    images = source["npz"] / f"{planted.text('file')}.npz"
    dx = write_npz(images, planted, PATIENTS)
    asked = {
        "dicom": "preprocess.shape=[8,8,8] preprocess.spacing=[10,10,10]",
        "nifti": f"data.modality=MR data.table={mr} data.key=file data.patient=who data.site=hospital "
        "preprocess=mr preprocess.shape=[8,8,8] preprocess.spacing=[2,2,2]",
        "npz": f"data.root={images} data.modality=DX data.patient=ids data.table={dx} data.key=who data.site=hospital "
        "preprocess=radiograph preprocess.shape=[16,16]",
    }
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGSYNTH_LEDGER", str(base / "ledger"))
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        for kind, overrides in asked.items():
            made[kind] = base / f"run-{kind}"
            names = [f"data.cohort={planted.text('cohort')}", f"data.issuer={planted.text('issuer')}"]
            words = [f"data={kind}", f"data.root={source[kind]}", *names, *SMALL, *overrides.split()]
            pipeline.run(config.from_overrides("run", [*words, f"output={made[kind]}"]))
            assert len(whois(made[kind])) == PATIENTS
    return made


def test_thousands_are_planted_in_every_place(runs: dict[str, Path], planted: Planted) -> None:
    places = {"folder", "file", "id", "table", "column", "site", "SQ", "private", "private creator", "JSON",
              "JSON key", "NIfTI descrip", "NIfTI aux_file", "NIfTI extension", "npz", "npz name", "UN"}  # fmt: skip
    assert set(planted.count) > places and sum(planted.count.values()) > 5000


@pytest.mark.parametrize("kind", ["dicom", "nifti", "npz"])
def test_none_is_in_any_byte_that_a_run_makes(kind: str, runs: dict[str, Path], planted: Planted) -> None:
    run, searched, size = runs[kind], set(), 0
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = path.relative_to(run).as_posix()
        if name.startswith(STAYS):
            continue
        data = path.read_bytes()
        found = found_in(data, planted) | found_in(name.encode(), planted)
        if name == "manifest.json":  # a site is no id, and stays in the clear; it leaves no more than the manifest does
            sites = {str(item.site) for item in Manifest.load(path).items}
            text = data.decode()
            for site in sites:
                text = text.replace(site, "")
            found = found_in(text.encode(), planted)
        assert found == set(), name
        searched, size = searched | {name.split("/")[0]}, size + len(data)
    assert searched >= {"release", "checkpoints", "tensorboard", "metrics.jsonl", "plan.json", "samples",
                        "report_public.html", "manifest.json", "run_id.txt"}  # fmt: skip
    assert size > 100_000


def test_what_stays_does_hold_some(runs: dict[str, Path], planted: Planted) -> None:
    """Else the search could not see them anywhere."""
    for run in runs.values():
        assert found_in((run / "local" / "files.json").read_bytes(), planted)
        assert found_in((run / "config.json").read_bytes(), planted)


def _zip(data: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b", data)
    return packed.getvalue()


WAYS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": bytes, "small letters": bytes.lower, "utf-16": lambda b: b.decode().encode("utf-16-be"),
    "utf-32": lambda b: b.decode().encode("utf-32"), "gzip": gzip.compress, "zip": _zip,
    "zip in gzip": lambda b: gzip.compress(_zip(b)), "base64": base64.b64encode,
    "base64, shifted": lambda b: base64.b64encode(b"x" + b), "by two": lambda b: base64.b64encode(b"xy" + b),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_the_search_finds_one_however_it_is_written(way: str, planted: Planted) -> None:
    assert found_in(WAYS[way](f"some {WORD}00007.".encode()), planted)
    assert not found_in(WAYS[way](b"some ZQXJV 00007."), planted)


def test_the_search_finds_numbers_uids_and_binary_values(planted: Planted) -> None:
    values = {vr: planted.value(vr) for vr in ("DA", "TM", "DT", "DS", "IS", "UI")}
    for value in values.values():
        assert found_in(f'{{"x": "{value}"}}'.encode(), planted)
    doubles = np.array(planted.value("FD"))
    assert found_in(b"..." + doubles.tobytes(), planted) and found_in(f"[{doubles[0]!r}]".encode(), planted)
    assert not found_in(b"0.17011231 31700112 1.2.826.0.1.3680043.8.1", planted)


def test_one_in_a_header_of_a_release_is_found(runs: dict[str, Path], planted: Planted, tmp_path: Path) -> None:
    path = next((runs["dicom"] / "release").rglob("*.dcm"))
    assert not found_in(path.read_bytes(), planted)
    copy = Path(shutil.copy(path, tmp_path / "a.dcm"))
    d = pydicom.dcmread(copy)
    d.StudyDescription = f"{WORD}00009"
    d.save_as(copy)
    assert found_in(copy.read_bytes(), planted)
