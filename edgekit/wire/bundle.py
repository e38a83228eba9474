"""Reading a bundle: every byte of the file is checked before anything of it is used.

In this order, and the first failure refuses the whole file:

1. a regular file of at most 4 GiB that starts with ``manifest.json`` and ``manifest.sig``, stored;
2. the signature holds over the exact bytes of ``manifest.json``, with one of the trusted keys;
3. the manifest parses, is of a format that this edgekit knows, and names the key that signed it;
4. the members follow in the manifest's order, each with the size and sha256 that it states;
5. the zip's directory is what these members give, and nothing stands behind it.

No byte is left to choose, so there is exactly one file for a manifest and a key.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from edgekit.wire.canonical import sha256_file
from edgekit.wire.errors import EdgekitError, TrustError, UsageError
from edgekit.wire.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from edgekit.wire.signing import SIGNATURE_BYTES, PublicKey
from edgekit.wire.storedzip import (
    LOCAL_BYTES,
    MAX_ARCHIVE_BYTES,
    Entry,
    check_directory,
    directory,
    parse_local_header,
)

MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
MODEL_NAME = "model.onnx"
MEASUREMENTS_NAME = "measurements.json"
SBOM_NAME = "sbom.cdx.json"
SUFFIX = ".ekb"
_MAGIC = b"PK\3\4"
_CHUNK_BYTES = 1 << 20


class Bundle:
    """An open bundle whose every byte has been checked; made by :func:`open_bundle`.

    Attributes:
        path: The file.
        manifest: What the bundle is.
        manifest_bytes: The exact bytes that are signed.
        signature: 64 bytes over them.
        signed_by: The trusted key that signed it; None where no keys were given to check with.
        size_bytes: Length of the file.
    """

    def __init__(
        self,
        path: Path,
        file: BinaryIO,
        manifest_bytes: bytes,
        signature: bytes,
        signed_by: PublicKey | None,
        manifest: Manifest,
        entries: Sequence[Entry],
        size_bytes: int,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.manifest_bytes = manifest_bytes
        self.signature = signature
        self.signed_by = signed_by
        self.size_bytes = size_bytes
        self._file = file
        self._entries = {entry.name: entry for entry in entries}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def sha256(self) -> str:
        """Return the digest of the whole file."""
        return sha256_file(self.path)

    def read(self, member: str) -> bytes:
        """Return a member's content; its digest is checked again.

        Raises:
            TrustError: No such member, or the file has changed since it was opened.
        """
        chunks: list[bytes] = []
        self._copy(member, chunks.append)
        return b"".join(chunks)

    def extract(self, folder: Path) -> Path:
        """Unpack manifest, signature and members into a folder that is not there yet.

        The folder appears whole or not at all.

        Returns:
            The folder.

        Raises:
            UsageError: The folder exists, or cannot be written.
            TrustError: The file has changed since it was opened.
        """
        if folder.exists():
            raise UsageError("the folder exists", hint="name a new one", where=str(folder))
        staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
        try:
            staging.mkdir(parents=True)
            (staging / MANIFEST_NAME).write_bytes(self.manifest_bytes)
            (staging / SIGNATURE_NAME).write_bytes(self.signature)
            for name in self.manifest.members:
                place = staging / name
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("xb") as out:
                    self._copy(name, out.write)
            staging.rename(folder)
        except OSError as error:
            raise UsageError(f"cannot be written: {error.strerror}", where=str(folder)) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return folder

    def _copy(self, member: str, write: Callable[[bytes], object]) -> None:
        if member not in self.manifest.members:
            raise TrustError(f'no member "{member}"', where=str(self.path))
        entry, stated = self._entries[member], self.manifest.members[member]
        digest = hashlib.sha256()
        self._file.seek(entry.data_offset)
        for chunk in _chunks(self._file, entry.size_bytes):
            digest.update(chunk)
            write(chunk)
        if digest.hexdigest() != stated.sha256:
            raise TrustError("the file has changed since it was opened", where=str(self.path))


def open_bundle(path: Path, trusted_keys: Sequence[PublicKey] | None) -> Bundle:
    """Check a bundle from its first to its last byte, and open it.

    Args:
        path: The ``.ekb`` file.
        trusted_keys: Keys of which one must have signed it. None checks everything but the
            signature, for looking at a file whose signer is not known; never for using it.

    Returns:
        The open bundle; use it in a ``with``.

    Raises:
        UsageError: There is no such file, or it may not be read.
        TrustError: Anything else than a whole, unchanged bundle signed by a trusted key.
    """
    file = _open_regular(path)
    try:
        return _checked(path, file, trusted_keys)
    except EdgekitError as error:
        file.close()
        if error.where is None:
            error.where = str(path)
        elif not error.where.startswith(str(path)):
            error.where = f"{path}: {error.where}"
        raise
    except OSError as error:
        file.close()
        raise TrustError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except BaseException:
        file.close()
        raise


def check_acceptable(
    manifest: Manifest,
    *,
    target: str | None = None,
    family: str | None = None,
    installed_serial: int | None = None,
) -> None:
    """Decide whether a device may take a bundle that is genuine.

    A manifest states no expiry: until when a bundle is wanted is said by the order to the device.

    Args:
        manifest: Of a bundle that :func:`open_bundle` has accepted.
        target: The device's target; None where only the family is known.
        family: The device's family; None where it is not to be compared.
        installed_serial: Serial of the same model on the device; None where there is none.

    Raises:
        TrustError: Made for another target or family, or older than what is installed.
    """
    built = manifest.target
    if target is not None and built.name != target:
        raise TrustError(
            f"the bundle is for target {built.name}, this is {target}",
            hint=f"edgekit build {manifest.model} --target {target}",
        )
    if family is not None and built.family != family:
        raise TrustError(f"the bundle is for the family {built.family}, this is {family}")
    if installed_serial is not None and manifest.serial < installed_serial:
        raise TrustError(
            f"serial {manifest.serial} is lower than the installed {installed_serial}",
            hint="raise `serial` in the recipe and build again",
        )


def _open_regular(path: Path) -> BinaryIO:
    try:
        # Non-blocking: a named pipe must not stop the program.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError as error:
        raise UsageError("no such file", where=str(path)) from error
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError("not a regular file", where=str(path))
    return os.fdopen(descriptor, "rb")


def _checked(path: Path, file: BinaryIO, trusted: Sequence[PublicKey] | None) -> Bundle:
    size_bytes = os.fstat(file.fileno()).st_size
    if size_bytes > MAX_ARCHIVE_BYTES:
        raise TrustError("larger than a bundle can be")
    manifest_entry = _read_header(file, 0, MANIFEST_NAME)
    if manifest_entry.size_bytes > MAX_MANIFEST_BYTES:
        raise TrustError(f"{MANIFEST_NAME} is over {MAX_MANIFEST_BYTES} bytes")
    manifest_bytes = _read_small(file, manifest_entry)
    signature_entry = _read_header(file, manifest_entry.end_offset, SIGNATURE_NAME)
    if signature_entry.size_bytes != SIGNATURE_BYTES:
        raise TrustError(f"{SIGNATURE_NAME} is not {SIGNATURE_BYTES} bytes")
    signature = _read_small(file, signature_entry)
    signed_by = None if trusted is None else _signer(manifest_bytes, signature, trusted)
    manifest = parse_manifest(manifest_bytes)
    if signed_by is not None and manifest.key_id != signed_by.key_id:
        raise TrustError(f"names key {manifest.key_id} but is signed by {signed_by.key_id}")
    entries = [manifest_entry, signature_entry]
    for name in sorted(manifest.members):
        entries.append(_check_member(file, entries[-1].end_offset, name, manifest))
    # One byte more than the directory may have, so that trailing data is seen.
    check_directory(file.read(len(directory(entries)) + 1), entries)
    return Bundle(path, file, manifest_bytes, signature, signed_by, manifest, entries, size_bytes)


def _signer(data: bytes, signature: bytes, trusted: Sequence[PublicKey]) -> PublicKey:
    for key in trusted:
        if key.verifies(data, signature):
            return key
    # Only to say which of the two it is; nothing else of this manifest is used.
    named = parse_manifest(data).key_id
    if named in {key.key_id for key in trusted}:
        raise TrustError(
            f"the signature does not hold: {MANIFEST_NAME} is not what key {named} signed"
        )
    known = ", ".join(key.label for key in trusted) or "none"
    raise TrustError(
        f"signed by key {named}, which is not trusted here (trusted: {known})",
        hint="`--key PUB.pem` names the signer's public key",
    )


def _read_header(file: BinaryIO, offset: int, expected: str) -> Entry:
    raw = file.read(LOCAL_BYTES)
    if offset == 0 and not raw.startswith(_MAGIC[: len(raw)]):
        raise TrustError("not an edgekit bundle", hint="`edgekit build` writes them, as .ekb files")
    if len(raw) != LOCAL_BYTES:
        raise TrustError("the file is truncated")
    if raw[:4] == b"PK\1\2":
        raise TrustError(f'member "{expected}" is missing')
    entry, name_length = parse_local_header(raw, offset)
    name = _read_exactly(file, name_length)
    if name != expected.encode("ascii"):
        shown = name.decode("ascii", "backslashreplace")
        raise TrustError(f'member "{shown}" stands where "{expected}" must be')
    return replace(entry, name=expected)


def _read_small(file: BinaryIO, entry: Entry) -> bytes:
    data = _read_exactly(file, entry.size_bytes)
    if zlib.crc32(data) != entry.crc32:
        raise TrustError(f'the checksum of "{entry.name}" does not hold')
    return data


def _check_member(file: BinaryIO, offset: int, name: str, manifest: Manifest) -> Entry:
    entry, stated = _read_header(file, offset, name), manifest.members[name]
    if entry.size_bytes != stated.size_bytes:
        raise TrustError(
            f'member "{name}" has {entry.size_bytes} bytes, the manifest says {stated.size_bytes}'
        )
    digest, crc = hashlib.sha256(), 0
    for chunk in _chunks(file, entry.size_bytes):
        digest.update(chunk)
        crc = zlib.crc32(chunk, crc)
    if digest.hexdigest() != stated.sha256:
        raise TrustError(f'the digest of member "{name}" is not the one in the manifest')
    if crc != entry.crc32:
        raise TrustError(f'the checksum of "{name}" does not hold')
    return entry


def _chunks(file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    left = size_bytes
    while left:
        chunk = _read_exactly(file, min(left, _CHUNK_BYTES))
        left -= len(chunk)
        yield chunk


def _read_exactly(file: BinaryIO, size_bytes: int) -> bytes:
    data = file.read(size_bytes)
    if len(data) != size_bytes:
        raise TrustError("the file is truncated")
    return data
