"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the block ends well, flush it to disk and rename it into place.

    When the block raises (disk full, killed by a signal that Python sees), the temporary file is removed and an
    older ``path`` stays as it was. Not ``durable``: nothing is flushed; what is written is then the
    caller's to bring to disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        if durable:
            with partial.open("rb+") as handle:
                os.fsync(handle.fileno())
            rename(partial, path)
        else:
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def rename(path: Path, to: Path) -> None:
    """Put ``path``, whose content is on disk, in the place of ``to``, on disk for good when this returns."""
    path.replace(to)
    _sync_directory(to.parent)


def write_text(path: Path, text: str, durable: bool = True) -> Path:
    with atomic_path(path, durable) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def write_bytes(path: Path, content: bytes) -> Path:
    """Write the file whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)
    return path


def write_json(path: Path, value: Any, durable: bool = True) -> Path:
    """Write strict JSON: a NaN or an infinity is a bug of the caller, not a token that other readers refuse."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", durable)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _sync_directory(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut (POSIX only; elsewhere a directory cannot be opened)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
