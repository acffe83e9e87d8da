"""Releases of a CT phantom cohort and of MR cohorts, in every form of DICOM, before other people's programs:
dicom3tools, the BIDS validator, mlcroissant, SimpleITK, and an Orthanc that gives every file back to the bit."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pydicom
import pytest
import SimpleITK

from imgsynth.release.sample import sample_release
from imgsynth.release.verify import verify_release
from imgsynth.schema import DataConfig, PhantomConfig, PreprocessConfig
from imgsynth.training.run import load_run
from imgsynth.volumes.dicom_syntax import SYNTAXES

if TYPE_CHECKING:
    from orthanc import Orthanc

FORMS = [
    ("single_frame", "explicit_little_endian"),
    ("single_frame", "jpeg2000_lossless"),
    ("enhanced", "rle_lossless"),
]
UNKNOWN = re.compile(
    r"Error - Attribute with an even group number is not a recognized standard attribute - \(0x0008,0x001c\).*"
)


@pytest.fixture(scope="session")
def phantom_ct_run(make_run: Callable[..., Path]) -> Path:
    data = DataConfig(kind="phantom", phantom=PhantomConfig(patients=15, size=16))
    return make_run(data, PreprocessConfig([32, 32, 8], [12.0, 12.0, 48.0], low=-1000, high=600))


@pytest.fixture(scope="session")
def mr_cohort_run(make_run: Callable[..., Path], request: pytest.FixtureRequest) -> Path:
    """The hippocampi of the Medical Segmentation Decathlon; where the data folder is not there, volumes of noise."""
    try:
        data = DataConfig(
            kind="nifti", root=str(request.getfixturevalue("real_data") / "msd_hippocampus"), modality="MR"
        )
        preprocess = PreprocessConfig([32, 40, 8], [1.0, 1.2, 5.0], intensity="percentile", low=0, high=1)
    except pytest.skip.Exception:
        data = DataConfig(kind="nifti", root=str(request.getfixturevalue("mr_source")), modality="MR")
        preprocess = PreprocessConfig([32, 40, 8], [0.5, 0.4, 2.0], orientation="LAS", intensity="percentile", low=0,
                                      high=255)  # fmt: skip
    return make_run(data, preprocess)


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], dict[tuple[str, str], Path]]:
    """The releases of a run, by their form; made once."""
    made: dict[Path, dict[tuple[str, str], Path]] = {}

    def of(run_dir: Path) -> dict[tuple[str, str], Path]:
        if run_dir not in made:
            made[run_dir] = {}
            for form in FORMS:
                cfg = load_run(run_dir).config
                cfg.sample.n, cfg.sample.dicom, cfg.sample.transfer_syntax = 2, *form
                cfg.sample.burned_in = "NO" if form[0] == "enhanced" else None
                to = tmp_path_factory.mktemp("release") / "release"
                made[run_dir][form] = Path(shutil.move(sample_release(run_dir, cfg), to))
        return made[run_dir]

    return of


Releases = Callable[[Path], dict[tuple[str, str], Path]]
each_cohort = pytest.mark.parametrize("cohort", ["phantom_ct_run", "mr_cohort_run"])


@each_cohort
def test_every_form_of_a_release_verifies(cohort: str, request: pytest.FixtureRequest, releases: Releases) -> None:
    run_dir = request.getfixturevalue(cohort)
    slices = load_run(run_dir).grid.shape[2]
    for (kind, syntax), folder in releases(run_dir).items():
        assert verify_release(folder)["dicom"] == 2 * (1 if kind == "enhanced" else slices)
        assert {pydicom.dcmread(path).file_meta.TransferSyntaxUID for path in folder.rglob("*.dcm")} == {
            SYNTAXES[syntax]
        }


@each_cohort
def test_dicom3tools_knows_one_line_against_it(cohort: str, request: pytest.FixtureRequest, releases: Releases) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian package dicom3tools)")
    for form, folder in releases(request.getfixturevalue(cohort)).items():
        files = sorted(folder.rglob("*.dcm"))
        for path in files:
            found = errors("dciodvfy", path)
            assert len(found) == 1 and UNKNOWN.fullmatch(found[0]), (form, found)
        assert errors("dcentvfy", *files) == []


def errors(program: str, *files: Path) -> list[str]:
    done = subprocess.run([program, *map(str, files)], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


@each_cohort
def test_the_bids_validator_returns_0(cohort: str, request: pytest.FixtureRequest, releases: Releases) -> None:
    validator = shutil.which("bids-validator-deno")
    if validator is None:
        pytest.skip("bids-validator-deno is not installed (pip install bids-validator-deno)")
    folder = releases(request.getfixturevalue(cohort))[FORMS[0]]
    done = subprocess.run([validator, str(folder / "nifti")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@each_cohort
@pytest.mark.skipif(sys.version_info < (3, 11), reason="mlcroissant needs Python 3.11")
def test_mlcroissant_finds_no_error(cohort: str, request: pytest.FixtureRequest, releases: Releases) -> None:
    import mlcroissant

    folder = releases(request.getfixturevalue(cohort))[FORMS[0]]
    dataset = mlcroissant.Dataset(jsonld=folder / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    assert len(list(dataset.records("patients"))) == 2
    assert len(list(dataset.records("dicom_files"))) == len(list(folder.rglob("*.dcm")))


@each_cohort
def test_simpleitk_sees_in_the_dicom_what_is_in_the_nifti(
    cohort: str, request: pytest.FixtureRequest, releases: Releases
) -> None:
    grid = load_run(request.getfixturevalue(cohort)).grid
    step = 0.0 if grid.unit == "HU" else (grid.high - grid.low) / 65535
    for folder in releases(request.getfixturevalue(cohort)).values():
        niftis = sorted((folder / "nifti").rglob("*.nii.gz"))
        for series, nifti in zip(sorted((folder / "dicom").iterdir()), niftis, strict=True):
            files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(series / grid.modality))
            dicom = SimpleITK.ReadImage(files if len(files) > 1 else files[0])
            expected = SimpleITK.ReadImage(str(nifti))
            got, wanted = (SimpleITK.GetArrayFromImage(image).astype(float) for image in (dicom, expected))
            assert got.shape == wanted.shape == grid.shape[::-1]
            assert np.abs(got - wanted).max() <= step * 0.51 + np.abs(wanted).max() * 2**-22
            assert np.allclose(dicom.GetSpacing(), expected.GetSpacing(), rtol=1e-5)
            assert np.allclose(dicom.GetDirection(), expected.GetDirection(), atol=1e-5)
            assert np.allclose(dicom.GetOrigin(), expected.GetOrigin(), atol=1e-3)


@each_cohort
def test_orthanc_takes_every_file_and_gives_it_back_to_the_bit(
    cohort: str, request: pytest.FixtureRequest, releases: Releases, orthanc: Orthanc
) -> None:
    for number, folder in enumerate(releases(request.getfixturevalue(cohort)).values()):
        files = [path.read_bytes() for path in sorted(folder.rglob("*.dcm"))]
        studies = {pydicom.dcmread(path).StudyInstanceUID for path in folder.rglob("*.dcm")}
        orthanc.clear()
        if number % 2:
            orthanc.stow(files)
        else:
            orthanc.upload_folder(folder / "dicom")
        counts = orthanc.request("GET", "/statistics").json()
        assert (counts["CountPatients"], counts["CountStudies"], counts["CountSeries"]) == (2, 2, 2)
        stored = [orthanc.request("GET", f"/instances/{one}/file").content for one in orthanc.instances()]
        assert sorted(stored) == sorted(files)
        assert sorted(part for study in studies for part in orthanc.wado(study)) == sorted(files)
