"""Every kind of series in every transfer syntax: judged by dicom3tools, read by pydicom, SimpleITK and GDCM."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread

from imgsynth.types import InputError
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.dicom_syntax import SYNTAXES
from imgsynth.volumes.dicom_write import KINDS, DicomForm, write_dicom_series
from imgsynth.volumes.geometry import projection_affine
from imgsynth.volumes.provenance import Provenance, SyntheticIdentity
from imgsynth.volumes.uids import RandomUids
from imgsynth.volumes.volume import Volume

MADE = Provenance("GAN trained by DP-SGD", "GAN", "0.1.0", 8.0, 1e-5, "patient", burned_in="NO")
TILTED = np.array([[0.96, -0.168, 0.224, -3.0], [0.28, 0.576, -0.768, 4], [0, 0.8, 0.6, 5], [0, 0, 0, 1]])
UNKNOWN_TO_DCIODVFY = (
    "Error - Attribute with an even group number is not a recognized standard attribute - (0x0008,0x001c)"
)
FORMS = [(m, k, s) for m, k, s in itertools.product(("CT", "MR", "DX", "CR"), KINDS, SYNTAXES)
         if k == "single_frame" or m in ("CT", "MR")]  # fmt: skip
each_form = pytest.mark.parametrize(("modality", "kind", "syntax"), FORMS)
each_volume_form = pytest.mark.parametrize(("modality", "kind", "syntax"), [f for f in FORMS if f[0] in ("CT", "MR")])


def volume_of(modality: str, affine: np.ndarray = TILTED) -> Volume:
    """Every voxel is another, over the whole range of 16 bits (CT: of its scale)."""
    projection = modality in ("DX", "CR")
    shape = (37, 33, 1) if projection else (37, 33, 3)
    low, high = (-1024, 3071) if modality == "CT" else (0, 65535)
    array = np.random.default_rng(3).permutation(np.linspace(low, high, int(np.prod(shape))).round()).reshape(shape)
    affine = projection_affine((0.5, 0.25)) if projection else affine @ np.diag([0.5, 0.25, 2.5, 1])
    return Volume(array.astype(np.float32), affine, modality, "HU" if modality == "CT" else "a.u.")


def write(tmp_path: Path, modality: str, kind: str, syntax: str, volume: Volume | None = None) -> list[Path]:
    who = SyntheticIdentity("SYN-000001", RandomUids("1.2.3", np.random.default_rng(0)))
    volume = volume_of(modality) if volume is None else volume
    return write_dicom_series(volume, tmp_path / "s", who, MADE, (0.0, 400.0), DicomForm(kind, syntax))


def errors(command: list[str]) -> list[str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} (Debian dicom3tools) is not installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


@each_form
def test_dicom3tools_finds_nothing_but_the_tag_that_is_younger_than_itself(tmp_path, modality, kind, syntax):
    files = write(tmp_path, modality, kind, syntax)
    for path in files:
        found = errors(["dciodvfy", str(path)])
        assert len(found) == 1 and found[0].startswith(UNKNOWN_TO_DCIODVFY), found
    assert errors(["dcentvfy", *map(str, files)]) == []


@each_form
def test_pydicom_reads_every_bit_and_we_the_same_image(tmp_path, modality, kind, syntax):
    volume = volume_of(modality)
    files = write(tmp_path, modality, kind, syntax)
    datasets = [dcmread(path) for path in files]
    assert {dataset.file_meta.TransferSyntaxUID for dataset in datasets} == {SYNTAXES[syntax]}
    assert len(datasets) == (1 if kind == "enhanced" else volume.array.shape[2])
    stored = np.concatenate([np.atleast_3d(d.pixel_array.T).reshape(37, 33, -1) for d in datasets], axis=2)
    assert np.array_equal(stored, volume.array)
    read = read_dicom_series(files)
    assert np.array_equal(read.array, volume.array) and np.allclose(read.affine, volume.affine, atol=1e-9)
    assert (read.modality, read.unit) == (modality, volume.unit)


AXES = [TILTED, np.eye(4), np.diag([-1.0, 1, -1, 1]), np.eye(4)[[2, 0, 1, 3]]]  # all right-handed


@each_volume_form
@pytest.mark.parametrize("axes", range(len(AXES)))
def test_simpleitk_sees_the_same_values_in_the_same_places(tmp_path, modality, kind, syntax, axes):
    volume = volume_of(modality, AXES[axes])
    files = write(tmp_path, modality, kind, syntax, volume)
    if kind == "enhanced":
        image = SimpleITK.ReadImage(str(files[0]))
    else:
        reader = SimpleITK.ImageSeriesReader()
        names = reader.GetGDCMSeriesFileNames(str(files[0].parent))
        assert names == tuple(map(str, files))  # GDCM sorts by position: Instance Numbers run the same way
        reader.SetFileNames(names)
        image = reader.Execute()
    assert np.array_equal(SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), volume.array)
    lps = np.diag([-1.0, -1, 1])
    for index in ((0, 0, 0), (36, 0, 0), (0, 32, 0), (36, 32, 2)):
        mm = lps @ (volume.affine @ [*index, 1])[:3]
        assert np.allclose(image.TransformIndexToPhysicalPoint(index), mm, atol=1e-4)


@each_form
def test_gdcm_decodes_every_bit(tmp_path, modality, kind, syntax):
    gdcm = pytest.importorskip("gdcm", reason="python-gdcm is not installed")
    volume = volume_of(modality)
    planes = []
    for path in write(tmp_path, modality, kind, syntax):
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        raw = reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape")
        planes.append(np.frombuffer(raw, "<i2" if modality == "CT" else "<u2").reshape(-1, 33, 37))
    assert np.array_equal(np.concatenate(planes).transpose(2, 1, 0), volume.array)


@each_form
def test_the_same_uids_give_the_same_bytes(tmp_path, modality, kind, syntax):
    once, again = (write(tmp_path / name, modality, kind, syntax) for name in ("a", "b"))
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_orthanc_takes_every_form_and_gives_it_back_to_the_bit(tmp_path, orthanc):
    files = []
    for number, form in enumerate(FORMS):
        who = SyntheticIdentity(f"SYN-{number:06d}")
        folder = tmp_path / str(number)
        files += write_dicom_series(volume_of(form[0]), folder, who, MADE, (0.0, 400.0), DicomForm(*form[1:]))
    studies = {dcmread(path).StudyInstanceUID for path in files}
    contents = sorted(path.read_bytes() for path in files)
    orthanc.stow(contents)
    assert len(studies) == len(FORMS) == 18
    assert sorted(part for study in studies for part in orthanc.wado(study)) == contents


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_mr_on_a_scale_of_its_own_comes_back_in_every_form(tmp_path, syntax):
    volume = volume_of("MR")
    volume = Volume(volume.array / 7 - 20, volume.affine, "MR", "a.u.")
    arrays = [read_dicom_series(write(tmp_path / kind, "MR", kind, syntax, volume)).array for kind in KINDS]
    assert np.array_equal(*arrays)
    assert np.abs(arrays[0] - volume.array).max() <= np.ptp(volume.array) / 65535 * 0.51 + 1e-3
    stored = np.concatenate([dcmread(path).pixel_array for path in (tmp_path / "single_frame" / "s").iterdir()])
    assert (stored.min(), stored.max()) == (0, 65535)  # all 16 bits are in use


def test_enhanced_images_say_by_frame_where_they_are_and_in_what_unit(tmp_path):
    for modality, unit in (("CT", "HU"), ("MR", "US")):
        (path,) = write(tmp_path / modality, modality, "enhanced", "explicit_little_endian")
        dataset = dcmread(path)
        (shared,) = dataset.SharedFunctionalGroupsSequence
        assert shared.PixelValueTransformationSequence[0].RescaleType == unit
        assert (shared.FrameVOILUTSequence[0].WindowCenter, shared.FrameVOILUTSequence[0].WindowWidth) == (200, 400)
        assert [group.FrameContentSequence[0].DimensionIndexValues
                for group in dataset.PerFrameFunctionalGroupsSequence] == [[1, 1], [1, 2], [1, 3]]  # fmt: skip
        assert list(dataset.ImageType[:2]) == ["DERIVED", "PRIMARY"] and dataset.SyntheticData == "YES"
        assert "RescaleSlope" not in dataset and "ImagePositionPatient" not in dataset


def test_a_form_that_cannot_hold_the_image_is_refused_before_anything_is_written(tmp_path):
    marked = Provenance("GAN", "GAN", "0.1.0", 8.0, 1e-5, "patient", burned_in="YES")
    small = Volume(np.zeros((31, 32, 1)), projection_affine(), "DX", "a.u.")
    with pytest.raises(InputError) as caught:
        write_dicom_series(small, tmp_path / "s", SyntheticIdentity("SYN-1"), marked, (0.0, 255.0),
                           DicomForm("enhanced", "jpeg2000_lossless"))  # fmt: skip
    got = " | ".join(fault.got for fault in caught.value.faults)
    assert "enhanced DX" in got and "Burned In Annotation YES" in got and "31 × 32" in got
    assert list(tmp_path.iterdir()) == []
    unjudged = Provenance("GAN", "GAN", "0.1.0", 8.0, 1e-5, "patient", burned_in=None)
    with pytest.raises(InputError, match="that nobody judged"):
        write_dicom_series(volume_of("CT"), tmp_path / "s", SyntheticIdentity("SYN-1"), unjudged,
                           form=DicomForm("enhanced"))  # fmt: skip
    for form in (("multi", "rle_lossless"), ("enhanced", "jpeg")):
        with pytest.raises(ValueError, match="Expected one of"):
            DicomForm(*form)
