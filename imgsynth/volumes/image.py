"""PNG, JPEG and TIFF files as single-image volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from imgsynth.types import Fault, InputError, IntensityUnit
from imgsynth.volumes.npz import row_volume
from imgsynth.volumes.volume import Volume

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def read_image(
    path: Path, modality: str, unit: IntensityUnit = "a.u.", spacing: tuple[float, float] | None = None
) -> Volume:
    """Read a grayscale image of 8, 16 or 32 bits, upright (see ``row_volume``); the camera's EXIF rotation is applied.

    ``spacing`` is mm between columns, then rows (nominally 1 mm: the dots per inch of an image file say nothing of
    the patient). A colour image is read when its channels are equal and nothing is transparent.

    Raises InputError: unreadable or truncated, colour, several pages.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            pages = getattr(image, "n_frames", 1)
            if pages != 1:
                raise _fault(path, f"{pages} pages or frames", "one image", "split it into files")
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("P", "PA"):
                upright = upright.convert("RGBA")
            pixels = np.asarray(upright)
    except (UnidentifiedImageError, OSError, EOFError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _fault(path, f"an unreadable image ({error})", "PNG, JPEG or TIFF", "export it again") from error
    return row_volume(_gray(pixels, path), modality, unit, spacing, where=str(path))


def _gray(pixels: np.ndarray, path: Path) -> np.ndarray:
    """[H, W] from gray, gray+alpha, RGB or RGBA whose colours are equal and whose alpha is opaque."""
    if pixels.ndim == 2:
        return pixels
    opaque = {2: 255, 4: 255}.get(pixels.shape[2])
    if opaque is not None and (pixels[..., -1] != opaque).any():
        raise _fault(path, "transparent pixels", "an opaque image", "flatten it onto its background")
    gray = pixels[..., :1] if pixels.shape[2] == 2 else pixels[..., :3]
    if (gray != gray[..., :1]).any():
        raise _fault(path, "colours", "a grayscale image", "convert it to gray")
    return gray[..., 0]


def _fault(path: Path, got: str, expected: str, remedy: str) -> InputError:
    return InputError(Fault(str(path), got, expected, remedy))
