"""The same path on real public data, where a folder has them; each test says what would be wrong otherwise."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import zoom

from imgsynth.cohort.build import build_manifest, manifest_of, survey_source
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.grid import grid_of
from imgsynth.cohort.inspect import inspect_cohort
from imgsynth.cohort.preflight import preflight
from imgsynth.cohort.transforms import build_transforms
from imgsynth.schema import DataConfig, PreprocessConfig, SplitsConfig
from imgsynth.types import InputError
from imgsynth.volumes.dicom_index import read_dicom_folder
from imgsynth.volumes.dicom_read import read_dicom_series

pytestmark = pytest.mark.realdata
MR = PreprocessConfig(shape=[32, 32, 32], fit="resize", intensity="percentile", low=0.0, high=1000.0)


def unzipped(real_data: Path, name: str, folder: Path) -> Path:
    with zipfile.ZipFile(real_data / "dicom" / name) as archive:
        archive.extractall(folder)
    return folder


def likeness(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x.ravel(), y.ravel())[0, 1])


def test_msd_hippocampus(real_data: Path) -> None:
    data = DataConfig(kind="nifti", root=str(real_data / "msd_hippocampus"), modality="MR")
    survey = survey_source(data)
    manifest, found = manifest_of(survey), preflight(survey)
    assert (len(manifest.items), survey.found.skipped) == (180, [])
    assert found.codes("error") == set()
    assert all(item.mask and item.mask.startswith("labelsTr/") for item in manifest.items)
    shown = inspect_cohort(manifest, found.looks, MR)
    assert shown["dtypes"].keys() == {"uint8", "float32"}
    assert any("case ids" in note for note in manifest.notes)
    test = PatientDataset(manifest, "test", MR)
    x = test.batch(range(len(test))).x_PKC
    assert bool((x >= -1).all() and (x <= 1).all())
    assert 0.05 < float(x.std()) < 1


def test_brains_stored_las_come_out_ras(real_data: Path) -> None:
    root = real_data / "brain_t1w_2mm"
    data = DataConfig(kind="nifti", root=str(root), modality="MR", label="group", classes=["control", "depr"])
    manifest, faults = build_manifest(data)
    assert (len(manifest.patients()), faults) == (48, [])
    assert {item.orientation for item in manifest.items} == {"LAS"}
    assert all(item.sex and item.age_band and item.label for item in manifest.items)
    test = PatientDataset(manifest, "test", MR)
    for index, (patient, x, _) in zip(range(3), test.all_images(), strict=False):
        assert patient == test.patient(index)
        canonical = nib.as_closest_canonical(nib.load(root / manifest.by_patient[patient][0].files[0]))
        size = np.rint(np.array(canonical.shape) * 32 / max(canonical.shape)).astype(int)
        small = zoom(canonical.get_fdata(), size / np.array(canonical.shape), order=1)
        start = (32 - size) // 2
        own = x[0].numpy()[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]
        same = likeness(own, small)
        assert same > 0.9
        assert same > max(likeness(own, np.flip(small, axis)) for axis in range(3))


def test_nih_radiographs_of_patients_with_several(real_data: Path) -> None:
    data = DataConfig(kind="npz", root=str(real_data / "nih_cxr_256.npz"), modality="DX", images_per_patient=2,
                      classes=["No Finding", "Pneumonia"])  # fmt: skip
    manifest, _ = build_manifest(data)
    assert (len(manifest.items), len(manifest.patients())) == (686, 478)
    csv = str(real_data / "nih_cxr_256.csv")
    tabled, _ = build_manifest(DataConfig(kind="npz", root=data.root, modality="DX", table=csv, classes=data.classes))
    assert tabled.fingerprint == manifest.fingerprint
    assert {item.sex for item in tabled.items} == {"F", "M"}
    radiograph = PreprocessConfig(shape=[32, 32], fit="resize", low=0.0, high=255.0)
    x = PatientDataset(manifest, "test", radiograph, images_per_patient=2).batch(range(40)).x_PKC[:, 0, 0]
    mean = x.mean(dim=0)
    assert float(mean[-8:, 12:20].mean()) > float(mean[8:20, 6:12].mean())  # abdomen below is brighter than lung
    assert float(mean[16:24, 17:22].mean()) > float(mean[16:24, 10:15].mean())  # the heart is on the image's right


def test_pneumoniamnist(real_data: Path) -> None:
    data = DataConfig(kind="medmnist", root=str(real_data / "pneumoniamnist_28.npz"), modality="DX", unit="image",
                      classes=["normal", "pneumonia"], splits=SplitsConfig(holdout=0.4, test=0.02))  # fmt: skip
    manifest, _ = build_manifest(data)
    assert (len(manifest.items), manifest.unit) == (5856, "image")
    assert sum(manifest.class_counts()) == 5856
    test = PatientDataset(manifest, "test", PreprocessConfig(shape=[28, 28], fit="resize", low=0.0, high=255.0))
    item = manifest.by_patient[test.patient(0)][0]
    pixels = np.load(real_data / "pneumoniamnist_28.npz")[str(item.array)][item.row]
    np.testing.assert_allclose(test[0][0][0, 0].numpy(), pixels / 127.5 - 1, atol=1e-5)
    official, _ = build_manifest(dataclasses.replace(data, splits=SplitsConfig(official=True)))
    assert [len(official.patients(split)) for split in ("train", "holdout", "test")] == [4708, 524, 624]


@pytest.mark.parametrize(("plane", "orientation"), [("axial", "RAS"), ("coronal", "IL"), ("sagittal", "IP")])
def test_ct_slices_of_each_plane_stand_upright(real_data: Path, tmp_path: Path, plane: str, orientation: str) -> None:
    root = unzipped(real_data, "nysbu_ct_dev.zip", tmp_path)
    data = DataConfig(kind="dicom", root=str(root), pattern=f"(?P<patient>A[0-9]+)/{plane}/", images_per_patient=2)
    manifest, faults = build_manifest(data)
    assert (len(manifest.patients()), len(manifest.items)) == (6, 12)
    assert any("24 of 36 paths that do not match" in fault.got for fault in faults)
    grid = PreprocessConfig(shape=[64, 64], fit="resize", orientation=orientation, low=-1000.0, high=600.0)
    x = PatientDataset(manifest, "train", grid, images_per_patient=2).batch(range(4)).x_PKC[:, :, 0].mean(dim=(0, 1))
    if plane == "axial":  # the table and the spine are at the back: below
        assert float((x[40:] > 0.1).float().mean()) > float((x[:24] > 0.1).float().mean())
    if plane == "sagittal":  # the spine is at the back: on the right
        assert float(x[:, 40:].max()) > float(x[:, :24].max())
    wrong = PreprocessConfig(shape=[64, 64], fit="resize", orientation={"RAS": "IL"}.get(orientation, "PL"))
    with pytest.raises(InputError, match="one plane only"):
        PatientDataset(manifest, "train", wrong, images_per_patient=2)


@pytest.mark.slow
def test_a_whole_mr_series_of_one_person(real_data: Path, tmp_path: Path) -> None:
    root = unzipped(real_data, "studyforrest_t1_series.zip", tmp_path)
    data = DataConfig(kind="dicom", root=str(root))
    with pytest.raises(InputError, match="one patient"):
        build_manifest(data)
    (series,) = read_dicom_folder(root).series
    assert (series.meta["PatientID"], series.modality, sorted(series.shape)) == ("02", "MR", [274, 384, 384])
    x = build_transforms(MR, grid_of(MR, "MR"))(read_dicom_series(series))[0].numpy()
    assert x[:, :, 16:].mean() > x[:, :, :8].mean()  # head above, neck and air below
    assert likeness(x, x[::-1]) > 0.9  # left and right alike
    assert likeness(x, x[::-1]) > max(likeness(x, x[:, ::-1]), likeness(x, x[:, :, ::-1]))


def test_a_folder_of_odd_dicom_files_is_refused_with_every_fault(real_data: Path) -> None:
    with pytest.raises(InputError) as caught:
        build_manifest(DataConfig(kind="dicom", root=str(real_data / "dicom" / "pydicom_misc")))
    text = str(caught.value)
    assert "a mixture" in text and "no patient id" in text and "truncated" in text
    assert "rtdose.dcm" in text and "RT Dose" in text
