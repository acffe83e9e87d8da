"""Enhanced CT and MR: the frames of one file as stacks, from their functional groups (PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from imgsynth.types import Fault
from imgsynth.volumes.dicom_element import element, items, refuse, tag_of, text, value, whole, words
from imgsynth.volumes.dicom_planes import Planes, frame_plane, functional_group, shared_groups

_FRAME_TYPES = ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence")
# A dimension of these only says where a frame lies, which its position says better.
_OF_SPACE = tuple(map(tag_of, ("StackID", "InStackPositionNumber", "ImagePositionPatient", "ImageOrientationPatient",
                               "TemporalPositionIndex")))  # fmt: skip


@dataclass(frozen=True, eq=False)
class FrameStack:
    """Frames of one file that are parallel, of one stack, time point and frame type; ``frames`` are their numbers,
    from 0, in the order of ``planes.positions``."""

    planes: Planes
    frames: tuple[int, ...]
    image_type: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Frame:
    plane: Planes
    names: tuple[str, str, tuple[str, ...]]  # Stack ID, Temporal Position Index, Frame Type
    indices: tuple[int, ...]  # Dimension Index Values


def enhanced_stacks(dataset: Dataset, image_type: tuple[str, ...], path: Path) -> list[FrameStack]:
    """The frames of an enhanced image, split by orientation, pixel size, stack, time point and frame type.

    Where frames of a stack differ in more than that (echo, diffusion weight), its planes say in what
    (``Planes.varies``), so that the index can refuse it by name. Raises InputError, naming file and tag, where frames
    have no geometry.
    """
    frames = _frames(dataset, path)
    alike: dict[tuple, list[list[int]]] = {}
    for number, frame in enumerate(frames):
        parallel = alike.setdefault(frame.names, [])
        mine = next((group for group in parallel if _same_plane(frame.plane, frames[group[0]].plane)), None)
        if mine is None:
            parallel.append([number])
        else:
            mine.append(number)
    groups = [group for parallel in alike.values() for group in parallel]
    dimensions = _dimensions(dataset, path)
    stacks = [_stack([frames[n] for n in group], tuple(group), dimensions, image_type) for group in groups]
    if len(stacks) > 1:
        remark = Fault(str(path), f"frames of {len(stacks)} stacks, time points or frame types", "one stack in a file",
                       "nothing: each is taken as an image of its own", "several_stacks")  # fmt: skip
        stacks[0] = replace(stacks[0], planes=replace(stacks[0].planes, remarks=(remark,)))
    return stacks


def _frames(dataset: Dataset, path: Path) -> list[_Frame]:
    per_frame = items(dataset, "PerFrameFunctionalGroupsSequence", path)
    count = whole(dataset, "NumberOfFrames", path) or 1
    if len(per_frame) != count:
        refuse(path, "PerFrameFunctionalGroupsSequence", f"{len(per_frame)} items", f"one for each of {count} frames",
               "export the series again with its geometry", "no_geometry")  # fmt: skip
    shared = shared_groups(dataset, path)
    return [_frame(group, shared, path) for group in per_frame]


def _frame(group: Dataset, shared: Dataset, path: Path) -> _Frame:
    def macro(name: str) -> Dataset:
        return functional_group(group, shared, name, path)

    plane = frame_plane(macro("PlaneOrientationSequence"), macro("PixelMeasuresSequence"),
                        macro("PlanePositionSequence"), path)  # fmt: skip
    content = macro("FrameContentSequence")
    kinds = [words(macro(name), "FrameType", path) for name in _FRAME_TYPES]
    names = (text(content, "StackID", path), text(content, "TemporalPositionIndex", path), kinds[0] or kinds[1])
    indices = value(content, "DimensionIndexValues", path)
    listed = () if indices is None else tuple(int(n) for n in np.atleast_1d(np.asarray(indices, dtype=float)))
    return _Frame(plane, names, listed)


def _same_plane(plane: Planes, first: Planes) -> bool:
    turned = float(np.abs(plane.orientation - first.orientation).max())
    resized = float(np.abs(plane.spacing / first.spacing - 1).max())
    return turned < 1e-3 and resized < 1e-3


def _stack(
    frames: Sequence[_Frame], numbers: tuple[int, ...], dimensions: Sequence[str | None], image_type: tuple[str, ...]
) -> FrameStack:
    first = frames[0]
    positions = np.concatenate([frame.plane.positions for frame in frames if frame.plane.positions is not None])
    varies = tuple(
        name
        for n, name in enumerate(dimensions)
        if name and len({frame.indices[n] for frame in frames if len(frame.indices) > n}) > 1
    )
    planes = replace(first.plane, positions=positions, varies=varies)
    return FrameStack(planes, numbers, first.names[2] or image_type)


def _dimensions(dataset: Dataset, path: Path) -> list[str | None]:
    """The dimensions that frames are counted along, in words; None for those of space (PS3.3 C.7.6.17)."""
    found: list[str | None] = []
    for item in items(dataset, "DimensionIndexSequence", path):
        pointer = value(item, "DimensionIndexPointer", path)
        tag = pointer if isinstance(pointer, int) else 0
        keyword = keyword_for_tag(tag)
        named = element(keyword) if keyword else f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
        found.append(None if tag in _OF_SPACE else named)
    return found
