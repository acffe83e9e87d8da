"""What a release may say because it was known before any patient: the program's text, and what the user declared."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import torch
from pydicom import datadict, uid

from imgsynth import __version__
from imgsynth.schema import Config

# Settings that describe the source rather than the release: their text is looked for like any other of the source.
OF_THE_SOURCE = ("output", "data.root", "data.cohort", "data.issuer", "data.table", "data.pattern", "privacy.ledger",
                 "preprocess.extra")  # fmt: skip


def declared(config: Config) -> set[str]:
    """Every string of the configuration but those OF_THE_SOURCE: class names, modality, the model's name."""
    found: set[str] = set()

    def walk(value: Any, path: str) -> None:
        if path in OF_THE_SOURCE:
            return
        if isinstance(value, dict):
            for key, one in value.items():
                walk(one, f"{path}.{key}" if path else key)
        elif isinstance(value, list):
            for one in value:
                walk(one, path)
        elif isinstance(value, str):
            found.add(value)

    walk(dataclasses.asdict(config), "")
    return found


def program_text() -> Iterator[bytes]:
    """imgsynth's own files, the DICOM dictionary, and what torch writes into any file."""
    package = Path(__file__).parents[2]
    yield from _files(package)
    if not (package / "configs").is_dir():  # a clone has them beside the package, a wheel inside
        yield from _files(package.parent / "configs")
    words = [f"{entry[2]} {entry[4]}" for entry in datadict.DicomDictionary.values()]
    words += [f"{name} {' '.join(map(str, entry))}" for name, entry in uid.UID_dictionary.items()]
    words += [str(uid.PYDICOM_IMPLEMENTATION_UID), f"PYDICOM {pydicom.__version__}", __version__]
    yield "\n".join(words).encode()
    blank = io.BytesIO()
    torch.save({"state": torch.nn.Linear(1, 1).state_dict()}, blank)
    yield blank.getvalue()


def _files(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".j2", ".yaml", ".css") and path.is_file():
            yield path.read_bytes()
