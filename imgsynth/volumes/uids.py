"""Unique identifiers of what does not exist: random numbers under a root, with nothing of any source in them."""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Callable

import numpy as np

NewUid = Callable[[], str]

UUID_ROOT = "2.25"  # under which everybody may use UUIDs without registering (PS3.5 B.2)
LONGEST = 64  # characters of a UID (PS3.5 9.1)
FEWEST_DIGITS = 24  # of the random part: a million UIDs then collide by a chance of 10⁻¹²
DICOM_ROOT = "1.2.840.10008"  # the standard's own (PS3.5 A)
UID_ROOT = f'numbers with dots, "1.2.3" say, of at most {LONGEST - FEWEST_DIGITS - 1} characters, registered to you'


def is_uid_root(root: str) -> bool:
    """Whether ``root`` is an object identifier (PS3.5 9.1, X.660) that leaves room for a random part.

    Components have no leading zeros, the first is 0, 1 or 2, and the second is below 40 after 0 and 1. The standard's
    own root is refused: what is under it has a meaning.
    """
    if not re.fullmatch(r"[012](\.(0|[1-9][0-9]*))+", root) or len(root) > LONGEST - FEWEST_DIGITS - 1:
        return False
    first, second = root.split(".")[:2]
    if f"{root}.".startswith((f"{DICOM_ROOT}.", f"{UUID_ROOT}.")):
        return root == UUID_ROOT  # a UUID follows 2.25 and nothing else does
    return first == "2" or int(second) < 40


class RandomUids:
    """Every call returns another UID under ``root``, drawn from ``random``.

    Under 2.25 it is a random UUID, under other roots a number of as many digits as there is room for, 39 at most.
    ``random`` is all that it depends on: the same generator gives the same UIDs, in the order of calls. None takes
    one that is seeded by the operating system's entropy. Raises ValueError for a root that ``is_uid_root`` refuses.
    """

    def __init__(self, root: str = UUID_ROOT, random: np.random.Generator | None = None) -> None:
        if not is_uid_root(root):
            raise ValueError(f"Expected a root of UIDs: {UID_ROOT}; got {root!r}.")
        self.root = root
        self.random = np.random.default_rng(secrets.randbits(128)) if random is None else random

    def __call__(self) -> str:
        if self.root == UUID_ROOT:
            return f"{UUID_ROOT}.{uuid.UUID(bytes=self.random.bytes(16), version=4).int}"
        digits = min(39, LONGEST - len(self.root) - 1)
        below = 9 * 10 ** (digits - 1)
        return f"{self.root}.{10 ** (digits - 1) + int.from_bytes(self.random.bytes(32), 'big') % below}"
