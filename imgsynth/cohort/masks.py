"""Segmentation masks: which structures are declared, and masks as channels beside the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from imgsynth.types import Fault, Structure

MOST = 255  # structures: a release numbers them in one byte
LONGEST = 64  # characters of a name: DICOM's Segment Label (0062,0005) is an LO
_KEYS = {"name", "value", "code"}
_EXAMPLE = "data.masks=[anterior,posterior]"


def structures_of(masks: Sequence[Any] | None) -> tuple[Structure, ...]:
    """What ``data.masks`` declares: names in the order of the values 1, 2, …, or entries {name, value, code}."""
    found = []
    for number, entry in enumerate(masks or (), 1):
        said = {"name": entry} if isinstance(entry, str) else entry
        code = tuple(str(part) for part in said["code"]) if said.get("code") else None
        found.append(Structure(said["name"], int(said.get("value", number)), code))  # type: ignore[arg-type]
    return tuple(found)


def declaration_faults(masks: Sequence[Any] | None) -> Iterator[Fault]:
    """Everything for which ``data.masks`` is no list of structures."""
    if masks is None:
        return
    if not 1 <= len(masks) <= MOST:
        yield Fault("data.masks", f"{len(masks)} structures", f"1 to {MOST}, or null: no masks", _EXAMPLE)
    wrong = [where_fault for index, entry in enumerate(masks) for where_fault in _entry_faults(index, entry)]
    yield from wrong
    if wrong:
        return
    structures = structures_of(masks)
    for what, given in (("name", [s.name for s in structures]), ("value", [s.value for s in structures])):
        if len(set(given)) < len(given):
            yield Fault("data.masks", f"{what}s {given}", f"a {what} of its own for each structure", _EXAMPLE)


def _entry_faults(index: int, entry: Any) -> Iterator[Fault]:
    where = f"data.masks[{index}]"
    said = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(said, dict) or not set(said) <= _KEYS or "name" not in said:
        yield Fault(where, repr(entry), "a name, or {name, value, code}", "{name: anterior, value: 1}")
        return
    name, value, code = said["name"], said.get("value", 1), said.get("code")
    if not (isinstance(name, str) and name.strip() == name and 1 <= len(name) <= LONGEST and name.isascii()
            and name.isprintable() and "\\" not in name):  # fmt: skip
        yield Fault(f"{where}.name", repr(name), f"1 to {LONGEST} printable ASCII characters, no backslash", _EXAMPLE)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        yield Fault(f"{where}.value", repr(value), "a whole number above 0, the background's", f"{where}.value=1")
    if code is not None and not (isinstance(code, list) and len(code) == 3 and all(str(part) for part in code)):
        yield Fault(f"{where}.code", repr(code), "[coding scheme, code value, meaning], all public",
                    'code: [SCT, "10200004", Liver], from a published list')  # fmt: skip


def present(labels: np.ndarray, structures: Sequence[Structure]) -> np.ndarray:
    """A mask of source values [*] as channels [m, *], float32: 1 inside a structure, -1 outside."""
    return np.stack([np.where(labels == s.value, 1, -1) for s in structures]).astype(np.float32)


def label_map(x_MC: np.ndarray) -> np.ndarray:
    """The mask that channels [m, *] in [-1, 1] stand for: uint8 [*], 0 background, k the k-th structure.

    A channel is 2 p - 1 of the probability that a voxel is in its structure; what is left to 1 is the background's.
    The most probable wins, the background where it is as probable as a structure.
    """
    p_MC = (np.asarray(x_MC, dtype=np.float32) + 1) / 2
    return np.concatenate([1 - p_MC.sum(0, keepdims=True), p_MC]).argmax(0).astype(np.uint8)
