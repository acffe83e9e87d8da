"""Text and faces in the images: what headers say, and what is read off the pixels. LOCAL ONLY."""

from __future__ import annotations

import re
import threading

from imgsynth.cohort.findings import Finding, finding
from imgsynth.cohort.findings_identity import Looked
from imgsynth.features.ocr import TextReader, planes
from imgsynth.types import InputError
from imgsynth.volumes.volume import Volume

SMALLEST = 48  # pixels of the shorter side, below which no text could be read
SURE = 0.7  # the recogniser's confidence in a line
_WORD = re.compile(r"[A-Za-z0-9]{4,}")  # side markers and scales (L, AP, 10) are no names


class Reader:
    """Reads text in one image at a time, whichever thread asks; its networks are loaded when the first is large enough.

    ``able`` is False once it is known that the package is not there.
    """

    def __init__(self) -> None:
        self.able = True
        self._lock = threading.Lock()
        self._reader: TextReader | None = None

    def read(self, volume: Volume) -> tuple[str, ...] | None:
        """Lines of text in the picture of an image's brightest voxels along its third axis; () where it is too small,
        None where text cannot be read here."""
        picture = planes(volume.array)[0] if volume.array.shape[2] > 1 else volume.array[:, :, 0].T
        if min(picture.shape) < SMALLEST:
            return ()
        with self._lock:
            try:
                self._reader = self._reader or TextReader()
            except InputError:
                self.able = False
                return None
            lines = self._reader.read(picture)
        return tuple(line.text for line in lines if line.confidence >= SURE and _WORD.search(line.text))


def visible_findings(looked: Looked, lines: dict[int, tuple[str, ...]], defaced: bool | None) -> list[Finding]:
    """``lines``: what was read in each image (by number) in which text was looked for; ``defaced``: data.defaced."""
    places = [(scan.names[0], look.facts) for scan, look in looked if not look.faults]
    read = [(looked[n][0].names[0], f"reads: {'; '.join(found[:3])}") for n, found in lines.items() if found]
    said = [(where, ", ".join(facts.text)) for where, facts in places if facts.text]
    faces = [(where, facts.head) for where, facts in places if facts.head and not (facts.defaced or defaced)]
    unread = len(places) - len(lines)
    return [
        *finding("text_in_pixels", read),
        *finding("text_by_header", said),
        *finding("face", faces),
        *([Finding("text_not_read", unread, (f"{unread} of {len(places)} images",))] if unread > 0 else []),
    ]
