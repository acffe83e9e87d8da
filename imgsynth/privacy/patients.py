"""Who a mechanism read, kept so that the same patients are known again and no id can be read off the ledger.

The ledger holds HMAC-SHA256 (RFC 2104), cut to 16 bytes, of every id under a secret key that lies beside it, readable
by its owner alone. Without the key, ids cannot even be tried one after the other; so the key stays with the ledger, and
neither ever leaves the house.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from imgsynth.privacy.chain import Broken
from imgsynth.types import Fault, Unit

WIDTH = 16  # bytes of a hash that are kept: two of a billion patients collide with probability below 1e-20
_KEY = 32  # bytes


@dataclass(frozen=True)
class Patients:
    """The patients (or cases, or images) of the training split."""

    ids: frozenset[str]  # as the source has them; with unit "image", SHA-256 digests of the images' content
    issuer: str | None = None  # who gave out the ids, DICOM's Issuer of Patient ID (0010,0021); None: not known


def normal(text: str) -> str:
    """One form of an id or an issuer: Unicode NFC, no letter case, no white space around it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).strip().casefold())


def hashes(key: bytes, unit: Unit, patients: Patients) -> frozenset[bytes]:
    """Each id's keyed hash. The issuer is not in it, as ids of an unknown issuer may be anybody's (``overlap.py``)."""
    ids = {normal(one) for one in patients.ids}
    return frozenset(hmac.digest(key, json.dumps([unit, one]).encode(), "sha256")[:WIDTH] for one in ids)


def pack(members: frozenset[bytes]) -> bytes:
    return b"".join(sorted(members))


def unpack(packed: bytes) -> frozenset[bytes]:
    return frozenset(packed[i : i + WIDTH] for i in range(0, len(packed), WIDTH))


def digest(packed: bytes) -> str:
    """The name of a set of patients: equal for equal sets only."""
    return hashlib.sha256(packed).hexdigest()


def key_check(key: bytes) -> str:
    """Tells keys apart without telling the key."""
    return hmac.digest(key, b"imgsynth ledger key", "sha256")[:8].hex()


def load_key(path: Path, used: str | None) -> bytes:
    """The ledger's key, made now where the ledger has never used one; ``used`` is the ``key_check`` of the one it uses.

    Raises Broken where the key is lost or is another one: whose data earlier runs read could no longer be told.
    """
    if used is None and not path.exists():
        _make_key(path)
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = b""
    if len(key) != _KEY or used not in (None, key_check(key)):
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


def _make_key(path: Path) -> None:
    """Whole or not at all, readable by its owner alone; of several processes at once, one makes it for all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            handle.write(secrets.token_bytes(_KEY))
            handle.flush()
            os.fsync(handle.fileno())
        try:
            path.hardlink_to(partial)  # fails where there is one already, which a rename would not
        except FileExistsError:
            return
    finally:
        partial.unlink(missing_ok=True)
