"""Which strings of the source are looked for, in which spellings; which are too short or public to mean anything."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from urllib.parse import quote

from imgsynth.audit.leakage.matcher import SHORTEST, Matcher
from imgsynth.audit.leakage.names import ID, NAME, names_nobody, touched, written

PIECE = 24  # characters: a longer text is sought by its pieces too, because headers cut what is too long for them
STANDARD_UIDS = "1.2.840.10008."  # DICOM's own registry (PS3.6 A)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]\d{1,3})?")
DATE = re.compile(r"(19|20)\d\d[01]\d[0-3]\d")


class Sought:
    """Strings of the source with where each was first seen. ``left_out`` counts, by rule, those that are not sought.

    Rules: fewer than six characters ("too short": they turn up by chance); numbers, but for whole ones of six digits
    and more without leading zeros ("numbers": sizes, positions, times of day); DICOM's own UIDs ("standard UIDs"); what
    the configuration declares ("declared"); words in a name's place that name nobody ("placeholders"); after
    ``leave_out_public``, whole words of the program's own text ("program"), but never names and ids of persons.

    ``names`` are those that are persons' names; ``whole`` those that count only where no letter touches them: names,
    and what is part of a longer word in the program's text.
    """

    def __init__(self, declared: Iterable[str] = ()):
        self.declared = {text.strip().casefold() for text in declared}
        self.origin: dict[str, str] = {}
        self.left_out: dict[str, set[str]] = {}
        self.names: set[str] = set()
        self.ids: set[str] = set()
        self.whole: set[str] = set()

    def add(self, text: str, origin: str) -> None:
        """One value, as it stands in the source; ``origin`` says where, and holds nothing of the value."""
        text = text.strip(" \0\t\r\n")
        if not text:
            return
        name = origin.endswith(NAME)
        rule = "placeholders" if name and names_nobody(text) else self._rule(text)
        if rule is None and origin.endswith(ID):
            self.ids.add(text)
        if rule is None and name:
            self.names.add(text)
            self.whole.add(text)
        if text in self.origin:
            return
        if rule is not None:
            self.left_out.setdefault(rule, set()).add(text)
            return
        self.origin[text] = origin
        if len(text) > PIECE:
            pieces = (text[start : start + PIECE].strip() for start in range(0, len(text) - PIECE + 1, PIECE))
            for piece in pieces:
                if self._rule(piece) is None:
                    self.origin.setdefault(piece, f"{origin}, a part")

    def _rule(self, text: str) -> str | None:
        if text.startswith(STANDARD_UIDS):
            return "standard UIDs"
        if text.casefold() in self.declared:
            return "declared"
        if is_number(text):
            return None if text.isdigit() and len(text.lstrip("0")) >= SHORTEST else "numbers"
        return "too short" if len(text) < SHORTEST else None

    def leave_out_public(self, program: Iterable[bytes]) -> None:
        """Strike what is a word of the program's own text: it was there before any patient. Not names, nor ids."""
        texts = [text for text in self.origin if text not in self.names and text not in self.ids]
        spelled = {text: text.encode().lower() for text in texts}
        matcher = Matcher(sorted({value for value in spelled.values() if len(value) >= SHORTEST}))
        inside: set[bytes] = set()
        known: set[bytes] = set()
        for data in program:
            for start, index in matcher.find(data):
                pattern = matcher.patterns[index]
                (inside if touched(data, start, len(pattern)) else known).add(pattern)
        for text in texts:
            if spelled[text] in known:
                del self.origin[text]
                self.left_out.setdefault("program", set()).add(text)
            elif spelled[text] in inside:
                self.whole.add(text)

    def counts(self) -> dict[str, int]:
        return {rule: len(texts) for rule, texts in sorted(self.left_out.items())}

    def spellings(self) -> dict[bytes, str]:
        """Bytes to look for, in lower case, and the string that each stands for."""
        found = {form: text for text in self.names & self.origin.keys() for way in written(text) for form in forms(way)}
        return found | {form: text for text in self.origin for form in forms(text)}


def is_number(text: str) -> bool:
    """A decimal as headers write it. "12E345" is none: it could be an id."""
    return _NUMBER.fullmatch(text) is not None


def forms(text: str) -> Iterator[bytes]:
    """UTF-8, Latin-1, UTF-16 and UTF-32 in either byte order; as JSON, HTML and URLs escape it; a date with hyphens.

    The matcher knows the case of ASCII letters alone. Text with others comes as it is, in capitals, in small letters
    and with capital initials, each with accents composed and apart (NFC and NFD).
    The encodings of ASCII in two and four bytes differ between byte orders only in where the zeros begin, so that one
    pattern without the outer zeros is in both.
    """
    if not text.isascii():
        cases = {text, text.lower(), text.upper(), text.title(), text.casefold()}
        for one in {unicodedata.normalize(kind, case) for case in cases for kind in ("NFC", "NFD")} | cases:
            yield from _encoded(one)
    else:
        yield from _encoded(text)


def _encoded(text: str) -> Iterator[bytes]:
    spelled = {text, json.dumps(text)[1:-1], html.escape(text), quote(text), text.replace("^", " ")}
    if DATE.fullmatch(text):
        spelled.add(f"{text[:4]}-{text[4:6]}-{text[6:]}")
    found = {one.encode("utf-8") for one in spelled}
    for encoding in ("utf-16-le", "utf-32-le") if text.isascii() else ("utf-16-le", "utf-16-be", "utf-32-le"):
        found.add(text.encode(encoding).rstrip(b"\0") if text.isascii() else text.encode(encoding))
    if not text.isascii() and all(ord(letter) < 256 for letter in text):
        found.add(text.encode("latin-1"))
    yield from (form.lower() for form in found if len(form) >= SHORTEST)


def stands_alone(data: bytes, start: int, length: int) -> bool:
    """Whether digits at ``start`` are a number of their own: no letter or digit beside them, and no fraction's."""
    before, after = data[max(start - 2, 0) : start], data[start + length : start + length + 1]
    fraction = before[-1:] == b"." and before[:1].isdigit()
    return not (before[-1:].isalnum() or after.isalnum() or fraction)
