"""What a private run began with: weights that were trained on images which somebody declares to be public."""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST = 300  # characters of the declaration, which goes on the card


@dataclass(frozen=True)
class PublicStart:
    """The proof is about the patients whom the plan's own mechanism reads. Of the images that made these weights it
    says nothing: that they are public, and of none of those patients, is a declaration."""

    digest: str  # SHA-256 of the weights, in hexadecimal
    images: str  # whose images trained them, and why these are public, in the custodian's words

    def faults(self) -> list[tuple[bool, str, str, str, str]]:
        """(good, where, got, expected, remedy), as ``plan_faults`` lists them."""
        return [
            (re.fullmatch("[0-9a-f]{64}", self.digest) is not None, "plan, public weights", self.digest,
             "a SHA-256 in hexadecimal", "restore plan.json"),
            (is_declaration(self.images), "init.public", repr(self.images), DECLARATION,
             'init.public="radiographs of Example 2019, published under CC BY"'),
        ]  # fmt: skip


@dataclass(frozen=True)
class PublicImages:
    """Images, declared public, on which something was chosen. What depends on them alone costs no ε of patients."""

    digest: str  # SHA-256 of the cohort's content, in hexadecimal (its manifest's fingerprint)
    images: str  # whose they are, and why they are public, in the custodian's words

    def faults(self) -> list[tuple[bool, str, str, str, str]]:
        """As ``PublicStart.faults``."""
        return [
            (re.fullmatch("[0-9a-f]{64}", self.digest) is not None, "plan, public images", self.digest,
             "a SHA-256 in hexadecimal", "restore plan.json"),
            (is_declaration(self.images), "selection.public", repr(self.images), DECLARATION,
             'selection.public="radiographs of Example 2019, published under CC BY"'),
        ]  # fmt: skip


DECLARATION = f"in words, on one line of at most {LONGEST} characters, whose images those were and why they are public"


def is_declaration(text: str) -> bool:
    return bool(text.strip()) and text.isprintable() and len(text) <= LONGEST
