"""Are these images synthetic, by what they say and by their watermark? After conversion, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imgsynth import __version__, console
from imgsynth.release.recognise_read import Picture, pictures
from imgsynth.release.watermark import KEY
from imgsynth.release.watermark_search import NOTHING, Found, residual, search
from imgsynth.types import Fault, InputError

FORMAT = "imgsynth-recognise-1"
LEVEL = 1e-3  # p-value from which a watermark counts as found
LISTED = 12  # images of one path that have a line each
KEPT = 16  # images of a group that are searched for every scale one by one
STACK_VOXELS = 1 << 26  # of single images of one size that are tried as the planes of a volume


@dataclass(frozen=True)
class Seen:
    """One image: its marks in words, and what the search for the watermark came to (None: not searched)."""

    name: str
    kind: str
    marks: tuple[str, ...]
    watermark: Found | None
    note: str = ""

    @property
    def recognised(self) -> bool:
        return bool(self.marks) or (self.watermark is not None and self.watermark.p <= LEVEL)


@dataclass(frozen=True)
class Together:
    """Images of one kind and shape, judged as one: ``planes`` of a volume, or images of a cohort."""

    kind: str
    shape: tuple[int, ...]
    n: int
    planes: bool
    watermark: Found


@dataclass
class Recognised:
    """All that was seen at ``path``."""

    path: str
    images: list[Seen] = field(default_factory=list)
    groups: list[Together] = field(default_factory=list)

    @property
    def p(self) -> float:
        """Of there being no watermark in any image at ``path``; corrected for how many searches were made."""
        alone = [one.watermark.p for one in self.images if one.watermark is not None]
        joint = [group.watermark.p for group in self.groups]
        return min(1.0, 2 * min((min(ps) * len(ps) for ps in (alone, joint) if ps), default=1.0))

    @property
    def recognised(self) -> bool:
        return self.p <= LEVEL or any(one.marks for one in self.images)

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "recognised": self.recognised,
            "watermark_p": self.p,
            "images": [asdict(one) | {"recognised": one.recognised} for one in self.images],
            "groups": [asdict(group) for group in self.groups],
        }


class _Group:
    """Residuals of one shape, summed; the first few are kept."""

    def __init__(self) -> None:
        self.total: np.ndarray = np.zeros(0, np.float32)
        self.n = 0
        self.kept: list[tuple[int, np.ndarray]] = []
        self.planes: list[np.ndarray] = []

    def add(self, index: int, picture: np.ndarray, left: np.ndarray) -> None:
        self.total = self.total + left if self.n else left
        self.n += 1
        if len(self.kept) <= KEPT:
            self.kept.append((index, left))
        if picture.ndim == 2 and self.n * picture.size <= STACK_VOXELS:
            self.planes.append(picture.astype(np.float32))


def recognise(path: Path) -> Recognised:
    """Look at every image at ``path``. Raises InputError where there is nothing, or no image."""
    result = Recognised(str(path))
    groups: dict[tuple[str, str, tuple[int, ...]], _Group] = {}
    for picture in console.track(pictures(path), f"recognising {path.name}"):
        _look(picture, result, groups)
    if not result.images:
        raise InputError(
            Fault(str(path), "no image", "DICOM, NIfTI, PNG, JPEG, TIFF, npz, npy or Zarr", "another path")
        )
    for (_, kind, shape), group in groups.items():
        if len(group.kept) <= KEPT:
            _look_closer(group.kept, result)
        if group.n > 1:
            result.groups.append(Together(kind, shape, group.n, False, search(group.total)))
        if len(group.planes) == group.n >= min(shape) / 4 and group.n > 1:
            found = search(residual(np.stack(group.planes, axis=-1)))
            result.groups.append(Together(kind, shape, group.n, True, found))
    return result


def _look(picture: Picture, result: Recognised, groups: dict[tuple[str, str, tuple[int, ...]], _Group]) -> None:
    found = None
    if picture.array is not None:
        array = np.squeeze(picture.array)
        left = residual(array) if array.ndim in (2, 3) else np.zeros(0, np.float32)
        found = search(left, thorough=False)
        if found != NOTHING:
            key = _origin(picture), picture.kind, left.shape
            groups.setdefault(key, _Group()).add(len(result.images), array, left)
    result.images.append(Seen(picture.name, picture.kind, picture.marks, found, picture.note))


def _origin(picture: Picture) -> str:
    """What images of one group have in common beside their shape: planes of a volume lie in one folder or array."""
    if picture.kind == "image":
        return str(Path(picture.name).parent)
    return picture.name.rpartition("[")[0] if picture.kind in ("npz", "npy", "Zarr") else ""


def _look_closer(kept: Iterable[tuple[int, np.ndarray]], result: Recognised) -> None:
    """Search single images at every scale, where nothing was found without."""
    for index, left in kept:
        seen = result.images[index]
        assert seen.watermark is not None
        if seen.watermark.p > LEVEL:
            result.images[index] = Seen(seen.name, seen.kind, seen.marks, search(left), seen.note)


def to_json(found: Iterable[Recognised]) -> dict[str, Any]:
    paths = [one.to_json() for one in found]
    return {"format": FORMAT, "imgsynth": __version__, "key": KEY, "level": LEVEL, "paths": paths}


def print_recognised(found: Recognised) -> None:
    """What there is at one path: a line for each image, or, of many, how many bear which marks; then all together."""
    rows = [(_short(one.name, found.path), *_cells(one)) for one in found.images]
    if len(rows) > LISTED:
        rows = [
            (f"{n} images", *cells)
            for cells, n in Counter((*_cells(one)[:2], _known(one)) for one in found.images).items()
        ]
    console.table(found.path, ("image", "kind", "marks", "watermark"), rows)
    for group in found.groups:
        shape, how = "×".join(map(str, group.shape)), "as planes of a volume" if group.planes else "together"
        console.say(f"{group.n} {group.kind} images of {shape}, {how}: watermark {_said(group.watermark)}")
    by = [*sorted({mark for one in found.images for mark in one.marks}), *(["watermark"] if found.p <= LEVEL else [])]
    alone = sum(one.recognised for one in found.images)
    console.say(f"Synthetic, by: {'; '.join(by)}" if by else "Not recognised as synthetic: that does not make it real")
    console.say(f"{alone} of {len(found.images)} by themselves; a watermark anywhere here: p = {found.p:.2g}")


def _short(name: str, path: str) -> str:
    return name.removeprefix(path).lstrip("/") or Path(path).name


def _cells(one: Seen) -> tuple[str, str, str]:
    return one.kind, "; ".join(one.marks) or "none", _said(one.watermark) or one.note or "not looked for"


def _said(found: Found | None) -> str:
    if found is None:
        return ""
    if found == NOTHING:
        return found.how
    if found.p > LEVEL:
        return f"not found (p = {found.p:.2g})"
    scales = "" if set(found.scales) == {1.0} else " by " + "×".join(f"{scale:.3g}" for scale in found.scales)
    return f"found, {found.how}{scales} (p = {found.p:.2g})"


def _known(seen: Seen) -> str:
    if seen.watermark is None or seen.watermark == NOTHING:
        return _cells(seen)[2]
    return "found" if seen.watermark.p <= LEVEL else "not found"
