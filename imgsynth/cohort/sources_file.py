"""Where in the source each image of a manifest is: the one file of a run that names the source's files. LOCAL ONLY."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imgsynth.files import atomic_path, read_json
from imgsynth.types import Fault, InputError

FORMAT = "imgsynth-files-1"


@dataclass(frozen=True)
class Source:
    """Files of one image and of the segmentation beside it, relative to the root; in an npz, the name of the array."""

    files: tuple[str, ...]
    array: str | None = None
    mask: str | None = None


def write_sources(path: Path, fingerprint: str, root: str, sources: Sequence[Source]) -> None:
    """Write the ``sources`` of a manifest's items, in their order; whole or not at all, for its owner alone to read."""
    images = [dataclasses.asdict(source) for source in sources]
    value = {"format": FORMAT, "local_only": True, "fingerprint": fingerprint, "root": root, "images": images}
    with atomic_path(path) as partial:
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_sources(path: Path, fingerprint: str, count: int) -> tuple[str, list[Source]]:
    """(root, the sources of the ``count`` items of the manifest with ``fingerprint``). Raises InputError without."""
    value = read_json(path) if path.is_file() else {}
    if value.get("fingerprint") != fingerprint or len(value["images"]) != count:
        raise InputError(
            Fault(
                str(path),
                "the files of another cohort" if value else "no such file",
                "the names of the source's files, as the run wrote them",
                "restore it; without it the images that the run was begun with cannot be found",
            )
        )
    return value["root"], [Source(tuple(entry["files"]), entry["array"], entry["mask"]) for entry in value["images"]]
