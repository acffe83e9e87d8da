"""Each image looked at once, for the preflight: what its pixels and its headers say. LOCAL ONLY."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from imgsynth.cohort.build_scan import Scan
from imgsynth.cohort.findings import below
from imgsynth.cohort.load import read_file, read_row, series_of
from imgsynth.cohort.look_header import Facts, header_facts, without_header
from imgsynth.types import Fault, InputError
from imgsynth.volumes.dicom_pixels import CT_FLOOR
from imgsynth.volumes.dicom_read import read_stack, without_padding
from imgsynth.volumes.volume import Volume

EMPTY = 0.99  # share of voxels of one value from which an image or a slice counts as empty
THUMBNAIL = 72  # pixels of the longest side of each plane
SAMPLE = 250_000  # voxels of which percentiles are taken
POINTS = (0.0, 0.5, 50.0, 99.5, 100.0)


@dataclass(frozen=True)
class Look:
    """What one image is like. ``faults``: why it cannot be read; then all else is empty.

    ``pixels`` is a hash of the intensities on canonical (RAS+) axes, so that a copy in another compression or storage
    order has the same; ``slices`` are hashes of the planes across the stored third axis, those left out that are
    empty. ``points`` are the intensities at the percentiles POINTS, ``commonest`` the share of voxels that have the
    most frequent value, ``padded`` that of padding, ``blank`` counts empty planes between others. ``thumbnail`` is a
    PNG in base64.
    """

    faults: tuple[Fault, ...] = ()
    pixels: str = ""
    slices: tuple[str, ...] = ()
    blank: int = 0
    unit: str = ""
    points: tuple[float, ...] = ()
    commonest: float = 0.0
    padded: float = 0.0
    thumbnail: str = ""
    facts: Facts = field(default_factory=Facts)

    @property
    def empty(self) -> bool:
        """Whether there is nothing in the image."""
        return not self.faults and self.commonest >= EMPTY


def look_at(root: Path, scan: Scan) -> tuple[Look, Volume | None]:
    """Read one image; its volume comes along, for text to be looked for in."""
    try:
        volume, padded = _read(root, scan)
        facts = header_facts([root / name for name in scan.files], scan) if scan.affine else without_header(scan)
    except InputError as error:
        return Look(tuple(_kept(fault, root) for fault in error.faults)), None
    array = volume.array
    canonical = nib.orientations.apply_orientation(array, nib.io_orientation(volume.affine))
    axis = int(nib.io_orientation(volume.affine)[2, 0])
    planes = np.moveaxis(canonical, axis, 0)
    solid = [n for n, plane in enumerate(planes) if _commonest(plane) < EMPTY]
    hashes = [_hash(plane) for plane in planes]
    points = (float(array.min()), *np.percentile(_some(array), POINTS[1:-1]).tolist(), float(array.max()))
    look = Look(
        pixels=hashlib.sha256(" ".join([str(axis), *hashes]).encode()).hexdigest(),
        slices=tuple(hashes[n][:16] for n in solid) if len(planes) > 1 else (),
        blank=solid[-1] - solid[0] + 1 - len(solid) if solid else 0,
        unit=volume.unit,
        points=points,
        commonest=_commonest(array),
        padded=padded,
        thumbnail=_thumbnail(canonical, _ras_spacing(volume), points),
        facts=facts,
    )
    return look, volume


_MISSING = ("", "unreadable", "truncated", "broken_header", "absurd_size", "no_pixels")  # of files that are left out


def _kept(fault: Fault, root: Path) -> Fault:
    """The fault of an image that stays in the cohort: nothing is left out because of it, and training would stop."""
    code = "broken_pixels" if fault.code in _MISSING else fault.code
    return replace(fault, where=below(fault.where, str(root)), code=code, files=())


def _read(root: Path, scan: Scan) -> tuple[Volume, float]:
    """The volume as training would see it, and the share of its voxels that was padding."""
    if scan.array is not None and scan.row is not None:
        return read_row(root / scan.files[0], scan.array, scan.row, scan.modality or ""), 0.0
    if not scan.affine:
        return read_file(root / scan.files[0], scan.modality or ""), 0.0
    series = series_of(root, scan)
    array, unit = read_stack(series)
    padding = np.isnan(array)
    if unit == "HU":
        padding |= array < CT_FLOOR
    array = without_padding(array, unit)
    return Volume(array, series.affine, series.modality, unit), float(padding.mean())


def _hash(array: np.ndarray) -> str:
    """Of shape and values, whatever type and memory order they have (-0 is 0)."""
    values = np.ascontiguousarray(array, dtype=np.float32) + np.float32(0)
    return hashlib.sha256(f"{array.shape}".encode() + values.tobytes()).hexdigest()


def _commonest(array: np.ndarray) -> float:
    """The share of the value that more than half of the voxels have (then it is the median), or less than a half."""
    return float((array == np.median(_some(array))).mean())


def _some(array: np.ndarray) -> np.ndarray:
    """At most about SAMPLE voxels, evenly spread: percentiles of all would take longer than to read them."""
    return array.ravel()[:: max(1, array.size // SAMPLE)]


def _ras_spacing(volume: Volume) -> Sequence[float]:
    spacing = [1.0, 1.0, 1.0]
    for axis, (target, _) in enumerate(nib.io_orientation(volume.affine)):
        spacing[int(target)] = volume.spacing[axis]
    return spacing


def _thumbnail(ras: np.ndarray, mm: Sequence[float], points: Sequence[float]) -> str:
    """The middle planes side by side as radiologists hang them; of one plane that alone."""
    i, j, k = (size // 2 for size in ras.shape)
    views = [(ras[::-1, ::-1, k].T, mm[1], mm[0]), (ras[::-1, j, ::-1].T, mm[2], mm[0]),
             (ras[i, ::-1, ::-1].T, mm[2], mm[1])]  # fmt: skip
    if 1 in ras.shape:
        views = [views[2 - ras.shape.index(1)]]
    low, high = points[1], points[3]
    panels = [_panel(pixels, row, column, low, high) for pixels, row, column in views]
    paper = Image.new("L", (sum(p.width + 2 for p in panels) - 2, max(p.height for p in panels)))
    x = 0
    for panel in panels:
        paper.paste(panel, (x, (paper.height - panel.height) // 2))
        x += panel.width + 2
    buffer = io.BytesIO()
    paper.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _panel(pixels: np.ndarray, mm_row: float, mm_column: float, low: float, high: float) -> Image.Image:
    grey = np.uint8(np.clip((pixels.astype(np.float64) - low) / ((high - low) or 1.0), 0, 1) * 255)
    height, width = pixels.shape[0] * mm_row, pixels.shape[1] * mm_column
    scale = THUMBNAIL / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR)
