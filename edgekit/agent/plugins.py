"""Modules of a package by their name, for what the settings name: inputs and outputs."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection
from types import ModuleType

from edgekit.wire.errors import ConfigError, did_you_mean


def plugin_names(package: str, helpers: Collection[str] = ()) -> list[str]:
    """Return the names of all modules in a package.

    Args:
        package: Its full name.
        helpers: Modules that are none.
    """
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return sorted(module.name for module in found if module.name not in helpers)


def load_plugin(package: str, kind: str, name: str, helpers: Collection[str] = ()) -> ModuleType:
    """Import a module by the name that the settings give it.

    Args:
        package: Full name of its package.
        kind: What it is: ``input``.
        name: Of the module.
        helpers: Modules of the package that are none.

    Raises:
        ConfigError: There is none of that name.
    """
    known = plugin_names(package, helpers)
    if name not in known:
        close = did_you_mean(name, known)
        raise ConfigError(
            f'no {kind} named "{name}"',
            hint=f"did you mean {close}?" if close else f"{kind}s: {', '.join(known)}",
        )
    return importlib.import_module(f"{package}.{name}")
