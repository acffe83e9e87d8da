"""Patient ids as written: the one form they are kept in, and ids that only look like two persons."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")


def clean_id(text: str) -> str:
    """Unicode NFKC (Unicode Standard Annex 15) without white space around it; "" where nothing is left."""
    return unicodedata.normalize("NFKC", text).strip()


def lookalikes(ids: Iterable[str]) -> list[list[str]]:
    """Groups of different ids that are equal without letter case, blanks, leading zeros and invisible characters.

    Spreadsheets drop the zeros of 007 and people type p1 for P1. Whether a group is one person is for the data's
    holder to say, so nothing is merged here.
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for one in ids:
        visible = "".join(letter for letter in one if unicodedata.category(letter) != "Cf" and not letter.isspace())
        groups[_LEADING_ZEROS.sub("", clean_id(visible.casefold()))].add(one)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)
