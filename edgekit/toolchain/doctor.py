"""What this machine has and lacks, and the command that installs what is missing.

:func:`gather` looks at the machine, :func:`examine` judges what was found; the second is pure.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from edgekit.runtime.host import Arithmetic, host_arithmetic, host_kind
from edgekit.toolchain.settings import Settings
from edgekit.toolchain.userspace import APT_COMMAND
from edgekit.wire.errors import MissingToolError, TrustError

PYTHON_MIN = (3, 11)
# A build of everything in models/ keeps about this much in the cache.
WANTED_FREE_BYTES = 3 << 30
TORCH_COMMAND = "pip install --index-url https://download.pytorch.org/whl/cpu torch==2.13.0"
_CUDA = re.compile(r"^(nvidia|cuda|pytorch-triton|triton)\b", re.IGNORECASE)
_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9._-]+)")
_TASK_EXTRAS = ("image", "text", "audio")
_EXTRA = re.compile(r"""extra\s*==\s*["']([a-z]+)["']""")


class State(StrEnum):
    """What became of one check."""

    OK = "ok"
    MISSING = "missing"
    WRONG = "wrong"  # there, but of a kind or version that does not do
    NOTE = "note"  # works, with a limit that one should know


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: ``onnxruntime``, ``qemu-aarch64-static``, ``cache folder``.
        state: Whether it is as it should be.
        found: Version or description; empty where there is nothing.
        install: The exact command that puts it right, where there is one.
    """

    name: str
    state: State
    found: str = ""
    install: str | None = None


@dataclass(frozen=True)
class Group:
    """Checks that serve one purpose.

    Attributes:
        name: ``build``, ``export``, …
        purpose: What one can do with it, for people.
        needed: The basic build does not work without it.
        checks: In a fixed order.
    """

    name: str
    purpose: str
    needed: bool
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True where nothing is missing or wrong."""
        return all(check.state in (State.OK, State.NOTE) for check in self.checks)


@dataclass(frozen=True)
class Facts:
    """What was found on a machine.

    Attributes:
        python: Version of the running Python.
        cpu: Kind of CPU: ``x86-64-vnni``.
        arithmetic: How it multiplies int8.
        distributions: Versions of all installed distributions by normalised name.
        requirements: edgekit's own requirements, as its metadata states them.
        programs: First line that a program says of its version; None where it is not there.
        onnxruntime_problem: Why onnxruntime does not load, or empty.
        cache_dir: The cache folder.
        cache_writable: Whether it, or what it would be made in, can be written.
        free_bytes: Free on its disk.
        key: The signing key's label; empty where there is none yet.
        key_problem: Why the key cannot be used, or empty.
        key_hint: What to do about it.
    """

    python: tuple[int, int, int]
    cpu: str
    arithmetic: Arithmetic
    distributions: Mapping[str, str]
    requirements: tuple[str, ...]
    programs: Mapping[str, str | None]
    onnxruntime_problem: str
    cache_dir: Path
    cache_writable: bool
    free_bytes: int
    key: str = ""
    key_problem: str = ""
    key_hint: str | None = None


_PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "qemu-aarch64-static": ("--version",),
    "mmdebstrap": ("--version",),
    "npm": ("--version",),
    "apt-get": ("--version",),
    "mosquitto": ("-h",),
}


def gather(settings: Settings) -> Facts:
    """Look at this machine. Starts a few programs for their versions; changes nothing."""
    key, problem, hint = _key(settings.key_file)
    folder = _nearest(settings.cache_dir)
    return Facts(
        python=sys.version_info[:3],
        cpu=host_kind(),
        arithmetic=host_arithmetic(),
        distributions={
            _normal(dist.name): dist.version for dist in importlib.metadata.distributions()
        },
        requirements=_own_requirements(),
        programs={name: _version(name, arguments) for name, arguments in _PROGRAMS.items()},
        onnxruntime_problem=_onnxruntime_problem(),
        cache_dir=settings.cache_dir,
        cache_writable=os.access(folder, os.W_OK | os.X_OK),
        free_bytes=shutil.disk_usage(folder).free,
        key=key,
        key_problem=problem,
        key_hint=hint,
    )


def examine(facts: Facts) -> tuple[Group, ...]:
    """Judge what was found."""
    return (
        Group("machine", "this machine", True, (_python(facts), _cpu(facts))),
        Group("core", "bundles: read, verify, run", True, _core(facts)),
        Group(
            "build",
            "build from ONNX files",
            True,
            (*_of(facts, "build", besides=_TASK_EXTRAS), *_places(facts)),
        ),
        Group(
            "tasks",
            "pictures, text and sound",
            True,
            tuple(check for extra in _TASK_EXTRAS for check in _of(facts, extra)),
        ),
        Group("export", "recipes that start from PyTorch or Hugging Face", False, _export(facts)),
        Group(
            "emulate",
            "edgekit verify --emulate",
            False,
            (
                _program(facts, "qemu-aarch64-static", APT_COMMAND),
                _program(facts, "mmdebstrap", APT_COMMAND),
            ),
        ),
        Group(
            "sources",
            "npm: and deb: sources in recipes",
            False,
            (
                _program(facts, "npm", "apt-get install -y --no-install-recommends npm"),
                _program(facts, "apt-get", None),
            ),
        ),
        Group(
            "broker",
            "a fleet on this machine",
            False,
            (_program(facts, "mosquitto", "apt-get install -y --no-install-recommends mosquitto"),),
        ),
    )


def ready(groups: Iterable[Group]) -> bool:
    """Tell whether the basic build has all that it needs."""
    return all(group.ok for group in groups if group.needed)


