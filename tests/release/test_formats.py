"""One geometry in every format and for every reader: anisotropic, left-handed and flat grids."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from monai.transforms import LoadImage

from imgsynth.files import read_json
from imgsynth.privacy.plan import GaussianQuery, PrivacyPlan
from imgsynth.release.images import nifti_name, provenance_of, release_geometry, release_volume, write_patient
from imgsynth.release.zarr_store import from_stored, write_store
from imgsynth.types import Grid
from imgsynth.volumes.dicom_write import DicomForm
from imgsynth.volumes.uids import RandomUids

GRIDS = {
    "anisotropic, left-handed MR": Grid((8, 12, 10), (2.0, 1.5, 3.0), "LAS", "MR", "a.u.", 0.0, 255.0),
    "sagittal CT": Grid((9, 8, 11), (1.0, 2.5, 0.7), "PIR", "CT", "HU", -1000.0, 600.0),
    "radiograph": Grid((16, 10), (0.5, 0.25), "IL", "DX", "a.u.", 0.0, 255.0),
}
PLAN = PrivacyPlan("dp", "patient", 100, 0.1, 3, 1.0, 1.0, 1, 1e-3)


@pytest.mark.parametrize(("mode", "noise"), [("dp", 1.0), ("dp", 0.0), ("none", 0.0)])
def test_what_the_cohort_was_asked_is_part_of_how_an_image_was_made(mode: str, noise: float) -> None:
    """Called noised where it is, and never patients': the source may know cases only."""
    plan = replace(PLAN, mode=mode, noise_multiplier=noise, queries=(GaussianQuery("moments", 1.0, noise),))
    made = "trained by DP-SGD" if noise else "trained without differential privacy"
    asked = "noised answers" if noise else "answers"
    assert provenance_of(plan, "GAN", None).method == f"GAN, {made}, and on {asked} of the whole cohort (moments)"
    assert provenance_of(PLAN, "VAE", None).method == "VAE, trained by DP-SGD"


def write(folder: Path, grid: Grid, n: int = 3) -> np.ndarray:
    """``n`` patients as NIfTI and Zarr; their arrays [n, i, j, k]."""
    made = provenance_of(PLAN, "VAE", None)
    x_NC = np.random.default_rng(0).uniform(-1, 1, (n, 1, *grid.shape)).astype(np.float32)
    formats = ["nifti", *(["zarr"] if sys.version_info >= (3, 11) else [])]
    volumes = [release_volume(x_C, grid) for x_C in x_NC]
    for number, volume in enumerate(volumes, 1):
        write_patient(
            folder, number, "b", volume, (grid.low, grid.high), made, formats, None, RandomUids(), DicomForm()
        )
    if "zarr" in formats:
        write_store(folder, grid, ["b"] * n, ["a", "b"], made)
    return np.stack([volume.array for volume in volumes])


@pytest.mark.parametrize("name", GRIDS)
def test_nibabel_simpleitk_and_monai_see_the_same_geometry(name: str, tmp_path: Path) -> None:
    grid = GRIDS[name]
    arrays = write(tmp_path, grid)
    shape, affine = release_geometry(grid)
    path = tmp_path / nifti_name(1, None)
    image = nib.load(path)
    assert image.shape == shape
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    itk = SimpleITK.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(itk.GetDirection()).reshape(3, 3) * np.array(itk.GetSpacing())
    matrix[:3, 3] = itk.GetOrigin()
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ matrix, affine, atol=1e-4)  # LPS to RAS
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(itk).transpose(2, 1, 0), arrays[0])
    monai = LoadImage(image_only=True, ensure_channel_first=False)(path)
    np.testing.assert_allclose(np.asarray(monai.affine), affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(monai).reshape(shape), arrays[0])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="zarr 3 needs Python 3.11")
@pytest.mark.parametrize("name", GRIDS)
def test_the_zarr_store_holds_the_same_images_geometry_and_labels(name: str, tmp_path: Path) -> None:
    import zarr

    grid = GRIDS[name]
    arrays = write(tmp_path, grid)
    root = zarr.open_group(str(tmp_path / "zarr" / "cohort.zarr"), mode="r")
    assert root["0"].shape[0] == len(arrays) and root["0"].chunks[0] == 1
    for stored, array in zip(root["0"][:], arrays, strict=True):
        np.testing.assert_array_equal(from_stored(stored), array)
    assert root["class_index"][:].tolist() == [1, 1, 1]
    said, (scales,) = root.attrs["imgsynth"], root.attrs["ome"]["multiscales"]
    np.testing.assert_allclose(said["affine"], release_geometry(grid)[1], atol=1e-9)
    assert said["synthetic"] is True and said["unit"] == grid.unit and "Synthetic image" in said["derivation"]
    spacing = np.linalg.norm(np.array(said["affine"])[:3, :3], axis=0)[: grid.spatial_dims]
    np.testing.assert_allclose(scales["datasets"][0]["coordinateTransformations"][0]["scale"], [1, *spacing[::-1]])
    types = [axis["type"] for axis in scales["axes"]]  # OME-NGFF 0.5: one axis of another type, before those of space
    assert types == ["sample", *["space"] * grid.spatial_dims] and root.attrs["ome"]["version"] == "0.5"
    assert [axis["name"] for axis in scales["axes"]] == list(root["0"].metadata.dimension_names)
    assert not (tmp_path / "zarr" / "parts").exists()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="zarr 3 needs Python 3.11")
def test_the_same_images_give_the_same_store_in_many_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = GRIDS["radiograph"]
    monkeypatch.setattr("imgsynth.release.zarr_store.SHARD", 2 * 16 * 10 * 4)
    for folder in ("one", "other"):
        write(tmp_path / folder, grid, n=5)
    trees = [
        {p.relative_to(tmp_path / folder).as_posix(): p.read_bytes() for p in (tmp_path / folder / "zarr").rglob("*")
         if p.is_file()} for folder in ("one", "other")
    ]  # fmt: skip
    assert trees[0] == trees[1]
    assert sum("/0/c/" in name for name in trees[0]) == 3  # two images in a file
    import zarr

    assert zarr.open_group(str(tmp_path / "one" / "zarr" / "cohort.zarr"))["0"].shape[0] == 5


def test_sidecars_say_what_the_header_says(tmp_path: Path) -> None:
    write(tmp_path, GRIDS["radiograph"], n=1)
    said = read_json(tmp_path / "nifti" / "SYN-000001.json")
    assert said["Modality"] == "DX" and said["IntensityUnit"] == "a.u." and said["SyntheticData"] is True
    assert said["Epsilon"] >= PLAN.epsilon
