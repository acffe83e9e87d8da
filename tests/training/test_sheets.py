"""Sheets, against voxels that stand at known places of the body."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imgsynth.training.sheets import GAP, LINE, OUTLINES, PANEL, save_png, sheet
from imgsynth.types import Grid, Structure

MARGIN = 64


def grid(shape: tuple[int, ...], orientation: str, spacing: tuple[float, ...] | None = None) -> Grid:
    return Grid(shape, spacing or (1.0,) * len(shape), orientation, "CT", "HU", -1000, 1000)


def panel(picture: Image.Image, plane: int, column: int = 0, margin: int = MARGIN) -> np.ndarray:
    x, y = margin + column * (PANEL + GAP), GAP + LINE + plane * (PANEL + GAP)
    return np.asarray(picture)[y : y + PANEL, x : x + PANEL]


def brightest(pixels: np.ndarray) -> str:
    """Which half of the panel is brighter, as seen: "up left" and so on; "middle" where the halves do not differ."""
    bright = pixels.astype(float)
    half = len(bright) // 2
    words = []
    for name, difference in (
        ("up", bright[:half].sum() - bright[half:].sum()),
        ("left", bright[:, :half].sum() - bright[:, half:].sum()),
    ):
        opposite = {"up": "down", "left": "right"}[name]
        words.append("middle" if abs(difference) < 1e4 else name if difference > 0 else opposite)
    return " ".join(words)


def body(orientation: str, at: str, size: int = 16) -> torch.Tensor:
    """A black volume in ``orientation`` with a bright block toward the directions ``at`` ("RA", say), else central."""
    image = np.full((size,) * len(orientation), -1.0, np.float32)
    where = []
    for code in orientation:
        opposite = code.translate(str.maketrans("RLAPSI", "LRPAIS"))
        if code in at:
            where.append(slice(size - 4, size))
        elif opposite in at:
            where.append(slice(0, 4))
        else:
            where.append(slice(size // 2 - 3, size // 2 + 3))
    image[tuple(where)] = 1.0
    return torch.from_numpy(image)[None, None]


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "ASR", "SPL"])
def test_planes_hang_as_radiologists_hang_them(orientation: str) -> None:
    axial = panel(sheet(body(orientation, "RA"), ["x"], grid((16,) * 3, orientation)), 0)
    coronal = panel(sheet(body(orientation, "RS"), ["x"], grid((16,) * 3, orientation)), 1)
    sagittal = panel(sheet(body(orientation, "AS"), ["x"], grid((16,) * 3, orientation)), 2)
    assert brightest(axial) == "up left"  # the patient's right is on the left, the front is up
    assert brightest(coronal) == "up left"  # right on the left, the head is up
    assert brightest(sagittal) == "up left"  # the front on the left, the head is up
    assert brightest(panel(sheet(body(orientation, "LP"), ["x"], grid((16,) * 3, orientation)), 0)) == "down right"


@pytest.mark.parametrize(
    ("orientation", "at", "seen"),
    [("IL", "SR", "up left"), ("SR", "SR", "up left"), ("LI", "SR", "up left"), ("PL", "AR", "up left"),
     ("RA", "AR", "up left"), ("IP", "SA", "up left"), ("PI", "SA", "up left"), ("IL", "IL", "down right")],
)  # fmt: skip
def test_single_images_are_upright(orientation: str, at: str, seen: str) -> None:
    picture = sheet(body(orientation, at), ["x"], grid((16, 16), orientation))
    assert brightest(panel(picture, 0, margin=GAP)) == seen


def test_voxels_are_drawn_in_millimetres() -> None:
    white = torch.ones(1, 1, 8, 16, 4)
    coronal = panel(sheet(white, ["x"], grid((8, 16, 4), "RAS", (1.0, 1.0, 4.0))), 1) > 128
    rows, columns = coronal.any(1).sum(), coronal.any(0).sum()  # 16 mm high, 8 mm wide
    assert rows == PANEL and columns == PANEL // 2


def test_values_beyond_the_range_are_clamped_and_every_image_is_there(tmp_path: Path) -> None:
    images = torch.stack([torch.full((1, 8, 8), value) for value in (-9.0, 0.0, 9.0)])
    picture = sheet(images, ["a", "b", "c"], grid((8, 8), "IL"), columns=2)
    centre = [np.asarray(picture)[GAP + r * (PANEL + GAP + LINE) + LINE + PANEL // 2, GAP + c * (PANEL + GAP) + 50]
              for r, c in ((0, 0), (0, 1), (1, 0))]  # fmt: skip
    assert centre == [0, 128, 255]
    save_png(picture, tmp_path / "s" / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "s" / "a.png")), np.asarray(picture))


def test_titles_are_drawn_and_cut() -> None:
    short = np.asarray(sheet(-torch.ones(2, 1, 8, 8), ["", "pneumonia"], grid((8, 8), "IL")))
    assert short[:, : PANEL + GAP].max() == 0 and short[:LINE, PANEL + 2 * GAP :].max() > 100
    long = np.asarray(sheet(-torch.ones(2, 1, 8, 8), ["very " * 40, ""], grid((8, 8), "IL")))
    assert long[:, PANEL + 2 * GAP :].max() == 0


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected images"):
        sheet(torch.zeros(2, 8, 8), ["a", "b"], grid((8, 8), "IL"))
    with pytest.raises(ValueError, match="one title"):
        sheet(torch.zeros(2, 1, 8, 8), ["a"], grid((8, 8), "IL"))


def test_a_mask_is_an_outline_in_colour_where_it_is() -> None:
    """A box that reaches from the middle to the patient's left, front and top corner, of the second structure."""
    two = dataclasses.replace(grid((16, 16, 16), "RAS"), structures=(Structure("a", 1), Structure("b", 2)))
    x_BC = -torch.ones(1, 3, 16, 16, 16)
    x_BC[0, 2, 2:8, 8:14, 8:14] = 1
    picture = sheet(x_BC, ["x"], two)
    assert picture.mode == "RGB"
    pixels = np.asarray(picture).astype(int)
    blue = (pixels == OUTLINES[1]).all(-1)
    assert blue.any() and not (pixels == OUTLINES[0]).all(-1).any()
    axial = blue[LINE + GAP : LINE + GAP + PANEL, 64 : 64 + PANEL]
    rows, columns = np.nonzero(axial)
    # Left of the patient (index 2:8 of R) is right in the picture, front is up; 7 pixels a voxel.
    assert (rows.min(), rows.max()) == (2 * 7, 8 * 7 - 1) and (columns.min(), columns.max()) == (8 * 7, 14 * 7 - 1)
    assert not axial[rows.min() + 1 : rows.max(), columns.min() + 1 : columns.max()].any()  # a line, not an area
    assert sheet(x_BC[:, :1], ["x"], two).mode == "L"  # the image alone is as ever
    with pytest.raises(ValueError, match="1 or 3"):
        sheet(x_BC[:, :2], ["x"], two)
