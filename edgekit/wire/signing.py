"""Ed25519 keys: generate, load, sign, verify, and the short id that people compare.

A public key's id is the first 8 hex digits of the sha256 of its SubjectPublicKeyInfo (RFC 8410), so
``openssl pkey -pubin -in pub.pem -outform der | sha256sum`` shows the same digits. The id finds a
key; it never decides anything: a signature is always checked against a whole key.
"""

from __future__ import annotations

import base64
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.wire.canonical import sha256_hex
from edgekit.wire.errors import TrustError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE_BYTES = 64
RAW_KEY_BYTES = 32
KEY_ID_DIGITS = 8
MAX_KEY_FILE_BYTES = 16 * 1024
# The constant DER header of an Ed25519 SubjectPublicKeyInfo, RFC 8410 section 4.
_SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")


@dataclass(frozen=True)
class PublicKey:
    """A key that checks signatures.

    Attributes:
        raw: The 32 bytes of RFC 8032.
        name: What people call it (its file's stem); no part of its identity.
    """

    raw: bytes
    name: str = field(default="", compare=False)

    @property
    def spki_der(self) -> bytes:
        """SubjectPublicKeyInfo in DER."""
        return _SPKI_PREFIX + self.raw

    @property
    def key_id(self) -> str:
        """First 8 hex digits of the SPKI's sha256."""
        return sha256_hex(self.spki_der)[:KEY_ID_DIGITS]

    @property
    def label(self) -> str:
        """Short form for people: ``dev-3f9a``, or the id where the key has no name."""
        return f"{self.name}-{self.key_id[:4]}" if self.name else self.key_id

    def to_pem(self) -> bytes:
        """Return the key as PEM, as ``openssl -pubin`` reads it."""
        body = base64.b64encode(self.spki_der).decode()
        return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n".encode()

    def verifies(self, data: bytes, signature: bytes) -> bool:
        """Tell whether a signature over some bytes was made with this key.

        Args:
            data: The exact bytes that were signed.
            signature: 64 bytes; any other length is simply not a signature.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """A key that signs.

    Attributes:
        seed: The 32 secret bytes of RFC 8032; never shown.
        name: What people call it.
    """

    seed: bytes = field(repr=False)
    name: str = field(default="", compare=False)

    @property
    def public(self) -> PublicKey:
        """The key that checks what this one signs."""
        return PublicKey(self._key().public_key().public_bytes_raw(), self.name)

    @property
    def key_id(self) -> str:
        """The public key's id."""
        return self.public.key_id

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte signature over some bytes (deterministic, RFC 8032)."""
        return self._key().sign(data)

    def to_pem(self) -> bytes:
        """Return the key as unencrypted PKCS #8 PEM. Write it to files of mode 0600 only."""
        from cryptography.hazmat.primitives import serialization

        return self._key().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def _key(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.seed)


def generate_key(name: str = "") -> PrivateKey:
    """Make a new key from the system's randomness."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return PrivateKey(Ed25519PrivateKey.generate().private_bytes_raw(), name)


def load_private_key(path: Path) -> PrivateKey:
    """Read a signing key.

    Args:
        path: Unencrypted PKCS #8 PEM of an Ed25519 key, readable by its owner alone.

    Raises:
        TrustError: Missing, unreadable, readable by others, encrypted or another kind of key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read_key_file(path, private=True)
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError as error:
        raise TrustError(
            "the key is encrypted, and edgekit asks for no password",
            hint=f"openssl pkey -in {path} -out plain.pem && chmod 600 plain.pem",
            where=str(path),
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError(
            "not a private key in PEM (PKCS #8)",
            hint="`edgekit keys create NAME` makes one",
            where=str(path),
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise TrustError(
            "the key is not an Ed25519 key",
            hint="`edgekit keys create NAME` or `openssl genpkey -algorithm ed25519` makes one",
            where=str(path),
        )
    return PrivateKey(key.private_bytes_raw(), key_name(path))


def load_public_key(path: Path) -> PublicKey:
    """Read a key that checks signatures from a PEM file.

    Raises:
        TrustError: Missing, unreadable, a private key or another kind of key.
    """
    return parse_public_key(_read_key_file(path, private=False), key_name(path), where=str(path))


def parse_public_key(data: bytes, name: str = "", *, where: str | None = None) -> PublicKey:
    """Read a key that checks signatures from PEM text.

    Raises:
        TrustError: Not the PEM of an Ed25519 public key.
    """
    plain = _plain_pem(data)
    if plain is not None:
        return PublicKey(plain, name)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY" in data:
        raise TrustError(
            "this is a private key; signatures are checked with the public one",
            hint="`edgekit keys export` writes it",
            where=where,
        )
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError(
            "not a public key in PEM", hint="`edgekit keys export` writes one", where=where
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise TrustError("the key is not an Ed25519 key", where=where)
    return PublicKey(key.public_bytes_raw(), name)


def _plain_pem(data: bytes) -> bytes | None:
    """Return the raw key of a PEM that is spelled as :meth:`PublicKey.to_pem` does, or None.

    A device reads its keys so: the signing library takes 7 MB, which it need not have before there
    is something to verify.
    """
    lines = data.split(b"\n")
    if len(lines) < 3:  # noqa: PLR2004 - a head, a body, a foot
        return None
    try:
        raw = base64.b64decode(lines[1])[len(_SPKI_PREFIX) :]
    except ValueError:
        return None
    found = PublicKey(raw)
    is_same = len(raw) == RAW_KEY_BYTES and found.to_pem().strip() == data.strip()
    return raw if is_same else None


def key_name(path: Path) -> str:
    """Return what people call the key of a file: ``dev`` for ``dev.pem`` and ``dev.pub.pem``."""
    return path.name.removesuffix(".pem").removesuffix(".pub")


def _read_key_file(path: Path, *, private: bool) -> bytes:
    try:
        # Non-blocking: a named pipe must not stop the program. The checks are on the open file.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise TrustError("the key is not a regular file", where=str(path))
            if private and os.name == "posix" and status.st_mode & 0o077:
                raise TrustError(
                    f"others can read the private key (mode {stat.S_IMODE(status.st_mode):04o})",
                    hint=f"chmod 600 {path}",
                    where=str(path),
                )
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except FileNotFoundError as error:
        hint = "`edgekit keys create` makes one, and so does the first build"
        raise TrustError(
            "no such key file", hint=hint if private else None, where=str(path)
        ) from error
    except OSError as error:
        raise TrustError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if len(data) > MAX_KEY_FILE_BYTES:
        raise TrustError("too large for a key file", where=str(path))
    return data
