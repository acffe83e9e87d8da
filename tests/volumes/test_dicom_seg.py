"""Masks as DICOM segmentations: the voxels come back, by our reader and by others, on the image that they refer to."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread

from imgsynth.types import InputError, Structure
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.dicom_seg import PRIVATE_SCHEME, read_segmentation, write_segmentation
from imgsynth.volumes.dicom_write import SINGLE_FRAMES, DicomForm, write_dicom_series
from imgsynth.volumes.geometry import projection_affine
from imgsynth.volumes.provenance import Provenance, SyntheticIdentity
from imgsynth.volumes.uids import RandomUids
from imgsynth.volumes.volume import Volume

STRUCTURES = (Structure("core", 1), Structure("liver", 4, ("SCT", "10200004", "Liver")))
MADE = Provenance("VAE, trained by DP-SGD", "VAE", "1.0", 8.0, 1e-5, "patient", "NO")
OBLIQUE = np.array([[0.0, 1.2, 2.4, 5], [1.5, 0, 0, -7], [0, 1.6, -1.8, 11], [0, 0, 0, 1]])  # right-handed, tilted


def labels_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


def written(
    folder: Path, labels: np.ndarray, modality: str = "MR", affine: np.ndarray = OBLIQUE,
    form: DicomForm = SINGLE_FRAMES, seed: int = 1,
) -> tuple[list[Path], Path]:  # fmt: skip
    """(the image's files, the segmentation)."""
    uids = RandomUids(random=np.random.default_rng(seed))
    values = np.random.default_rng(9).integers(0, 200, labels.shape).astype(np.float32)
    image = Volume(values, affine, modality, "HU" if modality == "CT" else "a.u.")
    series = write_dicom_series(image, folder / modality, SyntheticIdentity("SYN-000001", uids), MADE, (0, 200), form)
    return series, write_segmentation(labels, series, folder / "SEG", STRUCTURES, MADE, uids)[0]


@pytest.mark.parametrize("modality", ["MR", "CT"])
@pytest.mark.parametrize("kind", ["single_frame", "enhanced"])
def test_it_reads_back_on_the_image(tmp_path: Path, modality: str, kind: str) -> None:
    labels = labels_of((7, 9, 5))
    series, path = written(tmp_path, labels, modality, form=DicomForm(kind))
    got, affine = read_segmentation(path)
    image = read_dicom_series(series)
    assert np.array_equal(got, labels) and got.dtype == np.uint8
    np.testing.assert_allclose(affine, image.affine, atol=1e-5)
    np.testing.assert_allclose(affine, OBLIQUE, atol=1e-5)


def test_highdicom_and_simpleitk_read_the_same_voxels_in_the_same_place(tmp_path: Path) -> None:
    labels = labels_of((8, 6, 5))  # whole bytes: GDCM takes bits of the last one for grey levels where it is not full
    series, path = written(tmp_path, labels)
    volume = hd.seg.segread(path).get_volume(combine_segments=True, skip_overlap_checks=True)
    # highdicom's array is [slice, row, column] with an LPS+ affine of its own order: compare places in the patient.
    found = {}
    for index in np.ndindex(volume.array.shape):
        place = np.diag([-1, -1, 1, 1]) @ volume.affine @ [*index, 1]
        found[tuple(np.rint(np.linalg.solve(OBLIQUE, place)[:3]).astype(int))] = volume.array[index]
    assert all(found[index] == labels[index] for index in np.ndindex(labels.shape))
    image = sitk.ReadImage([str(p) for p in series])
    mask = sitk.ReadImage(str(path))
    frames = sitk.GetArrayFromImage(mask).reshape(2, 5, 6, 8)  # segment, plane in the file's order, row, column
    first = dcmread(path).PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
    planes = frames if np.allclose(first, image.GetOrigin()) else frames[:, ::-1]
    for number in (1, 2):
        assert np.array_equal(planes[number - 1].transpose(2, 1, 0) > 0, labels == number)


def test_a_radiograph_has_one_without_a_place(tmp_path: Path) -> None:
    labels = labels_of((12, 10, 1))
    series, path = written(tmp_path, labels, "DX", projection_affine())
    got, affine = read_segmentation(path)
    assert np.array_equal(got, labels) and affine is None
    assert dcmread(path).PatientOrientation == dcmread(series[0]).PatientOrientation


def test_an_empty_mask_and_an_absent_structure_are_masks_too(tmp_path: Path) -> None:
    one = np.where(labels_of((6, 5, 4)) == 2, 2, 0).astype(np.uint8)
    for number, labels in enumerate([np.zeros((6, 5, 4), np.uint8), one]):
        _, path = written(tmp_path / str(number), labels)
        assert np.array_equal(read_segmentation(path)[0], labels)
        assert len(dcmread(path).SegmentSequence) == 2


def test_the_header_says_whose_it_is_and_how_it_was_made(tmp_path: Path) -> None:
    series, path = written(tmp_path, labels_of((6, 5, 4)))
    mask, image = dcmread(path), dcmread(series[0])
    for keyword in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "SyntheticData", "DerivationDescription",
                    "PatientIdentityRemoved", "DeidentificationMethod"):  # fmt: skip
        assert mask[keyword].value == image[keyword].value
    assert mask.SyntheticData == "YES" and "epsilon = 8.0" in mask.DerivationDescription
    assert [e.PurposeOfReferenceCodeSequence[0].CodeValue for e in mask.ContributingEquipmentSequence] == ["109100"]
    assert mask.SeriesInstanceUID != image.SeriesInstanceUID and mask.SeriesNumber == 2
    (referred,) = mask.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == image.SeriesInstanceUID
    instances = {one.ReferencedSOPInstanceUID for one in referred.ReferencedInstanceSequence}
    assert instances == {dcmread(one).SOPInstanceUID for one in series}
    kinds = [s.SegmentedPropertyTypeCodeSequence[0] for s in mask.SegmentSequence]
    assert [k.CodingSchemeDesignator for k in kinds] == [PRIVATE_SCHEME, "SCT"] and kinds[1].CodeValue == "10200004"
    assert mask.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == PRIVATE_SCHEME
    assert [s.SegmentLabel for s in mask.SegmentSequence] == ["core", "liver"]


