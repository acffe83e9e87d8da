"""Tiny runs on sources whose every text is a sentinel: CT from DICOM, MR from NIfTI, radiographs from an npz."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from imgsynth.release.sample import sample_release
from imgsynth.schema import (
    Config,
    DataConfig,
    PreprocessConfig,
    PrivacyConfig,
    ReleaseConfig,
    SampleConfig,
    TrainerConfig,
)
from imgsynth.training.loop import train
from imgsynth.training.run import load_run, model_factory

SENTINEL = "ZQXJSENTINEL"  # in names, ids, dates' places, private tags, paths, tables: everywhere but in class names
PATIENTS = 15
VAE = {"_target_": "imgsynth.models.VAE", "latent": 2, "channels": 2, "widest": 4}


def write_ct(folder: Path) -> None:
    """CT series 8×8×8 with a sentinel wherever a header has text."""
    random = np.random.default_rng(0)
    for patient in range(PATIENTS):
        series = folder / f"{SENTINEL}_Doe_{patient}" / "CT"
        series.mkdir(parents=True)
        common = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(),
                  "FrameOfReferenceUID": generate_uid()}  # fmt: skip
        for k in range(8):
            dataset = pydicom.Dataset()
            dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
            for keyword, value in common.items():
                setattr(dataset, keyword, value)
            dataset.PatientID, dataset.PatientName = f"{SENTINEL}{patient:03d}", f"{SENTINEL}^Jane"
            dataset.InstitutionName = dataset.OperatorsName = dataset.StudyDescription = SENTINEL
            dataset.PatientComments = dataset.ImageComments = dataset.SeriesDescription = SENTINEL
            dataset.StudyDate, dataset.PatientBirthDate = "19870113", "19310913"
            dataset.PatientSex, dataset.PatientAge, dataset.Modality = "F", "055Y", "CT"
            block = dataset.private_block(0x0009, f"{SENTINEL} CREATOR", create=True)
            block.add_new(0x01, "LO", SENTINEL)
            block.add_new(0x02, "OB", b"\1\0" + f"{SENTINEL}-binary".encode() + b"\0")
            item = pydicom.Dataset()
            item.private_block(0x0011, f"{SENTINEL} CREATOR", create=True).add_new(0x01, "LT", f"{SENTINEL}-nested")
            item.ReferencedSOPInstanceUID = f"1.2.826.0.1.3680043.77.{patient}.{k}.555555"
            block.add_new(0x03, "SQ", [item])
            dataset.ImageType, dataset.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], k + 1
            dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 10 * k]
            dataset.PixelSpacing, dataset.SliceThickness = [10, 10], 10
            dataset.Rows = dataset.Columns = 8
            dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
            dataset.BitsAllocated = dataset.BitsStored = 16
            dataset.HighBit, dataset.PixelRepresentation = 15, 1
            dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1000
            dataset.PixelData = random.integers(0, 1600, (8, 8)).astype("<i2").tobytes()
            dataset.file_meta = pydicom.dataset.FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.save_as(series / f"{SENTINEL}_{k}.dcm", enforce_file_format=True)


def write_mr(folder: Path) -> None:
    """MR volumes 8×8×8 with a sentinel in name, header and participants.tsv."""
    random = np.random.default_rng(1)
    folder.mkdir(parents=True)
    for patient in range(PATIENTS):
        image = nib.Nifti1Image(random.uniform(0, 900, (8, 8, 8)).astype(np.float32), np.diag([2, 2, 2, 1]))
        image.header["descrip"] = SENTINEL.encode()
        image.header["db_name"] = SENTINEL.encode()
        image.header["aux_file"] = f"{SENTINEL}-aux".encode()
        image.header["intent_name"] = f"{SENTINEL}-int".encode()
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", SENTINEL.encode()))
        nib.save(image, folder / f"sub-{SENTINEL}{patient:03d}_T1w.nii.gz")
    rows = [f"sub-{SENTINEL}{patient:03d}\t{SENTINEL}-note-{patient}" for patient in range(PATIENTS)]
    (folder / "participants.tsv").write_text("\n".join([f"participant_id\t{SENTINEL}-column", *rows]) + "\n")


def write_radiographs(path: Path) -> None:
    path.parent.mkdir(parents=True)
    images = np.random.default_rng(2).integers(0, 256, (30, 16, 16)).astype(np.uint8)
    np.savez(path, images=images, labels=np.arange(30) % 2)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_run(data, preprocess, privacy={…}, sample={…})``: a run trained for three steps."""

    def make(data: DataConfig, preprocess: PreprocessConfig, **changes: dict) -> Path:
        folder = tmp_path_factory.mktemp("run")
        cfg = Config(
            output=str(folder / "run"),
            data=data,
            preprocess=preprocess,
            model=VAE,
            privacy=PrivacyConfig(delta=1e-3, batch_patients=4, ledger=str(folder / "ledger")),
            trainer=TrainerConfig(steps=3, checkpoint_every=2, sheet_every=3, device="cpu", threads=1),
            sample=SampleConfig(n=4),
        )
        parts = {name: dataclasses.replace(getattr(cfg, name), **values) for name, values in changes.items()}
        cfg = dataclasses.replace(cfg, **parts)
        return train(cfg, folder / "run", model_factory(cfg.model))

    return make


