"""Run Python for aarch64 on this machine: natively where it is one, else under qemu-user.

What is needed is made once and kept in the cache: a small Debian user-space (no root, no chroot,
nothing is installed on the host) and the aarch64 wheels of what edgekit's runtime imports, at the
versions that this installation has. The edgekit package itself is this very one, read from where
it is installed, so host and emulated device run the same lines of code.

Traps, all met in practice:

- onnxruntime crashes at import under qemu-user without an Arm-format ``/proc/cpuinfo``, and it must
  tell the truth about ``-cpu``: claiming ``asimddp`` for a Cortex-A53 ends in SIGILL. Every run
  gets a prefix of its own with the right one.
- PYTHONPATH must reach the emulated Python alone, and the host's site-packages must not: they hold
  x86 extension modules. So the child's environment is made from nothing.
- Memory under qemu-user is a multiple of the truth: it is never reported.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgekit.toolchain.events import Event, OnEvent, ignore
from edgekit.toolchain.userspace import (
    APT_COMMAND,
    GUEST_PYTHON,
    PACKAGES,
    PLATFORMS,
    ROOTFS_PACKAGES,
    SUITE,
    last_line,
    make_rootfs,
    make_site,
    pins,
)
from edgekit.wire.canonical import digest_of
from edgekit.wire.errors import BuildError, ConfigError, DeviceError, MissingToolError, did_you_mean

log = logging.getLogger(__name__)

# Imported once while the cache entry is made: proves it, and leaves the bytecode behind.
_SMOKE = "import numpy, onnxruntime, cryptography.hazmat.primitives.asymmetric.ed25519"
_LAYOUT = 1  # counts changes of what a cache entry holds


@dataclass(frozen=True)
class Core:
    """A core that qemu-user stands in for.

    Attributes:
        part: "CPU part" of Arm's MIDR, as /proc/cpuinfo shows it.
        features: "Features" line of /proc/cpuinfo under Linux.
    """

    part: str
    features: str


_V8_0 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_V8_2 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)
# Part numbers: Arm Technical Reference Manuals, MIDR_EL1 of each core.
CORES: Mapping[str, Core] = {
    "cortex-a35": Core("0xd04", _V8_0),
    "cortex-a53": Core("0xd03", _V8_0),
    "cortex-a55": Core("0xd05", _V8_2),
    "cortex-a57": Core("0xd07", _V8_0),
    "cortex-a72": Core("0xd08", _V8_0),
    "cortex-a76": Core("0xd0b", _V8_2),
    "neoverse-n1": Core("0xd0c", _V8_2),
}
DEFAULT_CPU = "cortex-a76"


class Stages(Protocol):
    """The part of :class:`edgekit.toolchain.cache.Cache` that is used here."""

    def stage(self, name: str, key: str, produce: Callable[[Path], None]) -> tuple[Path, bool]:
        """Return a content-keyed folder, made atomically, and whether it was there already."""
        ...


def cpuinfo(cpu: str, count: int) -> str:
    """Return the /proc/cpuinfo of a core as Linux on Arm prints it.

    Args:
        cpu: A name of :data:`CORES`.
        count: Number of processors, ≥ 1.
    """
    core = CORES[cpu]
    return "".join(
        f"processor\t: {index}\n"
        "BogoMIPS\t: 108.00\n"
        f"Features\t: {core.features}\n"
        "CPU implementer\t: 0x41\n"
        "CPU architecture: 8\n"
        "CPU variant\t: 0x1\n"
        f"CPU part\t: {core.part}\n"
        "CPU revision\t: 0\n\n"
        for index in range(count)
    )


def is_native() -> bool:
    """Tell whether this machine runs aarch64 code itself."""
    return platform.machine() in ("aarch64", "arm64")


def find_qemu() -> str | None:
    """Return the path of qemu-user for aarch64, if it is installed."""
    return shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


@dataclass(frozen=True)
class Emulator:
    """An aarch64 Python with edgekit's runtime.

    Attributes:
        root: Holds ``rootfs/`` and ``site/``; None runs this machine's own Python.
    """

    root: Path | None

    @property
    def native(self) -> bool:
        """True where nothing is emulated."""
        return self.root is None

    @classmethod
    def prepare(
        cls,
        cache: Stages,
        *,
        packages: Sequence[str] = PACKAGES,
        on_event: OnEvent = ignore,
        offline: bool = False,
    ) -> Emulator:
        """Make the user-space, or find it in the cache; the second time needs no network.

        Args:
            cache: Keeps the user-space.
            packages: Distributions to put in, without their dependencies.
            on_event: Hears of the progress.
            offline: Refuse to download.

        Raises:
            MissingToolError: qemu-user, or what makes the user-space, is not installed.
            BuildError: The user-space cannot be made: no network, or a broken wheel.
        """
        if is_native():
            return cls(None)
        _require_qemu()
        wanted = pins(packages)
        key = digest_of(
            {
                "layout": _LAYOUT,
                "suite": SUITE,
                "debian": list(ROOTFS_PACKAGES),
                "python": GUEST_PYTHON,
                "platforms": list(PLATFORMS),
                "pins": wanted,
            }
        )
        started = time.monotonic()

        def produce(folder: Path) -> None:
            if offline:
                raise BuildError(
                    "the emulated user-space is not in the cache, and this run is offline",
                    hint="run `edgekit verify BUNDLE --emulate` once with the network",
                )
            on_event(Event("aarch64", "emulate", 0, 3, "steps", "Debian user-space"))
            make_rootfs(folder / "rootfs")
            on_event(Event("aarch64", "emulate", 1, 3, "steps", "wheels for aarch64"))
            make_site(folder / "site", wanted)
            on_event(Event("aarch64", "emulate", 2, 3, "steps", "first run"))
            cls(folder)._smoke()

        root, cached = cache.stage("emulator", key, produce)
        on_event(
            Event(
                subject="aarch64",
                stage="emulate",
                done=3,
                total=3,
                unit="steps",
                detail=f"Debian {SUITE}, onnxruntime {wanted.get('onnxruntime', '?')}",
                seconds=time.monotonic() - started,
                cached=cached,
            )
        )
        return cls(root)

    def run_python(
        self,
        args: Sequence[str],
        *,
        cpu: str = DEFAULT_CPU,
        timeout_s: float = 600.0,
        write_bytecode: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python ARGS…`` on an emulated core, with this edgekit importable.

        The child sees the host's files under their own paths; pass absolute ones. It starts in an
        empty folder, with an environment of its own.

        Args:
            args: ``["-m", "edgekit.runtime.replay", "/path/to/folder", "--json"]``.
            cpu: A name of :data:`CORES`; ignored where this machine is aarch64 itself.
            timeout_s: Seconds after which the child and its children are ended.
            write_bytecode: Let Python write its bytecode beside the modules.

        Returns:
            What the child printed and its exit code, which may be other than 0.

        Raises:
            ConfigError: No such core.
            DeviceError: The child was ended by a signal or by the time limit.
            MissingToolError: qemu-user is not installed.
        """
        if self.root is not None and cpu not in CORES:
            close = did_you_mean(cpu, CORES)
            raise ConfigError(
                f'no core named "{cpu}"',
                hint=f"did you mean {close}?" if close else f"cores: {', '.join(CORES)}",
            )
        with tempfile.TemporaryDirectory(prefix="edgekit-emulate-") as scratch:
            work = Path(scratch)
            environment = self._environment(work, write_bytecode=write_bytecode)
            with _own_package(work / "package") as package:
                environment["PYTHONPATH"] = os.pathsep.join(
                    [str(package), environment["PYTHONPATH"]]
                ).rstrip(os.pathsep)
                command = [*self._command(work, cpu), "-s", *args]
                where = "this machine" if self.root is None else f"the emulated {cpu}"
                return _run(command, environment, work, where=where, timeout_s=timeout_s)

    def _command(self, work: Path, cpu: str) -> list[str]:
        if self.root is None:
            return [sys.executable]
        prefix = work / "prefix"
        (prefix / "proc").mkdir(parents=True)
        (prefix / "proc/cpuinfo").write_text(cpuinfo(cpu, os.cpu_count() or 1))
        # Nothing but the libraries: qemu looks here first, and /tmp or /etc of the user-space
        # would hide the host's.
        for name in ("usr", "lib"):
            (prefix / name).symlink_to(self.root / "rootfs" / name)
        qemu = _require_qemu()
        python = self.root / f"rootfs/usr/bin/python{GUEST_PYTHON}"
        return [qemu, "-cpu", cpu, "-L", str(prefix), str(python)]

    def _environment(self, work: Path, *, write_bytecode: bool) -> dict[str, str]:
        for name in ("home", "tmp", "cwd"):
            (work / name).mkdir()
        environment = {
            "PATH": os.defpath,
            "HOME": str(work / "home"),
            "TMPDIR": str(work / "tmp"),
            "LANG": "C.UTF-8",
            "ORT_DISABLE_TELEMETRY": "1",
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": os.pathsep.join(sys.path)
            if self.root is None
            else str(self.root / "site"),
        }
        if not write_bytecode:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        return environment

    def _smoke(self) -> None:
        done = self.run_python(["-c", _SMOKE], timeout_s=300, write_bytecode=True)
        if done.returncode != 0:
            raise BuildError(f"the emulated Python does not work: {last_line(done.stderr)}")


