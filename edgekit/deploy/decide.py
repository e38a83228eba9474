"""Whether a board can be deployed to, and how; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit.wire.canonical import Json, digest_of
from edgekit.wire.errors import DeviceError, UsageError

# platform.machine() of a board, by the architectures of targets.
MACHINES = {
    "arm64": ("aarch64", "arm64"),
    "x86-64": ("x86_64", "amd64"),
    "riscv64": ("riscv64",),
}
# Extras of edgekit by the tasks that need them.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "classify-image": ("image",),
    "detect-objects": ("image",),
    "detect-speech": ("audio",),
    "detect-text": ("image",),
    "embed-text": ("text",),
    "identify-file": (),
    "read-text": ("image",),
    "tensors": (),
}
PREFIX = PurePosixPath("/opt/edgekit")
SYSTEM_CONFIG = PurePosixPath("/etc/edgekit/agent.json")
SYSTEM_STATE = PurePosixPath("/var/lib/edgekit")
ENVIRONMENT_BYTES = 500 << 20
_LAYOUT = 1
_SYSTEMS = (
    "usr",
    "etc",
    "bin",
    "sbin",
    "lib",
    "home",
    "root",
    "var",
    "boot",
    "dev",
    "proc",
    "sys",
    "tmp",
)


@dataclass(frozen=True)
class SentFile:
    """A file that goes to the board.

    Attributes:
        path: Here.
        name: Its name there.
        sha256: Of its content.
        size_bytes: Of its content.
    """

    path: Path
    name: str
    sha256: str
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return what the board is told."""
        return {"name": self.name, "sha256": self.sha256, "size_bytes": self.size_bytes}


@dataclass(frozen=True)
class Order:
    """What is to be deployed.

    Attributes:
        bundle: The bundle; its name on the board is ``<model>.ekb``.
        model: Its model.
        target: Its target's name.
        arch: Its target's architecture.
        key_raw: Hex of the key that signed it.
        key_pem: The same key as PEM.
        wheel: edgekit itself.
        wheels: Packages that are brought along; None where the board fetches them.
        extras: Of edgekit, that the bundle's task needs.
        prefix: The deployment's folder on the board.
        service: Whether systemd is to run the agent, where it is there.
        user: The service's user.
        overlay: Settings of the user's.
        wait_s: How long the agent may take until it serves.
    """

    bundle: SentFile
    model: str
    target: str
    arch: str
    key_raw: str
    key_pem: str
    wheel: SentFile
    wheels: tuple[SentFile, ...] | None = None
    extras: tuple[str, ...] = ()
    prefix: PurePosixPath = PREFIX
    service: bool = True
    user: str = "edgekit"
    overlay: Mapping[str, Json] = field(default_factory=dict)
    wait_s: float = 300.0

    @property
    def bundle_path(self) -> PurePosixPath:
        """Where the bundle lies on the board."""
        return self.prefix / "files" / self.bundle.sha256 / self.bundle.name


@dataclass(frozen=True)
class Way:
    """How a board is deployed to.

    Attributes:
        as_root: Through sudo.
        service: systemd runs the agent; else it is started directly.
        config: The settings.
        state_dir: The agent's folder, for new settings.
        why: Why the agent is started directly; empty where it is not.
    """

    as_root: bool
    service: bool
    config: PurePosixPath
    state_dir: PurePosixPath
    why: str = ""


def check_prefix(prefix: PurePosixPath) -> None:
    """Refuse a folder that cannot be the deployment's own.

    Raises:
        UsageError: It is relative, or the system's.
    """
    plain = re.fullmatch(r"[\w./@+ -]{1,200}", str(prefix), re.ASCII)
    if not plain or not prefix.is_absolute() or ".." in prefix.parts or len(prefix.parts) < 2:  # noqa: PLR2004
        raise UsageError(
            f"no folder for a deployment: {str(prefix)[:80]!r}",
            hint="an absolute path such as /opt/edgekit",
        )
    if len(prefix.parts) == 2 and prefix.parts[1] in _SYSTEMS:  # noqa: PLR2004
        raise UsageError(f"{prefix} belongs to the system", hint="--prefix /opt/edgekit")


def check_board(probe: Mapping[str, Any], order: Order, host: str) -> None:
    """Refuse a board that the agent or the bundle does not run on.

    Raises:
        DeviceError: Says what is missing.
    """
    machine, known = str(probe["machine"]), MACHINES.get(order.arch, (order.arch,))
    if machine not in known:
        raise DeviceError(
            f"the board is {machine}, the bundle is for {order.target} ({order.arch})",
            hint=f"edgekit build {order.model} --target TARGET; `edgekit targets` shows all",
            where=host,
        )
    if probe["bits"] != 64:  # noqa: PLR2004
        raise DeviceError(
            "the board runs a 32-bit system, and onnxruntime has no packages for one",
            hint="install the 64-bit image",
            where=host,
        )
    if not probe["has_venv"]:
        raise DeviceError(
            f"the board's Python {probe['python']} has no venv",
            hint="sudo apt-get install python3-venv, on the board",
            where=host,
        )


def choose_way(probe: Mapping[str, Any], prefix: PurePosixPath, host: str, *, service: bool) -> Way:
    """Decide who runs the agent there.

    Args:
        probe: What the board is.
        prefix: The deployment's folder.
        host: The board's name in messages.
        service: Whether systemd is to run it, where it is there.

    Raises:
        DeviceError: Nobody has the rights to.
    """
    has_root = bool(probe["is_root"] or probe["has_sudo"])
    if service and probe["has_systemd"] and has_root:
        return Way(not probe["is_root"], True, SYSTEM_CONFIG, SYSTEM_STATE)
    why = "as --no-service asks"
    if service:
        why = "no systemd" if not probe["has_systemd"] else "no root: it does not start at boot"
    if not probe["is_writable"]:
        raise DeviceError(
            f"{probe['user']} can neither become root on the board nor write to {prefix}",
            hint="a user with sudo without password, or --prefix with a folder of that user's",
            where=host,
        )
    return Way(False, False, prefix / "agent.json", prefix / "state", why)


def check_space(probe: Mapping[str, Any], need_bytes: int, host: str) -> None:
    """Refuse a board without space for what comes.

    Raises:
        DeviceError: Says how much is needed.
    """
    free = int(probe["free_bytes"])
    if free < need_bytes:
        raise DeviceError(
            f"the board has {free >> 20} MiB free, and {need_bytes >> 20} MiB are needed",
            hint="free some space there, or --prefix on a larger disk",
            where=host,
        )


def with_extras(order: Order, there: Sequence[str]) -> Order:
    """Return the order with the extras that the board has already: its other models need them."""
    known = {extra for extras in EXTRAS.values() for extra in extras}
    extras = {*order.extras, *(known & {str(extra) for extra in there})}
    return replace(order, extras=tuple(sorted(extras)))


def environment_id(order: Order, python: str) -> str:
    """Name an environment by what determines it, so that the same one is not made twice."""
    wheels: Sequence[str] | None = None
    if order.wheels is not None:
        wheels = sorted(wheel.sha256 for wheel in order.wheels)
    what = [_LAYOUT, python, order.wheel.sha256, sorted(order.extras), wheels]
    return digest_of(what)[:12]