def _python(facts: Facts) -> Check:
    version = ".".join(map(str, facts.python))
    if facts.python[:2] < PYTHON_MIN:
        return Check("Python", State.WRONG, version, "install Python 3.11 or newer")
    return Check("Python", State.OK, version)


def _cpu(facts: Facts) -> Check:
    if facts.arithmetic is Arithmetic.SATURATING:
        text = f"{facts.cpu}: no VNNI, int8 products saturate; `edgekit verify --emulate` is exact"
        return Check("CPU", State.NOTE, text)
    return Check("CPU", State.OK, f"{facts.cpu}, exact int8 arithmetic")


def _core(facts: Facts) -> tuple[Check, ...]:
    checks = []
    for check in _of(facts, ""):
        if check.name == "onnxruntime" and check.state is State.OK and facts.onnxruntime_problem:
            checks.append(
                Check(
                    check.name,
                    State.WRONG,
                    f"{check.found} does not load: {facts.onnxruntime_problem}",
                    "pip install --force-reinstall onnxruntime",
                )
            )
        else:
            checks.append(check)
    return tuple(checks)


def _places(facts: Facts) -> tuple[Check, ...]:
    free = f"{facts.free_bytes / 2**30:.1f} GiB free"
    place = str(facts.cache_dir)
    cache = Check("cache folder", State.OK, place)
    if not facts.cache_writable:
        command = "export EDGEKIT_CACHE_DIR=/a/folder/that/can/be/written"
        cache = Check("cache folder", State.WRONG, f"{place} cannot be written", command)
    disk = Check("disk space", State.OK, free)
    if facts.free_bytes < WANTED_FREE_BYTES:
        disk = Check("disk space", State.NOTE, free, "edgekit cache clear")
    key = Check("signing key", State.OK, facts.key or "none yet; the first build makes one")
    if facts.key_problem:
        key = Check("signing key", State.WRONG, facts.key_problem, facts.key_hint)
    return cache, disk, key


def _export(facts: Facts) -> tuple[Check, ...]:
    checks = []
    found = _of(facts, "hf", besides=("build", *_TASK_EXTRAS))
    # torch first: installed by another package's wish it would be a CUDA build.
    for check in sorted(found, key=lambda c: c.name != "torch"):
        if check.name != "torch":
            checks.append(check)
        elif check.state is State.OK and "+cu" in check.found:
            checks.append(
                Check("torch", State.WRONG, f"{check.found} is a CUDA build", TORCH_COMMAND)
            )
        elif check.state is State.OK:
            checks.append(check)
        else:
            checks.append(Check("torch", check.state, check.found, TORCH_COMMAND))
    cuda = sorted(name for name in facts.distributions if _CUDA.match(name))
    if cuda:
        checks.append(
            Check(
                "CUDA packages",
                State.WRONG,
                f"{len(cuda)} that edgekit has no use for: {', '.join(cuda[:3])} …",
                f"pip uninstall -y {' '.join(cuda)}",
            )
        )
    return tuple(checks)


def _of(facts: Facts, extra: str, *, besides: tuple[str, ...] = ()) -> tuple[Check, ...]:
    """Check the requirements of one extra; "" stands for those without one.

    Args:
        facts: What was found.
        extra: Its name.
        besides: Extras that it takes in and that are checked elsewhere.
    """
    command = f'pip install "edgekit[{extra}]"' if extra else "pip install --upgrade edgekit"
    elsewhere = {_name(text) for text in facts.requirements if _extra(text) in besides}
    checks = []
    for text in facts.requirements:
        name = _name(text)
        if _extra(text) != extra or name in elsewhere or name == "edgekit":
            continue
        version = facts.distributions.get(name)
        wanted = text.partition(";")[0].strip()
        if version is None:
            checks.append(Check(name, State.MISSING, "", command))
        elif not _allows(wanted, version):
            found = f"{version}, wanted {wanted[len(name) :].strip()}"
            checks.append(Check(name, State.WRONG, found, f'pip install "{wanted}"'))
        else:
            checks.append(Check(name, State.OK, version))
    return tuple(checks)


def _name(requirement: str) -> str:
    match = _REQUIREMENT.match(requirement)
    return _normal(match.group(1)) if match else ""


def _extra(requirement: str) -> str:
    match = _EXTRA.search(requirement)
    return match.group(1) if match else ""


def _allows(requirement: str, version: str) -> bool:
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:  # a device has no packaging: what is there is taken as right
        return True
    try:
        return Requirement(requirement).specifier.contains(version, prereleases=True)
    except InvalidRequirement:
        return True


def _program(facts: Facts, name: str, install: str | None) -> Check:
    version = facts.programs.get(name)
    if version is None:
        found = "" if install else "only Debian and its family have it"
        return Check(name, State.MISSING, found, install)
    return Check(name, State.OK, version)


def _own_requirements() -> tuple[str, ...]:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return tuple(importlib.metadata.requires("edgekit") or ())
    return ()


def _onnxruntime_problem() -> str:
    from edgekit.runtime.session import import_onnxruntime

    try:
        import_onnxruntime()
    except MissingToolError as error:
        return error.message
    return ""


def _key(path: Path) -> tuple[str, str, str | None]:
    from edgekit.wire.signing import load_private_key

    try:
        if not path.exists():
            return "", "", None
        return load_private_key(path).public.label, "", None
    except TrustError as error:
        return "", str(error), error.hint
    except OSError as error:
        return "", f"{path}: {error.strerror}", None


def _nearest(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _version(name: str, arguments: tuple[str, ...]) -> str | None:
    # Daemons live in sbin, which is not on everybody's path.
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "does not start"
    lines = (done.stdout or done.stderr).strip().splitlines()
    number = re.search(r"\d+(\.\d+)+", lines[0]) if lines else None
    return number.group(0) if number else "of unknown version"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
