"""Synthetic DICOM: what is in the header and what is not, checked element by element and by dicom3tools."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from imgsynth.types import InputError
from imgsynth.volumes.dicom_frames import IMPLEMENTATION_UID
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.dicom_write import write_dicom_series
from imgsynth.volumes.geometry import projection_affine
from imgsynth.volumes.provenance import Provenance, SyntheticIdentity
from imgsynth.volumes.uids import RandomUids
from imgsynth.volumes.volume import Volume

MADE = Provenance("conditional VAE trained by DP-SGD", "VAE", "0.1.0", 7.9512, 1e-5, "patient", burned_in="NO")
WHO = SyntheticIdentity("SYN-000001")
TILTED = np.array([[0.96, -0.168, 0.224, -3.0], [0.28, 0.576, -0.768, 4], [0, 0.8, 0.6, 5], [0, 0, 0, 1]])


def volume_of(modality: str, seed: int = 0) -> Volume:
    shape = (9, 7, 1) if modality in ("DX", "CR") else (9, 7, 4)
    affine = projection_affine((0.5, 0.25)) if modality in ("DX", "CR") else TILTED @ np.diag([0.5, 0.25, 2.5, 1])
    array = np.random.default_rng(seed).integers(-1024 if modality == "CT" else 0, 1000, shape).astype(np.float32)
    if modality == "MR":
        array = array / 7
    return Volume(array, affine, modality, "HU" if modality == "CT" else "a.u.")


def written(tmp_path, modality="CT", **changes):
    return [
        dcmread(path) for path in write_dicom_series(volume_of(modality), tmp_path / modality, WHO, MADE, **changes)
    ]


each_modality = pytest.mark.parametrize("modality", ["CT", "MR", "DX", "CR"])


def errors(command: list[str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


UNKNOWN_TO_DCIODVFY = (
    "Error - Attribute with an even group number is not a recognized standard attribute - (0x0008,0x001c)"
)


@each_modality
@pytest.mark.parametrize("recognizable", [None, "NO"])
def test_dciodvfy_finds_nothing_but_the_tag_that_is_younger_than_itself(tmp_path, modality, recognizable):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian dicom3tools) is not installed")
    made = Provenance("GAN", "GAN", "0.1.0", 8.0, 1e-5, "patient", "NO", recognizable)
    for path in write_dicom_series(volume_of(modality), tmp_path / "s", WHO, made, window=(-100.0, 300.0)):
        found = errors(["dciodvfy", str(path)])
        assert len(found) == 1 and found[0].startswith(UNKNOWN_TO_DCIODVFY), found


@each_modality
def test_dcentvfy_finds_the_series_consistent(tmp_path, modality):
    if shutil.which("dcentvfy") is None:
        pytest.skip("dcentvfy (Debian dicom3tools) is not installed")
    files = write_dicom_series(volume_of(modality), tmp_path / "s", WHO, MADE)
    assert errors(["dcentvfy", *map(str, files)]) == []


def test_dciodvfy_would_notice(tmp_path):
    """The check can fail: without its rescale slope a CT draws another error."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian dicom3tools) is not installed")
    (dataset, *_) = written(tmp_path)
    del dataset.RescaleSlope
    dataset.save_as(tmp_path / "broken.dcm")
    assert len(errors(["dciodvfy", str(tmp_path / "broken.dcm")])) > 1


@each_modality
def test_every_file_says_that_it_is_synthetic_and_how_it_was_made(tmp_path, modality):
    for dataset in written(tmp_path, modality):
        assert dataset.SyntheticData == "YES"
        assert list(dataset.ImageType[:2]) == ["DERIVED", "SECONDARY"]
        assert dataset.PatientID == "SYN-000001" and str(dataset.PatientName).startswith("SYN-")
        assert dataset.PatientIdentityRemoved == "YES" and dataset.DeidentificationMethod
        assert "DeidentificationMethodCodeSequence" not in dataset
        assert dataset.BurnedInAnnotation == "NO" and "RecognizableVisualFeatures" not in dataset
        text = dataset.DerivationDescription
        assert all(part in text for part in ("conditional VAE", "epsilon = 7.9512", "delta = 1e-05", "unit = patient"))
        (equipment,) = dataset.ContributingEquipmentSequence
        (purpose,) = equipment.PurposeOfReferenceCodeSequence
        assert (purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning) == (
            "109100", "DCM", "Synthesizing Equipment")  # fmt: skip


