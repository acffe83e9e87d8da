"""The random numbers of a release, each part from a stream of its own, so that no part depends on which came before."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

import numpy as np
import torch


def entropy() -> int:
    """A sampling seed from the operating system: 128 bits, which nobody guesses and no two releases share."""
    return secrets.randbits(128)


@dataclass(frozen=True)
class Streams:
    """All randomness of one release, from its sampling seed.

    ``seed`` is 0 or more. ``made_of`` says what the release is made of (weights, settings). Only UIDs depend on it:
    they name contents, and what differs must not share a name, whichever seed its maker chose.
    """

    seed: int
    made_of: str

    def labels(self) -> np.random.Generator:
        """For the labels of all patients."""
        return np.random.default_rng(self._number("labels"))

    def metadata(self) -> np.random.Generator:
        """For what else is said of all patients."""
        return np.random.default_rng(self._number("metadata"))

    def images(self, block: int) -> torch.Generator:
        """For the images of block number ``block``, on the CPU.

        torch's CPU generator uses 32 bits of its seed only. Two blocks of a large release would sooner or later draw
        the same ones, and be the same images; so the block's number is multiplied by an odd number and shifted, which
        gives 2³² blocks different seeds (a bijection modulo 2³²).
        """
        factor, shift = self._number("factor") | 1, self._number("shift")
        return torch.Generator().manual_seed((factor * block + shift) % 2**32)

    def uids(self, patient: int) -> np.random.Generator:
        """For the UIDs of synthetic patient number ``patient``."""
        return np.random.default_rng(self._number("uids", self.made_of, str(patient)))

    def _number(self, *what: str) -> int:
        """128 bits that follow from the seed and ``what``, and from nothing else (BLAKE2b, RFC 7693)."""
        text = "\0".join((str(self.seed), *what))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16, person=b"imgsynth sample").digest(), "big")
