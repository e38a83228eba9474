"""Passwords of people, kept as scrypt hashes that carry their own settings."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable

from edgekit.wire.errors import UsageError

MIN_LENGTH, MAX_LENGTH = 12, 1024
# OWASP's password storage cheat sheet: N = 2^15, r = 8, p = 3 (32 MiB).
_N_LOG2, _R, _P = 15, 8, 3
_SALT_BYTES, _KEY_BYTES = 16, 32
_MEMORY_BYTES = 96 << 20
_PARTS = 6


def hash_password(password: str, random_bytes: Callable[[int], bytes]) -> str:
    """Return what is kept of a password.

    Args:
        password: As it was typed.
        random_bytes: Makes the salt: ``secrets.token_bytes``.

    Raises:
        UsageError: Too short, or too long.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise UsageError(
            f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters", hint="a few words do"
        )
    salt = random_bytes(_SALT_BYTES)
    key = _derive(password, salt, _N_LOG2, _R, _P)
    return f"scrypt${_N_LOG2}${_R}${_P}${_text(salt)}${_text(key)}"


def check_password(password: str, kept: str) -> bool:
    """Tell whether a password is the one that was kept; an empty hash fits none.

    It takes as long where there is nothing to compare with.
    """
    parts = kept.split("$")
    is_hash = len(parts) == _PARTS and parts[0] == "scrypt"
    if not is_hash or len(password) > MAX_LENGTH:
        _derive("", b"0" * _SALT_BYTES, _N_LOG2, _R, _P)
        return False
    try:
        n_log2, r, p = (int(part) for part in parts[1:4])
        salt, key = (base64.b64decode(part, validate=True) for part in parts[4:])
        return hmac.compare_digest(_derive(password, salt, n_log2, r, p), key)
    except (ValueError, binascii.Error):
        return False


def _derive(password: str, salt: bytes, n_log2: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"),
        salt=salt,
        n=1 << n_log2,
        r=r,
        p=p,
        maxmem=_MEMORY_BYTES,
        dklen=_KEY_BYTES,
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