@each_modality
def test_nothing_is_invented_and_nothing_is_private(tmp_path, modality):
    invented = ("KVP", "Exposure", "XRayTubeCurrent", "ExposureTime", "CTDIvol", "StudyDate", "StudyTime",
                "PatientBirthDate", "PatientSex", "RepetitionTime", "EchoTime", "DetectorType")  # fmt: skip
    for dataset in written(tmp_path, modality):
        assert not [keyword for keyword in invented if dataset.get(keyword) not in (None, "")]
        assert not [element for element in dataset.iterall() if element.tag.is_private]


def test_no_guarantee_is_said_to_be_none(tmp_path):
    made = Provenance(
        "GAN without DP", "GAN", "0.1.0", float("inf"), 0.0, "patient", burned_in="YES", recognizable="YES"
    )
    (path, *_) = write_dicom_series(volume_of("CT"), tmp_path / "s", WHO, made)
    dataset = dcmread(path)
    assert "No differential privacy guarantee" in dataset.DerivationDescription
    assert (dataset.BurnedInAnnotation, dataset.RecognizableVisualFeatures) == ("YES", "YES")


@each_modality
def test_what_nobody_judged_is_left_out_or_yes_where_it_must_be_there(tmp_path, modality):
    made = Provenance("GAN", "GAN", "0.1.0", 8.0, 1e-5, "case", burned_in=None)
    for path in write_dicom_series(volume_of(modality), tmp_path / "s", WHO, made):
        dataset = dcmread(path)
        assert dataset.get("BurnedInAnnotation") == ("YES" if modality == "DX" else None)
        assert "unit = case (the source has case ids, not patient ids)" in dataset.DerivationDescription
        if shutil.which("dciodvfy") is not None:
            assert len(errors(["dciodvfy", str(path)])) == 1


def test_a_seeded_run_states_no_epsilon():
    made = Provenance("GAN", "GAN", "0.1.0", float("inf"), 1e-5, "patient", burned_in="YES", seeded=True)
    assert "Not differentially private for whoever knows the seed; not releasable" in made.derivation
    assert "epsilon" not in made.derivation
    with pytest.raises(ValueError, match="seed"):
        Provenance("GAN", "GAN", "0.1.0", 8.0, 1e-5, "patient", burned_in="YES", seeded=True)


def test_uids_are_fresh_and_shared_where_they_must_be(tmp_path):
    first = written(tmp_path / "a") + written(tmp_path / "b")
    instances = [dataset.SOPInstanceUID for dataset in first]
    assert len(set(instances)) == 8 and all(dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
                                            for dataset in first)  # fmt: skip
    assert {dataset.StudyInstanceUID for dataset in first} == {WHO.study_uid}
    others = [SyntheticIdentity("SYN-2") for _ in range(50)]
    uids = instances + [uid for one in others for uid in (one.study_uid, one.series_uid, one.frame_of_reference_uid)]
    assert len(set(uids)) == 158 and all(uid.startswith("2.25.") for uid in uids)


@each_modality
def test_all_uids_follow_from_the_generator_that_is_handed_in(tmp_path, modality):
    def series(name, seed):
        who = SyntheticIdentity("SYN-1", RandomUids("1.2.3", np.random.default_rng(seed)))
        return [path.read_bytes() for path in write_dicom_series(volume_of(modality), tmp_path / name, who, MADE)]

    first = series("a", 5)
    assert first == series("b", 5) and not set(first) & set(series("c", 6))
    assert all(b"2.25." not in file.replace(IMPLEMENTATION_UID.encode(), b"") for file in first)


def test_ct_is_int16_hounsfield_clamped_to_the_scale(tmp_path):
    array = np.array([-3000, -1024.4, 0.4, 3071.2, 9000]).reshape(5, 1, 1)
    (path,) = write_dicom_series(Volume(array, np.eye(4), "CT", "HU"), tmp_path / "s", WHO, MADE, window=(-160, 240))
    dataset = dcmread(path)
    assert dataset.pixel_array.ravel().tolist() == [-1024, -1024, 0, 3071, 3071]
    assert dataset.pixel_array.dtype == np.int16 and dataset.PixelRepresentation == 1
    assert (dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType) == (1, 0, "HU")
    assert (dataset.WindowCenter, dataset.WindowWidth) == (40, 400)


def test_mr_declares_one_scale_for_the_series_and_no_hounsfield(tmp_path):
    datasets = written(tmp_path, "MR")
    assert len({(dataset.RescaleSlope, dataset.RescaleIntercept) for dataset in datasets}) == 1
    assert datasets[0].RescaleType == "US"
    scaled = datasets[2].pixel_array * float(datasets[2].RescaleSlope) + float(datasets[2].RescaleIntercept)
    assert np.abs(scaled - volume_of("MR").array[:, :, 2].T).max() < 143 / 65535


