"""Read a task's or a reader's options by type; name the option that is wrong or unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgekit.wire.errors import ConfigError, did_you_mean

T = TypeVar("T")


@dataclass
class Options:
    """Options as plain JSON, read once each.

    Attributes:
        values: As they stand in the recipe or the manifest.
        owner: Whose options these are, for messages: ``classify-image``.
    """

    values: Mapping[str, Any]
    owner: str
    _read: set[str] = field(default_factory=set)

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """Read one option.

        Args:
            key: Its name.
            kind: ``str``, ``int``, ``float`` (takes an int too), ``bool``, ``list`` or ``dict``.
            default: Taken when the option is absent; None makes it mandatory.

        Raises:
            ConfigError: Absent and mandatory, or of another type.
        """
        self._read.add(key)
        value = self.values.get(key, default)
        if value is None:
            raise ConfigError(f'{self.owner} needs the option "{key}"')
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(
                f'{self.owner}: "{key}" is {type(value).__name__}, expected {kind.__name__}'
            )
        return value

    def has(self, key: str) -> bool:
        """Tell whether an option is given."""
        return key in self.values

    def choice(self, key: str, known: Sequence[str], default: str | None = None) -> str:
        """Read an option that is one of some words.

        Raises:
            ConfigError: Another word; names the closest.
        """
        value = self.get(key, str, default)
        if value not in known:
            close = did_you_mean(value, known)
            raise ConfigError(
                f'{self.owner}: "{key}" is "{value}"',
                hint=f"did you mean {close}?" if close else f"one of: {', '.join(known)}",
            )
        return value

    def within(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """Read a number that lies between two bounds, both included.

        Raises:
            ConfigError: Outside of them.
        """
        value = self.get(key, float, default)
        if not low <= value <= high:
            raise ConfigError(f'{self.owner}: "{key}" is {value:g}, expected {low:g} to {high:g}')
        return value

    def strings(self, key: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        """Read a list of strings; a single string is a list of one."""
        self._read.add(key)
        value = self.values.get(key, default)
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise ConfigError(f'{self.owner}: "{key}" must be a list of strings')
        return tuple(value)

    def numbers(self, key: str, default: Sequence[float] | None = None) -> tuple[float, ...]:
        """Read a list of finite numbers; a single number is a list of one."""
        self._read.add(key)
        value = self.values.get(key, default)
        if isinstance(value, int | float):
            value = [value]
        good = isinstance(value, list | tuple) and all(
            isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < float("inf")
            for v in value
        )
        if not good or not value:
            raise ConfigError(f'{self.owner}: "{key}" must be a list of numbers')
        return tuple(float(v) for v in value)

    def close(self) -> None:
        """Refuse options that nobody read.

        Raises:
            ConfigError: Names the first of them and the closest known one.
        """
        for key in self.values:
            if key not in self._read:
                close = did_you_mean(key, self._read)
                known = ", ".join(sorted(self._read))
                raise ConfigError(
                    f'{self.owner} has no option "{key}"',
                    hint=f"did you mean {close}?" if close else f"options: {known}",
                )
