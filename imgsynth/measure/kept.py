"""Arrays that several runs would compute alike, kept in files by all that they depend on. Of patients: local."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from imgsynth.files import write_bytes


def kept(folder: Path | None, what: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """``compute()``, or what it came to when ``folder`` was first asked for ``what``; None keeps nothing."""
    if folder is None:
        return compute()
    path = folder / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.npy"
    if path.is_file():
        return np.load(path, allow_pickle=False)
    found, content = compute(), io.BytesIO()
    np.save(content, found, allow_pickle=False)
    write_bytes(path, content.getvalue())
    return found


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of their shapes, types and content."""
    said = hashlib.sha256()
    for array in arrays:
        said.update(f"{array.shape} {array.dtype} ".encode())
        said.update(np.ascontiguousarray(array).data)
    return said.hexdigest()
