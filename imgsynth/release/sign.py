"""An optional signature of a release: Ed25519 (RFC 8032) over checksums.sha256, which covers every other file.

The key is made with `openssl genpkey -algorithm ed25519 -out signing_key.pem`. The release holds the public key beside
the signature, so that anybody can see that nothing was changed since; that the key is the publisher's only another way
can tell: compare it, or verify with the publisher's own (`--key`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from imgsynth.release.folder import CHECKSUMS, PUBLIC_KEY, SIGNATURE, write_checksums
from imgsynth.types import Fault, InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAKE_A_KEY = "openssl genpkey -algorithm ed25519 -out signing_key.pem"
REMEDY = "do not rely on this release; get it again, and the public key, from whoever published it"


def seal(folder: Path, sign: str | None, known: Mapping[str, str] | None = None) -> None:
    """Checksums over every file of ``folder``, and their signature with the key in the file ``sign``.

    None: not signed. ``known`` are sums that need not be taken again. A signature of earlier checksums never stays.
    The same key and files give the same bytes.
    """
    key = None if sign is None else private_key(Path(sign))
    for name in (SIGNATURE, PUBLIC_KEY):
        (folder / name).unlink(missing_ok=True)
    if key is None:
        write_checksums(folder, known)
        return
    (folder / PUBLIC_KEY).write_bytes(_pem(key.public_key()))
    write_checksums(folder, known)
    (folder / SIGNATURE).write_bytes(key.sign((folder / CHECKSUMS).read_bytes()))


def private_key(path: Path) -> Ed25519PrivateKey:
    """The key in the PEM file ``path``. InputError for anything else, or without the package cryptography."""
    _needs_cryptography("sample.sign")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise _no_key("sample.sign", path, str(error), "private") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key("sample.sign", path, type(key).__name__, "private")
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """The public key in the PEM file ``path``; InputError for anything else."""
    _needs_cryptography("--key")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _no_key("--key", path, str(error), "public") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key("--key", path, type(key).__name__, "public")
    return key


def signature_faults(folder: Path, key: Path | None) -> list[Fault]:
    """Faults of the signature; by ``key`` where one is given, and then a release without a signature is a fault."""
    given = None if key is None else public_key(key)
    signature = folder / SIGNATURE
    own = folder / PUBLIC_KEY
    if not signature.is_file() and not own.is_file():
        unsigned = Fault(SIGNATURE, "no signature", f"one by the key in {key}", REMEDY)
        return [unsigned] if key is not None else []
    missing = [path.name for path in (signature, own, folder / CHECKSUMS) if not path.is_file()]
    if missing:
        return [Fault(name, "no such file", "signature, public key and checksums together", REMEDY) for name in missing]
    try:
        stated = public_key(own)
    except InputError as error:
        return [Fault(PUBLIC_KEY, fault.got, fault.expected, fault.remedy) for fault in error.faults]
    trusted = stated if given is None else given
    if _pem(trusted) != _pem(stated):
        return [Fault(PUBLIC_KEY, fingerprint(stated), f"{fingerprint(trusted)}, the key in {key}", REMEDY)]
    from cryptography.exceptions import InvalidSignature

    try:
        trusted.verify(signature.read_bytes(), (folder / CHECKSUMS).read_bytes())
    except InvalidSignature:
        return [Fault(SIGNATURE, "no signature of these checksums", f"one by the key {fingerprint(trusted)}", REMEDY)]
    return []


def signed_by(folder: Path, key: Path | None) -> str:
    """What to say of the signature, where there is no fault of it."""
    own = folder / PUBLIC_KEY
    if not own.is_file():
        return "none"
    try:
        name = fingerprint(public_key(own))
    except InputError:
        return "a key that cannot be read"
    return f"by the key {name}" + (f", which is the one in {key}" if key else ": compare it with the publisher's")


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 of the raw public key, in hexadecimal, its first 32 digits."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:32]


def _pem(key: Ed25519PublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _needs_cryptography(where: str) -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise InputError(
            Fault(where, "the package cryptography is not installed", "it, to sign or to check a signature",
                  'pip install "imgsynth[package]"')
        ) from error  # fmt: skip


def _no_key(where: str, path: Path, got: str, kind: str) -> InputError:
    remedy = MAKE_A_KEY if kind == "private" else "openssl pkey -in signing_key.pem -pubout -out signing_key.pub.pem"
    return InputError(Fault(where, f"{path}: {got}", f"a file with an Ed25519 {kind} key (PEM, no password)", remedy))