@contextlib.contextmanager
def _own_package(folder: Path) -> Iterator[Path]:
    """Show the edgekit package alone, and not the site-packages that it may stand in."""
    spec = importlib.util.find_spec("edgekit")
    if spec is None or not spec.submodule_search_locations:
        raise BuildError("the edgekit package has no folder", hint="install it from a wheel")
    folder.mkdir()
    (folder / "edgekit").symlink_to(Path(spec.submodule_search_locations[0]).resolve())
    yield folder


def _run(
    command: list[str], environment: dict[str, str], work: Path, *, where: str, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    log.debug("%s", " ".join(command))
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
        cwd=work / "cwd",  # qemu leaves core files where it dies; they go with the folder
        start_new_session=True,
    ) as child:
        try:
            stdout, stderr = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            _end(child)
            raise DeviceError(
                f"the program on {where} did not end within {timeout_s:.0f} s",
                hint="emulation is 5 to 30 times slower than the device; allow more time",
            ) from error
        except BaseException:  # Ctrl-C: a child in a session of its own does not get it
            _end(child)
            raise
    if stderr.strip():
        log.info("the program on %s said:\n%s", where, stderr.strip())
    _check_end(child.returncode, stderr, where)
    return subprocess.CompletedProcess(command, child.returncode, stdout, stderr)


def _end(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def _check_end(returncode: int, stderr: str, where: str) -> None:
    if "unable to find CPU model" in stderr:
        raise ConfigError(
            f"this qemu does not know {where.removeprefix('the emulated ')}",
            hint="`qemu-aarch64-static -cpu help` lists what it knows; newer versions know more",
        )
    if returncode >= 0:
        return
    number = -returncode
    name = signal.Signals(number).name if number in signal.valid_signals() else str(number)
    hints = {
        signal.SIGILL: f"something uses an instruction that {where} does not have",
        signal.SIGSEGV: "onnxruntime or the model crashes there: the same would happen on a device",
        signal.SIGKILL: "the machine may be out of memory; emulation takes 2.5 times the device's",
    }
    raise DeviceError(
        f"the program on {where} was ended by {name}", hint=hints.get(signal.Signals(number))
    )


def _require_qemu() -> str:
    qemu = find_qemu()
    if qemu is None:
        raise MissingToolError("qemu-user for aarch64 is not installed", hint=APT_COMMAND)
    return qemu
