"""The agent's settings after a deployment: what is there, with as little changed as will do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from edgekit.wire.canonical import Json
from edgekit.wire.errors import ConfigError, TrustError, did_you_mean
from edgekit.wire.strict import parse_object

SCHEMA = "edgekit.agent/1"
MAX_BYTES = 1 << 20
# What a user may set; the rest is the deployment's own business.
OVERLAY = ("fleet", "device", "http", "broker", "telemetry", "flows", "pipelines")


@dataclass(frozen=True)
class Wanted:
    """What the settings must say.

    Attributes:
        model: The bundle's model.
        target: The bundle's target.
        bundle: Where the bundle lies on the board.
        key: Who signed it, PEM.
        overlay: Settings of the user's.
    """

    model: str
    target: str
    bundle: PurePosixPath
    key: str
    overlay: Mapping[str, Json]


def merge(current: str | None, wanted: Wanted, *, hostname: str, state_dir: str) -> str:
    """Return the new settings' text: the old one, byte by byte, where nothing changes.

    Args:
        current: What is on the board; None where there are none.
        wanted: What they must say.
        hostname: The board's, its name where there is no other.
        state_dir: The agent's folder, where there is no other.

    Raises:
        ConfigError: What is there is not the agent's settings, or for another target.
    """
    old = None if current is None else _parse(current)
    new: dict[str, Json] = dict(old) if old is not None else _first(wanted, hostname, state_dir)
    new.update(wanted.overlay)
    if new.get("target") != wanted.target:
        raise ConfigError(
            f"the board is set up as {str(new.get('target'))[:60]!r}, "
            f"the bundle is for {wanted.target}",
            hint=f"edgekit build {wanted.model} --target …, or change `target` on the board",
            where="agent.json",
        )
    new["trusted_keys"] = _with_key(_list(new, "trusted_keys"), wanted.key)
    new["bundles"] = _with_bundle(_list(new, "bundles"), wanted)
    if current is not None and new == old:
        return current
    return json.dumps(new, indent=2, ensure_ascii=False) + "\n"


def changes(old: str | None, new: str) -> list[str]:
    """Return the names of the settings that differ."""
    before = {} if old is None else _parse(old)
    after = _parse(new)
    return sorted(k for k in {*before, *after} if before.get(k) != after.get(k))


def check_overlay(document: Mapping[str, Json]) -> None:
    """Refuse settings that a user cannot give this way.

    Raises:
        ConfigError: Names the first.
    """
    for name in document:
        if name not in OVERLAY:
            close = did_you_mean(name, OVERLAY)
            raise ConfigError(
                f"`{name[:60]}` cannot be set this way",
                hint=f"did you mean {close}?" if close else f"these can: {', '.join(OVERLAY)}",
            )


def plain_name(host: str) -> str:
    """Return a host's name as a device may be called."""
    name = re.sub(r"[^a-z0-9_-]+", "-", host.partition(".")[0].lower()).strip("-")
    return name[:64] or "device"


def _first(wanted: Wanted, hostname: str, state_dir: str) -> dict[str, Json]:
    return {
        "schema": SCHEMA,
        "fleet": "lab",
        "device": plain_name(hostname),
        "target": wanted.target,
        "state_dir": state_dir,
        "trusted_keys": [],
        "http": {"host": "127.0.0.1", "port": 8080, "token_file": None},
        "broker": None,
        "bundles": [],
    }


def _parse(text: str) -> dict[str, Json]:
    try:
        document = parse_object(text.encode(), "agent.json", most_bytes=MAX_BYTES)
    except TrustError as error:
        raise ConfigError(
            f"the board's settings: {error.message}",
            hint="put the file right, or move it away",
            where="agent.json",
        ) from error
    if document.get("schema") != SCHEMA:
        raise ConfigError(
            f"the board's settings are not of {SCHEMA}",
            hint="update edgekit here",
            where="agent.json",
        )
    return document


def _list(document: Mapping[str, Json], key: str) -> list[Json]:
    value = document.get(key) or []
    if not isinstance(value, list):
        raise ConfigError(f'"{key}" must be a list', where="agent.json")
    return value


def _with_key(keys: Sequence[Json], key: str) -> list[Json]:
    known = {"".join(str(other).split()) for other in keys}
    return list(keys) if "".join(key.split()) in known else [*keys, key]


def _with_bundle(bundles: Sequence[Json], wanted: Wanted) -> list[Json]:
    """Put a bundle in place of the one of the same model that an earlier deployment has named."""
    files = wanted.bundle.parent.parent
    path = str(wanted.bundle)

    def is_earlier(name: Json) -> bool:
        other = PurePosixPath(str(name))
        return other.parent.parent == files and other.name == wanted.bundle.name

    if path in bundles and sum(map(is_earlier, bundles)) == 1:
        return list(bundles)
    return [*(name for name in bundles if not is_earlier(name)), path]
