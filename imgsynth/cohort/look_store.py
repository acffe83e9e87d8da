"""Looks kept from one inspection to the next, by the digest of the image's content. LOCAL ONLY."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import imgsynth
from imgsynth.cohort.look import Look
from imgsynth.cohort.look_header import Facts
from imgsynth.files import write_text

Lines = tuple[str, ...] | None


class LookStore:
    """A file of JSON lines; without a file, nothing is kept. Looks of another version of imgsynth are not used."""

    def __init__(self, path: Path | None):
        self._path = path
        self._old: dict[str, tuple[Look, Lines]] = {}
        self._new: dict[str, tuple[Look, Lines]] = {}
        if path is not None and path.is_file():
            header, *rows = path.read_text(encoding="utf-8").splitlines() or [""]
            if header == _header():
                self._old = {key: _restored(*rest) for key, *rest in map(json.loads, rows)}

    def get(self, key: str) -> tuple[Look | None, Lines]:
        return self._old.get(key, (None, None))

    def put(self, key: str, look: Look, lines: Lines) -> None:
        """Keep a look; that an image cannot be read is not kept."""
        if not look.faults:
            self._new[key] = look, lines

    def save(self) -> None:
        """Write all that was kept, also of images that are gone: they may come back."""
        if self._path is None or not self._new:
            return
        every = self._old | self._new
        rows = [json.dumps([key, dataclasses.asdict(look), lines]) for key, (look, lines) in every.items()]
        write_text(self._path, "\n".join([_header(), *rows]) + "\n")


def _header() -> str:
    return f"imgsynth {imgsynth.__version__} looks 1, LOCAL ONLY"


def _restored(look: dict[str, Any], lines: list[str] | None) -> tuple[Look, Lines]:
    facts = Facts(**_tuples(look.pop("facts")))
    return Look(**_tuples(look), facts=facts), None if lines is None else tuple(lines)


def _tuples(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