@pytest.fixture(scope="session")
def ct_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / f"{SENTINEL}_export"
    write_ct(folder)
    return folder


@pytest.fixture(scope="session")
def ct_run(make_run: Callable[..., Path], ct_source: Path) -> Path:
    """CT without labels, patients as units, with a cohort's name that is a sentinel too."""
    data = DataConfig(kind="dicom", root=str(ct_source), cohort=f"{SENTINEL}-cohort")
    return make_run(data, PreprocessConfig([8, 8, 8], [10.0] * 3, low=-1000, high=600))


@pytest.fixture(scope="session")
def mr_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mr") / f"{SENTINEL}_export"
    write_mr(folder)
    return folder


@pytest.fixture(scope="session")
def mr_run(make_run: Callable[..., Path], mr_source: Path) -> Path:
    data = DataConfig(kind="nifti", root=str(mr_source), modality="MR")
    preprocess = PreprocessConfig([8, 8, 8], [2.0] * 3, orientation="LAS", intensity="percentile", low=0, high=255)
    return make_run(data, preprocess)


@pytest.fixture(scope="session")
def dx_run(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Radiographs with two classes, labels from a noisy histogram, images as units."""
    path = tmp_path_factory.mktemp("dx") / SENTINEL / "images.npz"
    write_radiographs(path)
    data = DataConfig(kind="npz", root=str(path), modality="DX", classes=["normal", "pneumonia"], label="labels",
                      unit="image")  # fmt: skip
    preprocess = PreprocessConfig([16, 16], fit="resize", intensity="minmax", low=0, high=255)
    return make_run(data, preprocess, sample={"labels": "histogram"})


@pytest.fixture(scope="session")
def ct_release(ct_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that no test changes."""
    release = sample_release(ct_run, load_run(ct_run).config)
    return Path(shutil.copytree(release, tmp_path_factory.mktemp("released") / "release"))


@pytest.fixture
def tampered(ct_release: Path, tmp_path: Path) -> Path:
    """A copy of the release to tamper with."""
    return Path(shutil.copytree(ct_release, tmp_path / "release"))


ANSWERS = ReleaseConfig(
    title="Synthetic thorax CT",
    creators=["Doe, Jane", "Example Hospital"],
    license="CC-BY-4.0",
    contact="data@example.org",
    description="Thorax CT for testing segmentation software.",
    ethics="Approved by the ethics board of Example Hospital, 2026/17.",
    date="2026-11-22",
)


@pytest.fixture(scope="session")
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key as `openssl genpkey -algorithm ed25519` writes it."""
    path = tmp_path_factory.mktemp("key") / "signing_key.pem"
    seed = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    path.write_bytes(seed.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


class Packaged(dict[str, Path]):
    """Releases in every format by kind, each made when it is first asked for."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        super().__init__()
        self.request = request

    def __missing__(self, kind: str) -> Path:
        run_dir = self.request.getfixturevalue(f"{kind}_run")
        cfg = load_run(run_dir).config
        cfg.sample.formats = ["dicom", "nifti", *(["zarr"] if sys.version_info >= (3, 11) else [])]
        if kind == "ct":
            cfg.release, cfg.sample.sign = ANSWERS, str(self.request.getfixturevalue("signing_key"))
        to = self.request.getfixturevalue("tmp_path_factory").mktemp(kind) / "release"
        self[kind] = Path(shutil.copytree(sample_release(run_dir, cfg), to))
        return self[kind]


@pytest.fixture(scope="session")
def packaged(request: pytest.FixtureRequest) -> Packaged:
    """Releases that no test changes: CT with all answers and a signature, MR and DX without any."""
    return Packaged(request)


@pytest.fixture
def broken(packaged: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the CT release to break."""
    return Path(shutil.copytree(packaged["ct"], tmp_path / "release"))
