"""Sheets of images beside maps of where they change: grey images, coloured maps, each under its title."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap
from PIL import Image

from imgsynth.training.sheets import PLANES, arrange, cell, fitted, views
from imgsynth.types import Grid

Cell = list[Image.Image]
# Zero is black, as the paper is; the two signs differ in hue and are told apart by colour-blind readers too.
SIGNED = LinearSegmentedColormap.from_list("signed", ["#9fdcff", "#1f7fd0", "#000000", "#d07a1f", "#ffe3a8"])
AMOUNT = LinearSegmentedColormap.from_list("amount", ["#000000", "#7a2d8c", "#e8604c", "#ffe9a8"])


def images(x_BC: np.ndarray, grid: Grid) -> list[Cell]:
    """Images [B, C, *grid.shape] in [-1, 1], with the outlines of masks where there are any."""
    return [cell(x_C, grid) for x_C in x_BC]


def signed(map_S: np.ndarray, largest: float, grid: Grid) -> Cell:
    """A map [*grid.shape] from -``largest`` (blue) by 0 (black) to ``largest`` (orange); beyond is clamped."""
    return _coloured((map_S / _positive(largest) + 1) / 2, SIGNED, grid)


def amount(map_S: np.ndarray, largest: float, grid: Grid) -> Cell:
    """A map [*grid.shape] from 0 (black) to ``largest`` (light)."""
    return _coloured(map_S / _positive(largest), AMOUNT, grid)


def page(cells: Sequence[Cell], titles: Sequence[str], grid: Grid, columns: int) -> Image.Image:
    """The cells in rows of ``columns``, volumes by their three central planes (``training.sheets``)."""
    return arrange(list(cells), titles, PLANES if grid.spatial_dims == 3 else ("",), columns)


def per_unit(grid: Grid) -> float:
    """How many units of intensity a difference of 1 in model values is."""
    return (grid.high - grid.low) / 2


def shown(value: float, grid: Grid) -> str:
    """A difference in model values, in units of intensity."""
    return f"{value * per_unit(grid):.3g} {grid.unit}"


def _coloured(level_S: np.ndarray, colours: Colormap, grid: Grid) -> Cell:
    panels = []
    for pixels, mm_row, mm_column in views(level_S, grid):
        rgb = np.uint8(np.round(255 * colours(np.clip(pixels, 0, 1))[..., :3]))
        panels.append(fitted(Image.fromarray(rgb), mm_row, mm_column))
    return panels


def _positive(largest: float) -> float:
    return largest if largest > 0 else 1.0
