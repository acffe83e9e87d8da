"""Text in pixels: read by RapidOCR (PaddleOCR's detector and recogniser under ONNX, weights inside the package).

An extra, ``pip install imgsynth[ocr]``, imported only when asked for. It reads print of some ten pixels' height and
more; handwriting and text on its side may escape it. What it does not read is not thereby absent.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import NamedTuple

import numpy as np

from imgsynth.types import Fault, InputError

PACKAGE = "rapidocr_onnxruntime"
BORDER = 16  # pixels of background around an image: the detector overlooks what touches the edge
SIMILAR = 0.2  # share of a string's characters that may be misread


class Text(NamedTuple):
    """A line that was read: what it says, the recogniser's confidence in [0, 1], and its centre (row, column)."""

    text: str
    confidence: float
    centre: tuple[float, float]


class TextReader:
    """Reads text off grey images. Raises InputError, saying how to install it, where the package cannot be used."""

    def __init__(self) -> None:
        try:
            engine = import_module(PACKAGE).RapidOCR
        except ImportError as error:  # the package, or a library of the system that its OpenCV needs
            raise InputError(
                Fault("text in pixels", str(error), "the package that reads text",
                      "pip install imgsynth[ocr] (Python below 3.13; on a bare Linux also libgl1)")
            ) from error  # fmt: skip
        self._engine = engine(intra_op_num_threads=1, inter_op_num_threads=1)

    def read(self, pixels: np.ndarray) -> list[Text]:
        """Lines of text in ``pixels`` [rows, columns], of any range: it is stretched to 256 grey levels first."""
        if pixels.ndim != 2:
            raise ValueError(f"Expected one grey image [rows, columns], got shape {pixels.shape}.")
        low, high = float(pixels.min()), float(pixels.max())
        if not high > low:
            return []
        grey = np.uint8(np.round((pixels.astype(np.float64) - low) / (high - low) * 255))
        framed = np.pad(grey, BORDER, constant_values=int(np.median(grey)))
        lines, _ = self._engine(np.repeat(framed[..., None], 3, axis=-1))
        found = []
        for corners, text, confidence in lines or ():
            column, row = np.mean(corners, axis=0) - BORDER
            found.append(Text(str(text), float(confidence), (float(row), float(column))))
        return found


def planes(image: np.ndarray) -> list[np.ndarray]:
    """The pictures of ``image`` [rows, columns] or [i, j, k] in which text is looked for.

    Of a volume, along each axis from the last on, the brightest voxel: text is written bright, in few slices. Columns
    come first in a volume of DICOM, so that its pictures are turned.
    """
    if image.ndim == 2:
        return [image]
    return [image.max(axis).T for axis in (2, 1, 0)]


def recovered(wanted: str, found: Iterable[str]) -> bool:
    """Whether ``wanted`` is in one of the lines, at most a fifth of its characters misread; case and spaces aside."""
    target = _plain(wanted)
    return bool(target) and any(
        misread(target, line) <= SIMILAR * len(target) for line in map(_plain, found) if _akin(target, line)
    )


def misread(wanted: str, line: str) -> int:
    """Least edits (insert, delete, replace) that turn ``wanted`` into some part of ``line`` (Sellers 1980)."""
    best = [0] * (len(line) + 1)
    for i, letter in enumerate(wanted, 1):
        row = [i]
        for j, other in enumerate(line, 1):
            row.append(min(best[j] + 1, row[j - 1] + 1, best[j - 1] + (letter != other)))
        best = row
    return min(best)


def _plain(text: str) -> str:
    return "".join(text.upper().split())


def _akin(wanted: str, line: str) -> bool:
    """A cheap condition for ``recovered``: one edit spoils two pairs of neighbouring characters at most."""
    pairs = [wanted[i : i + 2] for i in range(len(wanted) - 1)]
    return sum(pair not in line for pair in pairs) <= 2 * int(SIMILAR * len(wanted))
