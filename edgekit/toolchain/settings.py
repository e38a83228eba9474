"""Settings of a project: flag > ``EDGEKIT_*`` > ``edgekit.toml`` > default, each with its origin.

:data:`SETTINGS` is the one table of them all; the documentation and the tests read it too.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgekit.wire.errors import ConfigError
from edgekit.wire.located import Table, Value, load_toml

FILE = "edgekit.toml"

Kind = Literal["path", "count", "minutes", "switch", "names", "search"]
_TOML_TYPES: Mapping[Kind, type] = {
    "path": str,
    "count": int,
    "minutes": float,
    "switch": bool,
    "names": list,
    "search": str,
}
SEARCHES = ("quick", "full")
_SWITCHES = {"1": True, "true": True, "yes": True, "on": True}
_SWITCHES |= {"": False, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: Field of :class:`Settings`.
        flag: Option of the commands that take it, or None.
        env: Environment variable.
        toml: Dotted key in ``edgekit.toml``.
        kind: A path; a count ≥ 1; minutes > 0; a switch; a list of names; or a kind of search.
        default: In words, for people.
        help: What it does, one sentence.
        make_default: Makes the default for a project's folder.
    """

    name: str
    flag: str | None
    env: str
    toml: str
    kind: Kind
    default: str
    help: str
    make_default: Callable[[Path], Any]


@dataclass(frozen=True)
class Settings:
    """What the user decided, resolved.

    Attributes:
        cache_dir: Folder of the cache.
        key_file: PEM file of the signing key.
        dist_dir: Where bundles and reports go.
        jobs: Most things done at once, ≥ 1.
        offline: Never use the network.
        search: ``quick`` or ``full``.
        max_minutes: How long the search for one model's best plan may take, minutes; None for as
            long as it takes.
        licenses_deny: SPDX identifiers of licences that a build refuses.
        origins: Where each value came from: ``--jobs``, ``EDGEKIT_JOBS``, ``edgekit.toml:3``,
            ``default``.
    """

    cache_dir: Path
    key_file: Path
    dist_dir: Path
    jobs: int
    offline: bool
    search: str
    max_minutes: float | None
    licenses_deny: tuple[str, ...]
    origins: Mapping[str, str] = field(default_factory=dict)

    def value(self, name: str) -> Value:
        """Return a setting with its origin."""
        return Value(getattr(self, name), self.origins[name])


def _default_cache_dir(_project: Path) -> Path:
    from edgekit.toolchain.cache import default_root

    return default_root()


def _default_key_file(_project: Path) -> Path:
    import platformdirs

    return platformdirs.user_config_path("edgekit") / "keys" / "dev.pem"


def _default_jobs(_project: Path) -> int:
    # What this process may use, which in a container is less than what the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "cache_dir", "--cache-dir", "EDGEKIT_CACHE_DIR", "cache_dir", "path",
        "the user's cache folder", "Folder of downloads and computed stages.", _default_cache_dir,
    ),
    Setting(
        "key_file", "--key-file", "EDGEKIT_KEY_FILE", "key_file", "path",
        "keys/dev.pem in the user's configuration folder",
        "Ed25519 key (PEM) that signs bundles.", _default_key_file,
    ),
    Setting(
        "dist_dir", "--dist", "EDGEKIT_DIST_DIR", "dist_dir", "path",
        "dist in the project's folder", "Folder of bundles and reports.", lambda p: p / "dist",
    ),
    Setting(
        "jobs", "--jobs", "EDGEKIT_JOBS", "jobs", "count",
        "the number of usable CPU cores", "Most things done at once.", _default_jobs,
    ),
    Setting(
        "offline", "--offline", "EDGEKIT_OFFLINE", "offline", "switch",
        "false", "Never use the network: what is not in the cache is an error.", lambda _p: False,
    ),
    Setting(
        "search", "--search", "EDGEKIT_SEARCH", "search", "search",
        "quick", "How quantization plans are tried: quick stops at the first that meets the "
        "contract, full tries all and takes the fastest.", lambda _p: "quick",
    ),
    Setting(
        "max_minutes", "--max-minutes", "EDGEKIT_MAX_MINUTES", "max_minutes", "minutes",
        "no limit", "Minutes after which a model's search ends with the best it has found.",
        lambda _p: None,
    ),
    Setting(
        "licenses_deny", None, "EDGEKIT_LICENSES_DENY", "licenses.deny", "names",
        "none", "Licences (SPDX identifiers) whose models a build refuses.", lambda _p: (),
    ),
)  # fmt: skip


