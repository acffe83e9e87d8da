"""Who a mechanism read, kept so that the same patients are known again and no id can be read off the ledger.

The ledger holds keyed hashes (``imgsynth.keyed``) of ids; ledger and key never leave the house.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from imgsynth.keyed import KEY_WIDTH, WIDTH, key_check, keyed, make_key, normal
from imgsynth.privacy.chain import Broken
from imgsynth.types import Fault, Unit


@dataclass(frozen=True)
class Patients:
    """The patients (or cases, or images) of the training split."""

    ids: frozenset[str]  # as the source has them, or hashed; with unit "image", SHA-256 digests of the images' content
    issuer: str | None = None  # who gave out the ids, DICOM's Issuer of Patient ID (0010,0021); None: not known
    hashed: str = ""  # ``key_check`` of the key that the ids are hashed with already, in hexadecimal; "": they are not


def hashes(key: bytes, unit: Unit, patients: Patients) -> frozenset[bytes]:
    """Each id's keyed hash. The issuer is not in it, as ids of an unknown issuer may be anybody's (``overlap.py``).

    Raises Broken for ids that are hashed with another key: nothing can tell whether they are known.
    """
    if not patients.hashed:
        return frozenset(keyed(key, unit, normal(one)) for one in patients.ids)
    if patients.hashed != key_check(key):
        raise Broken(
            Fault(
                where="ledger key",
                got="another key than the one that the manifest's ids are hashed with",
                expected="the ledger that the run was begun with",
                remedy="set privacy.ledger or $IMGSYNTH_LEDGER to it, or train into a new output=DIR",
            )
        )
    return frozenset(bytes.fromhex(one) for one in patients.ids)


def pack(members: frozenset[bytes]) -> bytes:
    return b"".join(sorted(members))


def unpack(packed: bytes) -> frozenset[bytes]:
    return frozenset(packed[i : i + WIDTH] for i in range(0, len(packed), WIDTH))


def digest(packed: bytes) -> str:
    """The name of a set of patients: equal for equal sets only."""
    return hashlib.sha256(packed).hexdigest()


def load_key(path: Path, used: str | None) -> bytes:
    """The ledger's key, made now where the ledger has never used one; ``used`` is the ``key_check`` of the one it uses.

    Raises Broken where the key is lost or is another one: whose data earlier runs read could no longer be told.
    """
    if used is None and not path.exists():
        make_key(path)
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = b""
    if len(key) != KEY_WIDTH or used not in (None, key_check(key)):
        raise Broken(
            Fault(
                where=f"ledger key {path}",
                got="another key than the one this ledger was written with" if key else "no such file",
                expected="the secret key under which the ledger knows its patients",
                remedy="restore it from the ledger's back-up. If it is lost for good, start a new ledger "
                "(privacy.ledger=FOLDER) only for patients of whom no run in this one has read: nothing can tell them",
            )
        )
    return key
