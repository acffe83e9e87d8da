"""Keyed hashes of ids, by which patients are known again without being named, and the secret key they are made with.

HMAC-SHA256 (RFC 2104), cut to 16 bytes, of an id under a secret key that lies beside the privacy ledger, readable by
its owner alone. Without the key, ids cannot even be tried one after the other; so the key stays outside every run.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import unicodedata
from pathlib import Path

WIDTH = 16  # bytes of a hash that are kept: two of a billion patients collide with probability below 1e-20
KEY_WIDTH = 32  # bytes


def normal(text: str) -> str:
    """One form of an id or an issuer: Unicode NFC, no letter case, no white space around it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).strip().casefold())


def keyed(key: bytes, kind: str, text: str) -> bytes:
    """The hash of ``text``; equal texts of two kinds ("patient", "study") have hashes that do not tell so."""
    return hmac.digest(key, json.dumps([kind, text]).encode(), "sha256")[:WIDTH]


def key_check(key: bytes) -> str:
    """Tells keys apart without telling the key."""
    return hmac.digest(key, b"imgsynth ledger key", "sha256")[:8].hex()


def make_key(path: Path) -> None:
    """Whole or not at all, readable by its owner alone; of several processes at once, one makes it for all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            handle.write(fresh_key())
            handle.flush()
            os.fsync(handle.fileno())
        try:
            path.hardlink_to(partial)  # fails where there is one already, which a rename would not
        except FileExistsError:
            return
    finally:
        partial.unlink(missing_ok=True)


def fresh_key() -> bytes:
    return secrets.token_bytes(KEY_WIDTH)
