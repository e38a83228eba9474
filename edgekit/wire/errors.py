"""The errors that edgekit raises, and the exit codes they end a command with.

    EdgekitError            1   a bug, or an error that no class below describes
    ├── UsageError          2   the command line is wrong
    ├── ConfigError         3   a TOML file, recipe, target or setting is wrong
    ├── MissingToolError    4   a package, tool or SDK is not installed
    ├── BuildError          5   a stage could not do its work
    ├── GateError           6   the acceptance contract is not met
    ├── TrustError          7   a digest, signature or key does not hold
    ├── DeviceError         8   a device refused or failed
    └── RolloutError        9   a rollout stopped

130 is an interrupt (Ctrl-C).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

EXIT_OK = 0
EXIT_INTERRUPTED = 130


class EdgekitError(Exception):
    """An error that a user can act on.

    Args:
        message: What went wrong, one sentence without a final stop.
        hint: The next thing to do.
        where: The place: ``targets/rpi5.toml:12``, a path or a URI.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, where: str | None = None) -> None:
        super().__init__(message, hint, where)
        self.message = message
        self.hint = hint
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders: pickle by keyword, which the default cannot.
        return (_rebuild, (type(self), self.message, self.hint, self.where))


def _rebuild(
    kind: type[EdgekitError], message: str, hint: str | None, where: str | None
) -> EdgekitError:
    return kind(message, hint=hint, where=where)


class UsageError(EdgekitError):
    """The command line is wrong."""

    exit_code = 2


class ConfigError(EdgekitError):
    """A TOML file, a recipe, a target or a setting is wrong."""

    exit_code = 3


class MissingToolError(EdgekitError):
    """A package, tool or SDK that this command needs is not installed."""

    exit_code = 4


class BuildError(EdgekitError):
    """A stage could not do its work."""

    exit_code = 5


class GateError(EdgekitError):
    """The acceptance contract is not met."""

    exit_code = 6


class TrustError(EdgekitError):
    """A digest, a signature or a key does not hold."""

    exit_code = 7


class DeviceError(EdgekitError):
    """A device refused or failed."""

    exit_code = 8


class RolloutError(EdgekitError):
    """A rollout stopped."""

    exit_code = 9


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is closest to a mistyped one, if any is close.

    Args:
        name: What the user wrote.
        known: The names that exist.
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return close[0] if close else None
