"""What the index remembers of a file or a folder, as a line of JSON: the fields of ``Header``, an allow-list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgsynth.types import Fault
from imgsynth.volumes.dicom_header import Found, Header
from imgsynth.volumes.dicom_planes import Planes
from imgsynth.volumes.dicom_scan import known_uid
from imgsynth.volumes.dicom_series import DicomIndex, Series, Slice

_encode = json.JSONEncoder(separators=(",", ":")).encode


def text_from_found(found: Found) -> str:
    """One line; the path is left out, since the index has it already."""
    if found == Found():
        return ""
    return _encode([[_header(one) for one in found.headers], _faults(found.faults), found.listed])


def found_from_text(line: str, path: Path) -> Found:
    """The inverse of ``text_from_found``, for the file at ``path``."""
    if not line:
        return Found()
    headers, faults, listed = json.loads(line)
    return Found(tuple(_as_header(one, path) for one in headers), _as_faults(faults),
                 None if listed is None else tuple(listed))  # fmt: skip


def text_from_index(index: DicomIndex, root: Path) -> str:
    """A whole index of files under ``root`` as a line of JSON; each file's name is written once."""
    rows = []
    for one in index.series:
        number = {path: n for n, path in enumerate(one.files)}
        names = [path.relative_to(root).as_posix() for path in number]
        slices = [[number[part.path], part.frame] for part in one.slices]
        rows.append([one.uid, one.modality, one.shape, one.affine.tolist(), names, slices, one.meta,
                     _faults(one.faults)])  # fmt: skip
    passed = [path.relative_to(root).as_posix() for path in index.passed_over]
    return _encode([rows, _faults(index.faults), passed])


def index_from_text(line: str, root: Path) -> DicomIndex:
    """The inverse of ``text_from_index``."""
    rows, faults, passed = json.loads(line)
    found = []
    for uid, modality, (i, j, k), affine, names, slices, meta, remarks in rows:
        paths = _paths(root, names)
        parts = tuple(Slice(paths[n], frame) for n, frame in slices)
        found.append(Series(uid, modality, (i, j, k), np.array(affine), parts, meta, _as_faults(remarks)))
    return DicomIndex(found, list(_as_faults(faults)), tuple(root / name for name in passed))


def _paths(root: Path, names: Sequence[str]) -> list[Path]:
    """``root / name`` of each; a folder is parsed once, since paths are most of the work of an unchanged source."""
    folders: dict[str, Path] = {}
    found = []
    for name in names:
        folder, _, last = name.rpartition("/")
        found.append((folders.get(folder) or folders.setdefault(folder, root / folder)) / last)
    return found


def _header(header: Header) -> list[Any]:
    planes = header.planes
    places = None if planes.positions is None else planes.positions.tolist()
    lie = [planes.orientation.tolist(), planes.spacing.tolist(), places, planes.thickness, _faults(planes.remarks),
           planes.varies]  # fmt: skip
    return [header.sop_class, header.sop_instance, header.modality, header.image_type, header.rows, header.columns,
            lie, header.meta, header.frames]  # fmt: skip


def _as_header(entry: list[Any], path: Path) -> Header:
    sop_class, instance, modality, image_type, rows, columns, lie, meta, frames = entry
    orientation, spacing, places, thickness, remarks, varies = lie
    planes = Planes(np.array(orientation), np.array(spacing), None if places is None else np.array(places), thickness,
                    _as_faults(remarks), tuple(varies))  # fmt: skip
    return Header(path, known_uid(sop_class), instance, modality, tuple(image_type), rows, columns, planes, meta,
                  tuple(frames))  # fmt: skip


def _faults(faults: Sequence[Fault]) -> list[list[Any]]:
    return [[fault.where, fault.got, fault.expected, fault.remedy, fault.code, fault.files] for fault in faults]


def _as_faults(rows: list[list[Any]]) -> tuple[Fault, ...]:
    return tuple(Fault(where, got, expected, remedy, code, tuple(files))
                 for where, got, expected, remedy, code, files in rows)  # fmt: skip
