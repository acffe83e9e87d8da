"""Clinical DICOM files, written with pydicom alone, so that imgsynth's readers are not tested against its writers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmwrite, uid
from pydicom.dataset import FileMetaDataset

MakeSlice = Callable[..., Dataset]
MakeSeries = Callable[..., list[Path]]

AXIAL = (1, 0, 0, 0, 1, 0)


def _slice(k: int, stored: np.ndarray | None = None, **changes: Any) -> Dataset:
    """Slice ``k`` of an axial CT at 2.5 mm; keyword None deletes the element."""
    dataset = Dataset()
    dataset.SOPClassUID = uid.CTImageStorage
    dataset.SOPInstanceUID = uid.generate_uid(entropy_srcs=["instance", str(k), str(changes.get("SeriesInstanceUID"))])
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Modality = "CT"
    dataset.PatientID = "patient-1"
    dataset.PatientName = "Sentinel^Name"
    dataset.PatientSex = "F"
    dataset.PatientAge = "061Y"
    dataset.StudyDescription = "thorax"
    dataset.StudyInstanceUID = "1.2.3.1"
    dataset.SeriesInstanceUID = "1.2.3.2"
    dataset.InstanceNumber = k + 1
    dataset.ImagePositionPatient = [-10.0, -20.0, 100 + 2.5 * k]
    dataset.ImageOrientationPatient = list(AXIAL)
    dataset.PixelSpacing = [0.75, 0.5]
    dataset.SliceThickness = 5.0
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    stored = np.arange(30, dtype=np.uint16).reshape(5, 6) + 100 * k if stored is None else stored
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.BitsAllocated = dataset.BitsStored = stored.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def save_dataset(dataset: Dataset, path: Path, syntax: uid.UID = uid.ExplicitVRLittleEndian) -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    path.parent.mkdir(parents=True, exist_ok=True)
    little = syntax != uid.ExplicitVRBigEndian
    dcmwrite(path, dataset, enforce_file_format=True, little_endian=little, implicit_vr=syntax.is_implicit_VR)
    return path


@pytest.fixture
def make_slice() -> MakeSlice:
    return _slice


@pytest.fixture
def save() -> Callable[..., Path]:
    return save_dataset


@pytest.fixture
def make_series(tmp_path: Path) -> MakeSeries:
    """Write slices ``ks``; file names run against the order of space, and Instance Numbers are scrambled."""

    def make(ks: Any = range(6), folder: str = "scan", prefix: str = "im", **changes: Any) -> list[Path]:
        ks = list(ks)
        numbers = {k: (7 * n) % 31 for n, k in enumerate(ks)}
        return [
            save_dataset(
                _slice(k, InstanceNumber=numbers[k], **changes), tmp_path / folder / f"{prefix}{99 - n:02d}-{k}.dcm"
            )
            for n, k in enumerate(ks)
        ]

    return make
