"""Sheets of images to look at: three planes of a volume as radiologists hang them, or 2D images in a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from imgsynth.cohort.masks import label_map
from imgsynth.files import atomic_path
from imgsynth.types import Grid

PLANES = ("axial", "coronal", "sagittal")
PANEL = 112  # pixels of the longest side of a panel
GAP = 6  # pixels between panels
LINE = 16  # pixels of a line of text
INK, PAPER = 235, 0  # grey levels of text and background
OUTLINES = ((255, 176, 0), (0, 200, 255), (255, 80, 160), (120, 230, 90), (180, 140, 255), (255, 255, 120))  # in turn


def sheet(images_BC: Tensor | np.ndarray, titles: Sequence[str], grid: Grid, columns: int = 8) -> Image.Image:
    """Draw images [B, 1, *grid.shape] with values in [-1, 1] (beyond is clamped), each under its title; those of
    ``grid.channels`` with the outlines of their masks, a colour for each structure.

    A volume is a column of three central slices (axial, coronal, sagittal), reoriented from ``grid.orientation`` and
    hung in radiological convention: the patient's right on the left of the picture, anterior up (axial) or left
    (sagittal), superior up. A 2D image is turned upright by its two orientation codes in the same convention. Voxels
    that are not cubes are drawn in proportion to their mm.
    """
    array_BC = images_BC.detach().cpu().float().numpy() if isinstance(images_BC, Tensor) else np.asarray(images_BC)
    if array_BC.shape[2:] != grid.shape or array_BC.shape[1] not in (1, grid.channels):
        channels = f"1 or {grid.channels}" if grid.structures else "1"
        wanted = ", ".join(map(str, grid.shape))
        raise ValueError(f"Expected images [B, {channels}, {wanted}], got {list(array_BC.shape)}.")
    if len(titles) != len(array_BC):
        raise ValueError(f"Expected one title for each of {len(array_BC)} images, got {len(titles)}.")
    cells = [cell(image_C, grid) for image_C in array_BC]
    return arrange(cells, titles, PLANES if grid.spatial_dims == 3 else ("",), columns)


def save_png(picture: Image.Image, path: Path) -> Path:
    """Write ``picture`` as PNG by one atomic rename."""
    with atomic_path(path) as partial:
        picture.save(partial, format="PNG")
    return path


# ---------------------------------------------------------------------------------------------------------------------


def cell(image_C: np.ndarray, grid: Grid) -> list[Image.Image]:
    """The panels of one image, one for each plane."""
    panels = [_panel(*view) for view in views(image_C[0], grid)]
    if len(image_C) == 1:
        return panels
    masks = [pixels for pixels, *_ in views(label_map(image_C[1:]), grid)]
    return [_outlined(panel, mask) for panel, mask in zip(panels, masks, strict=True)]


def _outlined(panel: Image.Image, labels: np.ndarray) -> Image.Image:
    """``panel`` in colour, with a line of one pixel just inside each structure of ``labels`` [row, column]."""
    large = np.asarray(Image.fromarray(np.ascontiguousarray(labels)).resize(panel.size, Image.Resampling.NEAREST))
    padded = np.pad(large, 1)
    shifts = [padded[1 + r : r + 1 + large.shape[0], 1 + c : c + 1 + large.shape[1]]
              for r, c in ((-1, 0), (1, 0), (0, -1), (0, 1))]  # fmt: skip
    edge = (large > 0) & np.any([shifted != large for shifted in shifts], axis=0)
    coloured = np.array(panel.convert("RGB"))
    coloured[edge] = np.array(OUTLINES, dtype=np.uint8)[(large[edge] - 1) % len(OUTLINES)]
    return Image.fromarray(coloured)


def views(image: np.ndarray, grid: Grid) -> list[tuple[np.ndarray, float, float]]:
    """(pixels [row, column], mm per row, mm per column) of each plane of one image."""
    if grid.spatial_dims == 2:
        return [_flat(image, grid)]
    to_ras = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt(grid.orientation), nib.orientations.axcodes2ornt("RAS")
    )
    ras = nib.orientations.apply_orientation(image, to_ras)
    mm = [0.0, 0.0, 0.0]
    for axis, (target, _) in enumerate(to_ras):
        mm[int(target)] = grid.spacing[axis]
    (right, front, up), (i, j, k) = mm, (size // 2 for size in ras.shape)
    # Reversed axes put the patient's right, front and top at the left, left and top of the picture.
    axial = ras[::-1, ::-1, k].T
    coronal = ras[::-1, j, ::-1].T
    sagittal = ras[i, ::-1, ::-1].T
    return [(axial, front, right), (coronal, up, right), (sagittal, up, front)]


def _flat(image: np.ndarray, grid: Grid) -> tuple[np.ndarray, float, float]:
    """A single image, whose rows run toward the first axis code and columns toward the second, made upright."""
    down, across, spacing = grid.orientation[0], grid.orientation[1], grid.spacing
    if across in "SI" or (down in "RL" and across in "AP"):  # stored on its side
        image, down, across, spacing = image.T, across, down, spacing[::-1]
    if down in "SA":
        image = image[::-1]
    if across in "RA":
        image = image[:, ::-1]
    return image, spacing[0], spacing[1]


def _panel(pixels: np.ndarray, mm_row: float, mm_column: float) -> Image.Image:
    return fitted(Image.fromarray(np.uint8(np.round((np.clip(pixels, -1, 1) + 1) * 127.5))), mm_row, mm_column)


def fitted(picture: Image.Image, mm_row: float, mm_column: float) -> Image.Image:
    """One plane as a panel: of PANEL pixels along its longer side, in proportion to its mm."""
    height, width = picture.height * mm_row, picture.width * mm_column
    scale = PANEL / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return picture.resize(size, Image.Resampling.BICUBIC)


def arrange(cells: list[list[Image.Image]], titles: Sequence[str], planes: Sequence[str], columns: int) -> Image.Image:
    """Cells from left to right, ``columns`` of them in a row; the planes' names stand at the left margin."""
    columns = max(1, min(columns, len(cells)))
    margin = 64 if planes[0] else GAP
    heights = [max((cell[p].height for cell in cells), default=PANEL) for p in range(len(planes))]
    cell_height = LINE + sum(height + GAP for height in heights)
    size = margin + columns * (PANEL + GAP), GAP + math.ceil(len(cells) / columns) * cell_height
    coloured = any(panel.mode == "RGB" for cell in cells for panel in cell)
    paper = Image.new("L", size, PAPER)
    if coloured:
        paper = paper.convert("RGB")
    ink = (INK, INK, INK) if coloured else INK
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(size=11)
    for index, (cell, title) in enumerate(zip(cells, titles, strict=True)):
        x, y = margin + index % columns * (PANEL + GAP), GAP + index // columns * cell_height
        draw.text((x, y), _cut(title, font), fill=ink, font=font)
        y += LINE
        for panel, plane, height in zip(cell, planes, heights, strict=True):
            paper.paste(panel, (x + (PANEL - panel.width) // 2, y + (height - panel.height) // 2))
            if index % columns == 0:
                draw.text((GAP, y + height // 2 - 6), plane, fill=ink, font=font)
            y += height + GAP
    return paper


def _cut(title: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """``title``, cut with an ellipsis where it is wider than a panel."""
    if font.getlength(title) <= PANEL:
        return title
    while title and font.getlength(title + "…") > PANEL:
        title = title[:-1]
    return title + "…"