def load_settings(project: Path, flags: Mapping[str, object], env: Mapping[str, str]) -> Settings:
    """Resolve all settings.

    Relative paths start at the working directory in flags and variables, and at the project's
    folder in ``edgekit.toml``.

    Args:
        project: The project's folder; its ``edgekit.toml`` need not exist.
        flags: Values from the command line by setting name; None and False stand for "not given".
        env: The environment.

    Raises:
        ConfigError: A value is not what its setting takes, or ``edgekit.toml`` is malformed or has
            an unknown key; says where.
    """
    file = project / FILE
    written = _read_file(load_toml(file, FILE)) if file.is_file() else {}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for setting in SETTINGS:
        found = _find(setting, flags, env, written, project)
        values[setting.name], origins[setting.name] = found.value, found.origin
    return Settings(**values, origins=origins)


def _find(
    setting: Setting,
    flags: Mapping[str, object],
    env: Mapping[str, str],
    written: Mapping[str, Value],
    project: Path,
) -> Value:
    flag = flags.get(setting.name)
    if flag is not None and flag is not False:
        origin = setting.flag or setting.name
        return Value(_checked(setting, flag, origin, Path()), origin)
    if setting.env in env:
        return Value(_from_text(setting, env[setting.env]), setting.env)
    if setting.name in written:
        found = written[setting.name]
        return Value(_checked(setting, found.value, found.origin, project), found.origin)
    return Value(setting.make_default(project), "default")


def _read_file(root: Table) -> dict[str, Value]:
    written: dict[str, Value] = {}
    tables: dict[str, Table] = {}
    for setting in SETTINGS:
        group, _, key = setting.toml.rpartition(".")
        if group and group not in tables:
            tables[group] = root.table(group)
        table = tables[group] if group else root
        value: Any = table.optional(key, _TOML_TYPES[setting.kind])
        if value is not None:
            written[setting.name] = Value(value, table.where(key))
    for table in (*tables.values(), root):
        table.close()
    return written


def _from_text(setting: Setting, text: str) -> object:
    value: object = text
    if setting.kind == "count" and text.strip().isdecimal():
        value = int(text)
    elif setting.kind == "minutes":
        with contextlib.suppress(ValueError):
            value = float(text)
    elif setting.kind == "switch":
        value = _SWITCHES.get(text.strip().lower(), text)
    elif setting.kind == "names":
        value = [name.strip() for name in text.split(",") if name.strip()]
    return _checked(setting, value, setting.env, Path())


def _checked(setting: Setting, value: object, origin: str, start: Path) -> object:
    match setting.kind:
        case "path" if isinstance(value, str | Path) and str(value):
            # Absolute, or the value would mean another folder after a change of directory.
            return Path(os.path.abspath(start / Path(value).expanduser()))  # noqa: PTH100 - keeps links
        case "count" if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        case "minutes" if isinstance(value, int | float) and not isinstance(value, bool):
            if 0 < value < math.inf:
                return float(value)
        case "search" if value in SEARCHES:
            return value
        case "switch" if isinstance(value, bool):
            return value
        case "names" if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            return tuple(value)
    expected = {
        "path": "a path",
        "count": "a whole number ≥ 1",
        "minutes": "a number of minutes > 0",
        "search": " or ".join(SEARCHES),
        "switch": "true or false",
        "names": "a list of names",
    }[setting.kind]
    raise ConfigError(
        f"{setting.toml} is {str(value)!r}, expected {expected}", hint=setting.help, where=origin
    )