def test_geometry_is_the_affines_in_lps(tmp_path):
    datasets = written(tmp_path)
    lps = np.diag([-1, -1, 1])
    affine = volume_of("CT").affine
    assert np.allclose(datasets[0].ImageOrientationPatient, (lps @ TILTED[:3, :2]).T.ravel())
    assert list(datasets[0].PixelSpacing) == [0.25, 0.5]  # between rows (along j), then between columns (along i)
    for k, dataset in enumerate(datasets):
        assert np.allclose(dataset.ImagePositionPatient, lps @ (affine @ [0, 0, k, 1])[:3])
        assert dataset.InstanceNumber == k + 1 and dataset.SliceThickness == 2.5
    assert len({dataset.FrameOfReferenceUID for dataset in datasets}) == 1


@pytest.mark.parametrize("flip", [1, -1])
def test_instance_numbers_run_along_the_normal_of_the_planes(tmp_path, flip):
    """Viewers scroll by Instance Number: a left-handed array is written from its other end."""
    volume = Volume(volume_of("CT").array, np.diag([1, 1, 2.0 * flip, 1]), "CT", "HU")
    datasets = [dcmread(path) for path in write_dicom_series(volume, tmp_path / "s", WHO, MADE)]
    normal = np.cross(datasets[0].ImageOrientationPatient[:3], datasets[0].ImageOrientationPatient[3:])
    along = [float(np.dot(dataset.ImagePositionPatient, normal)) for dataset in datasets]
    assert np.allclose(np.diff(along), 2.0) and [d.InstanceNumber for d in datasets] == [1, 2, 3, 4]
    assert np.array_equal(datasets[0].pixel_array.T, volume.array[:, :, 0 if flip > 0 else -1])


@pytest.mark.parametrize("letters", [("L", "F"), ("R", "F"), ("P", "F"), ("A", "H"), ("L", "P")])
@pytest.mark.parametrize("modality", ["DX", "CR"])
def test_radiographs_keep_direction_and_pixel_size(tmp_path, modality, letters):
    affine = projection_affine((0.2, 0.4), letters)
    volume = Volume(np.arange(12.0).reshape(4, 3, 1) * 9, affine, modality, "a.u.")
    files = write_dicom_series(volume, tmp_path / "s", WHO, MADE)
    assert "ImagePositionPatient" not in dcmread(files[0]) and "RescaleType" in dcmread(files[0])
    read = read_dicom_series(files)
    assert np.array_equal(read.array, volume.array) and np.allclose(read.affine, affine)


def test_faults_come_all_at_once_before_anything_is_written(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "other.txt").write_text("keep me")
    oblique = Volume(np.full((3, 3, 2), -0.7), TILTED, "DX", "a.u.")
    with pytest.raises(InputError) as caught:
        write_dicom_series(oblique, tmp_path / "s", WHO, MADE, window=(-1, 1))
    got = " | ".join(fault.got for fault in caught.value.faults)
    for part in ("2 slices", "fractions", "values -0.7", "oblique", "something there already"):
        assert part in got
    assert [path.name for path in tmp_path.rglob("*")] == ["s", "other.txt"]


@pytest.mark.parametrize(("modality", "unit"), [("CT", "a.u."), ("MR", "HU"), ("PT", "a.u.")])
def test_units_and_modalities_that_do_not_fit_are_refused(tmp_path, modality, unit):
    with pytest.raises(InputError, match=modality):
        write_dicom_series(Volume(np.zeros((3, 3, 2)), np.eye(4), modality, unit), tmp_path / "s", WHO, MADE)


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, monkeypatch):
    real, count = Path.write_bytes, []

    def full(self, data):
        count.append(self)
        if len(count) == 3:
            raise OSError(28, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_dicom_series(volume_of("CT"), tmp_path / "s", WHO, MADE)
    assert len(count) == 3 and list(tmp_path.iterdir()) == []


def test_a_patient_id_that_is_not_synthetic_is_refused():
    for name in ("000001", "SYN-", "SYN-Müller", "patient SYN-1", "SYN-1\\2"):
        with pytest.raises(ValueError, match="SYN-"):
            SyntheticIdentity(name)


def test_a_bound_is_written_unrounded():
    """Rounding 7.95125 to 7.951 would promise more than was proven."""
    assert "epsilon = 7.951251," in Provenance("m", "n", "0", 7.951251, 1e-5, "patient", "NO").derivation
