"""The user's cache: what may be thrown away at any time, and is private all the same."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def cache_folder(kind: str, source: Path) -> Path:
    """A folder for what is kept of ``source``, named after its path: ~/.cache/imgsynth/<kind>/<hash>.

    Never in the source itself, which may be read-only and is not ours. XDG_CACHE_HOME puts it elsewhere.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(source.absolute())).hexdigest()[:32]
    return cache / "imgsynth" / kind / name
