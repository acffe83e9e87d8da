"""One part of an explanation: a picture, what it says in words, its numbers, a small table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from imgsynth.training.sheets import save_png


@dataclass
class Part:
    """``name`` is that of its files. ``numbers`` are JSON-able; ``rows`` are what a reader sees of them."""

    name: str
    title: str
    picture: Image.Image
    caption: str
    numbers: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()

    def written(self, folder: Path) -> dict[str, Any]:
        """Save the picture in ``folder``; the rest, JSON-able."""
        save_png(self.picture, folder / f"{self.name}.png")
        return {
            "name": self.name,
            "title": self.title,
            "picture": f"{self.name}.png",
            "caption": self.caption,
            "lines": self.lines,
            "head": list(self.head),
            "rows": [list(row) for row in self.rows],
            "numbers": self.numbers,
        }
