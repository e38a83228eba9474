"""``edgekit.lock``: what a timing or a time limit decided, so that a rebuild repeats the bytes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.wire.errors import BuildError, ConfigError
from edgekit.wire.located import Value

LOCK_NAME = "edgekit.lock"
SCHEMA = "edgekit.lock/1"
MAX_LOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class LockEntry:
    """One decision that another run might take otherwise.

    Attributes:
        intent_sha256: What was asked for when it was taken; another wish decides anew.
        ships: Name of the candidate.
        latency_ratio: Its time over fp32's, as measured, or as predicted where nothing was timed.
        host: Kind of CPU, or name of the device, that decided.
        rests_on: ``a timing`` or ``a time limit``.
    """

    intent_sha256: str
    ships: str
    latency_ratio: float
    host: str
    rests_on: str = "a timing"


def read_lock(project: Path) -> dict[str, LockEntry]:
    """Read the decisions of a project, by ``model/target``.

    Raises:
        ConfigError: The file is not a lock file.
    """
    path = project / LOCK_NAME
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_LOCK_BYTES:
            raise ConfigError("the lock file is over 1 MiB", where=str(path))
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ConfigError(f"not {SCHEMA}", where=str(path))
        return {
            name: LockEntry(
                str(e["intent_sha256"]),
                str(e["ships"]),
                float(e["latency_ratio"]),
                str(e["host"]),
                str(e.get("rests_on", "a timing")),
            )
            for name, e in document["decisions"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"not a lock file: {error}",
            where=str(path),
            hint="delete it; the next build makes it anew",
        ) from error


def locked_decision(lock: Mapping[str, LockEntry], name: str, intent_sha256: str) -> Value | None:
    """Return what the lock decided for a plan, or None."""
    entry = lock.get(name)
    if entry is None or entry.intent_sha256 != intent_sha256:
        return None
    return Value(entry.ships, LOCK_NAME)


def write_lock(project: Path, entries: Mapping[str, LockEntry]) -> None:
    """Merge decisions into the project's lock file, atomically.

    Raises:
        BuildError: The folder cannot be written.
    """
    if not entries:
        return
    path = project / LOCK_NAME
    partial = path.with_name(f".{LOCK_NAME}.{secrets.token_hex(4)}.part")
    try:
        with _only_writer(project):
            merged = {**read_lock(project), **entries}
            document = {
                "schema": SCHEMA,
                "decisions": {name: vars(merged[name]) for name in sorted(merged)},
            }
            with partial.open("x", encoding="utf-8") as file:
                file.write(json.dumps(document, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    except OSError as error:
        raise BuildError(
            f"the lock file cannot be written: {error.strerror}", where=str(path)
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@contextlib.contextmanager
def _only_writer(project: Path) -> Iterator[None]:
    """Keep a second build in the same project from merging at the same time."""
    folder = os.open(project, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