def test_its_bytes_follow_from_its_uids_and_not_from_the_clock(tmp_path: Path) -> None:
    labels = labels_of((6, 5, 4))
    one, again, other = (
        written(tmp_path / n, labels, seed=s)[1].read_bytes() for n, s in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one == again and one != other
    every = [e.value for e in dcmread(tmp_path / "a" / "SEG" / "000001.dcm").iterall() if e.VR in ("DA", "TM", "DT")]
    assert set(every) <= {"", "19000101", "000000"}
    uids = {e.value for e in dcmread(tmp_path / "a" / "SEG" / "000001.dcm").iterall() if e.VR == "UI"}
    assert all(uid.startswith(("2.25.", "1.2.840.10008.")) for uid in uids)


@pytest.mark.parametrize("modality", ["MR", "CT", "DX"])
def test_dciodvfy_finds_nothing_but_the_tag_that_is_younger_than_itself(tmp_path: Path, modality: str) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian dicom3tools) is not installed")
    flat = modality == "DX"
    _, path = written(
        tmp_path, labels_of((12, 10, 1 if flat else 4)), modality, projection_affine() if flat else OBLIQUE
    )
    said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    errors = [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]
    assert len(errors) == 1 and "(0x0008,0x001c)" in errors[0]


def test_what_is_no_sound_segmentation_is_refused(tmp_path: Path) -> None:
    series, path = written(tmp_path, labels_of((6, 5, 4)))
    (tmp_path / "text.dcm").write_text("no DICOM")
    for wrong in (series[0], tmp_path / "text.dcm", tmp_path / "absent.dcm"):
        with pytest.raises(InputError, match="no readable segmentation"):
            read_segmentation(wrong)

    def changed(change) -> Path:
        dataset = dcmread(path)
        change(dataset)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.save_as(tmp_path / "changed.dcm")
        return tmp_path / "changed.dcm"

    def fewer(dataset) -> None:
        del dataset.PerFrameFunctionalGroupsSequence[-1]

    def twice(dataset) -> None:
        groups = dataset.PerFrameFunctionalGroupsSequence
        groups[1].SegmentIdentificationSequence = groups[0].SegmentIdentificationSequence
        groups[1].PlanePositionSequence = groups[0].PlanePositionSequence

    def apart(dataset) -> None:
        position = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
        position.ImagePositionPatient = [v + 3 for v in position.ImagePositionPatient]

    for change in (fewer, twice, apart):
        with pytest.raises(InputError, match="no readable segmentation"):
            read_segmentation(changed(change))
