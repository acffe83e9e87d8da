"""Checkpoints: one file that appears whole, and that cannot execute anything when it is loaded."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from imgsynth.files import atomic_path
from imgsynth.types import Fault, InputError

FORMAT = 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> Path:
    """Write ``content`` (tensors, numbers, text, and lists and dicts of them) to ``path`` by one atomic rename.

    Raises OSError when the disk refuses; an older checkpoint stays as it was. The bytes are made in memory first,
    because torch's own file writer turns a full disk into a RuntimeError without errno.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    with atomic_path(path) as partial:
        partial.write_bytes(buffer.getbuffer())
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU with ``weights_only=True``: tensors and plain values, no code.

    Raises InputError when the file is not a checkpoint of this format.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = content["format"]
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise InputError(_fault(path, f"a file that does not load ({type(error).__name__})")) from error
    if found != FORMAT:
        raise InputError(_fault(path, f"format {found!r}"))
    return content


@contextmanager
def same_networks(path: Path) -> Iterator[None]:
    """Weights of the checkpoint at ``path`` are loaded inside. Raises InputError where they are of other layers than
    the networks have, as those of a run of an earlier version can be."""
    try:
        yield
    except RuntimeError as error:
        said, _, which = str(error).partition("\n\t")
        if not said.startswith("Error(s) in loading state_dict"):
            raise
        got = f"weights of other layers than the networks of this version of imgsynth have ({which.splitlines()[0]})"
        expected = "a run of a version with the same networks"
        remedy = "go on with the version that trained it, or train again into a new output folder"
        raise InputError(Fault(str(path), got, expected, remedy)) from error


def _fault(path: Path, got: str) -> Fault:
    return Fault(str(path), got, f"a checkpoint of format {FORMAT}", "train again into a new output folder")
