"""The systemd unit of the agent, as a pure function of a few settings.

It is sandboxed with what systemd 252 (Debian 12) has. Left out on purpose: MemoryDenyWriteExecute,
for libffi's closures need such pages, and ProcSubset=pid, for vitals come from /proc/stat. Cameras
need no address family of their own: V4L2 is ioctl on a device, and libcamera finds its devices
through netlink. The system calls are those of ``@system-service``, which has the scheduling and
memory policy calls that onnxruntime makes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.wire.errors import ConfigError

NAME = "edgekit-agent.service"
GROUPS = ("video", "render", "audio", "gpio")
# Kinds of devices by their names in /proc/devices; one that this kernel has not is passed over.
DEVICES = (
    ("char-video4linux", "rw"),  # cameras
    ("char-media", "rw"),
    ("char-dma_heap", "rw"),  # libcamera's buffers
    ("char-alsa", "rw"),  # microphones
    ("char-gpiochip", "rw"),
    ("char-drm", "rw"),  # GPUs, and NPUs of Rockchip
    ("char-accel", "rw"),  # NPUs with a driver of the kernel's own
    ("char-hailo", "rw"),
    ("char-apex", "rw"),  # Edge TPU
)
_STATE_PARENT = PurePosixPath("/var/lib")
_HOMES = tuple(map(PurePosixPath, ("/home", "/root", "/run/user")))
_FLEETING = tuple(map(PurePosixPath, ("/tmp", "/var/tmp", "/run", "/dev")))  # noqa: S108 - refused
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)

_SANDBOX = """\
# What it cannot do
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
"""


@dataclass(frozen=True)
class UnitSettings:
    """What the unit depends on.

    Attributes:
        python: The interpreter of the environment that edgekit is installed in.
        config: The settings, agent.json.
        state_dir: The agent's own folder.
        user: It runs as this user, and as the group of the same name.
        groups: Further groups; each must exist, or systemd does not start the unit.
        writable: Folders beside ``state_dir`` that it may write to: those of flows.
        memory_max_mib: More than this and the kernel takes a process of it; None for no limit.
        watchdog_s: It is started anew after that long without a sign of life.
    """

    python: Path
    config: Path
    state_dir: Path
    user: str = "edgekit"
    groups: tuple[str, ...] = ()
    writable: tuple[Path, ...] = ()
    memory_max_mib: int | None = None
    watchdog_s: int = 30


def render_unit(settings: UnitSettings) -> str:
    """Return the text of the unit.

    Args:
        settings: Values from outside; they are checked and quoted here.

    Raises:
        ConfigError: A path is not absolute, holds characters that no unit can, or lies where
            nothing outlives a restart; or a name is none of a user.
    """
    for path in (settings.python, settings.config, settings.state_dir, *settings.writable):
        check_path(path)
    if set(str(settings.python)) & set("\"'\\"):
        raise ConfigError(
            "systemd starts no program whose path has quotes or backslashes in it",
            hint="install edgekit under a plainer path, such as /opt/edgekit",
            where=str(settings.python),
        )
    for name in (settings.user, *settings.groups):
        check_user(name)
    return "\n".join([_unit(), _service(settings), _access(settings), _SANDBOX, _INSTALL])


def _unit() -> str:
    return """\
# Written by `edgekit agent install`, which overwrites changes; `systemctl edit edgekit-agent` keeps
# yours beside it.
[Unit]
Description=edgekit agent
Documentation=man:systemd.service(5)
After=network.target
# It never gives up: a board that nobody can reach must come back by itself.
StartLimitIntervalSec=0
"""


def _service(settings: UnitSettings) -> str:
    # The program is no variable, so its $ stays as it is; arguments may be.
    program = quote(str(settings.python))
    config = quote(str(settings.config)).replace("$", "$$")
    groups = [f"SupplementaryGroups={' '.join(settings.groups)}"] if settings.groups else []
    memory = settings.memory_max_mib
    limit = [] if memory is None else [f"MemoryMax={memory}M"]
    lines = [
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={program} -m edgekit.agent.main --config {config}",
        f"User={settings.user}",
        f"Group={settings.user}",
        *groups,
        "Environment=ORT_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1",
        "Restart=always",
        "RestartSec=5",
        f"WatchdogSec={settings.watchdog_s}",
        "TimeoutStartSec=120",
        "TimeoutStopSec=30",
        # SIGTERM goes to the agent alone, which ends its own children; what is left is killed.
        "KillMode=mixed",
        # A self-test that takes all memory is killed; the agent goes on.
        "OOMPolicy=continue",
        *limit,
    ]
    return "\n".join([*lines, ""])


def _access(settings: UnitSettings) -> str:
    state = PurePosixPath(settings.state_dir)
    # The one setting that takes no quotes.
    lines = ["# What it can reach", f"WorkingDirectory={str(state).replace('%', '%%')}"]
    writable = [str(path) for path in settings.writable]
    below = str(state.relative_to(_STATE_PARENT)) if state.is_relative_to(_STATE_PARENT) else "."
    if below != "." and _is_plain(below):  # what needs quotes, this setting does not take
        lines += [f"StateDirectory={below}", "StateDirectoryMode=0750"]
    else:
        writable.insert(0, str(state))
    if writable:
        lines.append(f"ReadWritePaths={' '.join(map(quote, writable))}")
    paths = (settings.python, settings.config, settings.state_dir, *settings.writable)
    at_home = any(PurePosixPath(path).is_relative_to(home) for path in paths for home in _HOMES)
    lines.append(f"ProtectHome={'read-only' if at_home else 'yes'}")
    lines += ["DevicePolicy=closed", *(f"DeviceAllow={kind} {how}" for kind, how in DEVICES)]
    return "\n".join([*lines, ""])


_INSTALL = """\
[Install]
WantedBy=multi-user.target
"""


def check_path(path: Path) -> None:
    """Refuse a path that a unit cannot hold or should not.

    Raises:
        ConfigError: See :func:`render_unit`.
    """
    text, pure = str(path), PurePosixPath(path)
    plain = text.isprintable() and text == text.strip()
    if not plain or not pure.is_absolute() or ".." in pure.parts:
        raise ConfigError(
            "not an absolute path of printable characters",
            hint="give the whole path, without ..",
            where=repr(text[:200]),
        )
    if any(pure.is_relative_to(folder) for folder in _FLEETING):
        raise ConfigError(
            "a service cannot live there: nothing in this folder outlives a restart",
            hint="use a folder under /opt or /srv",
            where=text,
        )


def check_user(name: str) -> None:
    """Refuse what is no name of a user or group.

    Raises:
        ConfigError: It is none.
    """
    if not _USER.fullmatch(name):
        raise ConfigError(
            f"no name of a user or group: {name[:80]!r}",
            hint="1 to 32 of a-z 0-9 _ -, a letter or _ first",
        )


def quote(text: str) -> str:
    """Quote one word of a unit's value: systemd.syntax(7), and its % specifiers."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return text if _is_plain(text) else f'"{escaped}"'


def _is_plain(text: str) -> bool:
    return bool(text) and all(c.isascii() and (c.isalnum() or c in "/._-+@") for c in text)
