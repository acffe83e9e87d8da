"""npz rows and image files stand upright, whatever they are written to."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from imgsynth.types import InputError
from imgsynth.volumes.dicom_write import write_dicom_series
from imgsynth.volumes.image import read_image
from imgsynth.volumes.npz import read_npz, row_volume
from imgsynth.volumes.provenance import Provenance, SyntheticIdentity

UPRIGHT = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40  # [rows from top to bottom, columns from left to right]


def test_a_row_becomes_columns_to_the_left_and_rows_to_the_feet():
    volume = row_volume(UPRIGHT, "DX", spacing=(0.2, 0.3))
    assert volume.orientation == "LIP" and volume.spacing == pytest.approx((0.2, 0.3, 1.0))
    assert volume.array[:, :, 0].T.tolist() == UPRIGHT.tolist() and volume.unit == "a.u."
    assert np.linalg.det(volume.affine[:3, :3]) > 0


@pytest.mark.parametrize("modality", ["DX", "CR"])
def test_a_row_written_as_dicom_shows_the_same_rows(tmp_path, modality):
    made = Provenance("test", "none", "0", 8.0, 1e-5, "image", burned_in="NO")
    (path,) = write_dicom_series(row_volume(UPRIGHT, modality), tmp_path / "dx", SyntheticIdentity("SYN-1"), made)
    dataset = dcmread(path)
    assert dataset.pixel_array.tolist() == UPRIGHT.tolist() and list(dataset.PatientOrientation) == ["L", "F"]


def test_a_stack_of_rows_keeps_its_order():
    stack = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    volume = row_volume(stack.reshape(4, 3, 2), "MR")
    assert volume.array.shape == (2, 3, 4)
    assert volume.array[:, :, 2].T.tolist() == stack.reshape(4, 3, 2)[2].tolist()


@pytest.mark.parametrize("bad", [np.zeros((2, 3, 3)), np.zeros(5), np.zeros((0, 4)), np.full((2, 2), np.nan),
                                 np.zeros((2, 2), complex)])  # fmt: skip
def test_rows_that_are_no_image_are_refused(bad):
    with pytest.raises(InputError, match="row 7"):
        row_volume(bad, "DX", where="row 7")


def test_npz_arrays_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4)), patient_ids=np.array([1, 2]))
    source = read_npz(tmp_path / "a.npz")
    assert source.array("patient_ids").tolist() == [1, 2]
    with pytest.raises(InputError, match=r"no array 'labels'.*images, patient_ids"):
        source.array("labels")


def test_medmnist_parts(tmp_path):
    parts = {}
    for part, n in {"train": 5, "val": 2, "test": 3}.items():
        parts |= {f"{part}_images": np.zeros((n, 4, 4), np.uint8), f"{part}_labels": np.arange(n)[:, None]}
    np.savez(tmp_path / "m.npz", **parts)
    found = read_npz(tmp_path / "m.npz").medmnist()
    assert {part: (x.shape, y.tolist()) for part, (x, y) in found.items()} == {
        "train": ((5, 4, 4), [0, 1, 2, 3, 4]), "val": ((2, 4, 4), [0, 1]), "test": ((3, 4, 4), [0, 1, 2])}  # fmt: skip
    np.savez(tmp_path / "bad.npz", **{**parts, "val_labels": np.zeros((3, 1))})
    with pytest.raises(InputError, match="val_labels: got 3 rows; expected 2 rows"):
        read_npz(tmp_path / "bad.npz").medmnist()
    np.savez(tmp_path / "many.npz", **{**parts, "train_labels": np.zeros((5, 14))})
    with pytest.raises(InputError, match="several labels"):
        read_npz(tmp_path / "many.npz").medmnist()


def test_damaged_and_pickled_archives_are_refused(tmp_path):
    np.savez(tmp_path / "o.npz", images=np.array([{"a": 1}], dtype=object))
    np.savez_compressed(tmp_path / "t.npz", images=np.random.default_rng(0).normal(size=(9, 9)))
    (tmp_path / "t.npz").write_bytes((tmp_path / "t.npz").read_bytes()[:-300])
    np.save(tmp_path / "plain.npz.npy", np.zeros(3))
    (tmp_path / "plain.npz.npy").rename(tmp_path / "plain.npz")
    for name in ("o.npz", "t.npz", "plain.npz", "missing.npz"):
        with pytest.raises(InputError, match=name):
            read_npz(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "pixels", "mode"),
    [("g.png", UPRIGHT, "L"), ("g.tif", UPRIGHT, "L"), ("sixteen.png", UPRIGHT.astype(np.uint16) * 250, "I;16"),
     ("float.tif", UPRIGHT.astype(np.float32) / 7, "F"), ("rgb.png", np.stack([UPRIGHT] * 3, -1), "RGB")],
)  # fmt: skip
def test_gray_images_of_any_depth_are_read_upright(tmp_path, name, pixels, mode):
    image = Image.fromarray(pixels)
    assert image.mode == mode
    image.save(tmp_path / name)
    gray = pixels[..., 0] if pixels.ndim == 3 else pixels
    volume = read_image(tmp_path / name, "DX", spacing=(0.5, 0.25))
    assert np.array_equal(volume.array[:, :, 0].T, gray) and volume.orientation == "LIP"
    assert volume.spacing == pytest.approx((0.5, 0.25, 1.0)) and volume.modality == "DX"


def test_jpeg_palette_and_exif_rotation(tmp_path):
    flat = np.full((16, 8), 77, np.uint8)
    Image.fromarray(flat).save(tmp_path / "f.jpg", quality=95)
    assert np.array_equal(read_image(tmp_path / "f.jpg", "DX").array[:, :, 0].T, flat)
    Image.fromarray(UPRIGHT).convert("P").save(tmp_path / "p.png")
    assert np.array_equal(read_image(tmp_path / "p.png", "DX").array[:, :, 0].T, UPRIGHT)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    Image.fromarray(flat).save(tmp_path / "r.jpg", exif=exif)
    assert read_image(tmp_path / "r.jpg", "DX").array.shape == (16, 8, 1)


def test_colour_transparency_pages_and_damage_are_refused(tmp_path):
    colour = np.stack([UPRIGHT, UPRIGHT, 255 - UPRIGHT], -1)
    Image.fromarray(colour).save(tmp_path / "c.png")
    Image.fromarray(np.stack([UPRIGHT] * 4, -1)).save(tmp_path / "a.png")
    pages = [Image.fromarray(UPRIGHT)] * 2
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / "t.png")
    (tmp_path / "t.png").write_bytes((tmp_path / "t.png").read_bytes()[:900])
    (tmp_path / "x.png").write_text("no image")
    for name, match in {"c.png": "colours", "a.png": "transparent", "pages.tif": "2 pages", "t.png": "unreadable",
                        "x.png": "unreadable", "none.png": "unreadable"}.items():  # fmt: skip
        with pytest.raises(InputError, match=f"{name}.*{match}"):
            read_image(tmp_path / name, "DX")
