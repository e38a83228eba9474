"""Run a registry's own client, so that the user's configuration of it holds."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgekit.toolchain.process import Finished, run
from edgekit.toolchain.recipe import SourceRef
from edgekit.wire.errors import BuildError

TIMEOUT_S = 1800.0

# How pip, npm and apt say that nobody answers.
_NO_NETWORK = (
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "Temporary failure resolving",
    "Could not resolve",
    "Could not connect to",
    "Unable to connect to",
    "Network is unreachable",
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ETIMEDOUT",
    "ENETUNREACH",
)
_FULL = ("No space left on device", "ENOSPC", "Disk quota exceeded", "File too large")


def run_client(
    args: Sequence[str],
    ref: SourceRef,
    *,
    folder: Path,
    missing: str,
    hint: str,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Finished:
    """Run a client in a folder.

    Args:
        args: The client and its arguments.
        ref: What is fetched.
        folder: Its working directory.
        missing: How to install the client.
        hint: What to do when it fails otherwise.
        env: Added to our environment.
        on_line: Hears its output.

    Raises:
        MissingToolError: The client is not installed.
        BuildError: It failed; the message has its last words.
        OSError: The disk is full.
    """
    done = run(
        args,
        timeout_s=TIMEOUT_S,
        missing=missing,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C", **(env or {})},
        on_line=on_line,
    )
    if done.code == 0:
        return done
    if any(words in done.output for words in _FULL):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    name = args[2] if args[1] == "-m" else Path(args[0]).name
    if any(words in done.output for words in _NO_NETWORK):
        raise BuildError(
            f"{ref.uri} cannot be fetched: no network ({name}: {done.tail(1)})",
            hint="once a build had the network, the cache serves the next ones without it",
            where=ref.where,
        )
    raise BuildError(
        f"{ref.uri} cannot be fetched ({name}: {done.tail()})", hint=hint, where=ref.where
    )


def only_file(folder: Path, ref: SourceRef, suffixes: tuple[str, ...]) -> Path:
    """Return the one file that a client left.

    Raises:
        BuildError: It left none, or several.
    """
    files = [p for p in sorted(folder.iterdir()) if p.name.endswith(suffixes) and p.is_file()]
    if len(files) != 1:
        raise BuildError(
            f"{ref.uri}: the client left {len(files)} files, expected one", where=ref.where
        )
    return files[0]
