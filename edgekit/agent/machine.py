"""This machine, as the set-up sees it: users, files and systemd, or what would become of them."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.wire.errors import DeviceError, MissingToolError

COMMENT = "edgekit agent"
_SYSTEMD = Path("/run/systemd/system")
_TIMEOUT_S = 120


@dataclass(frozen=True)
class Change:
    """What one step did, or would do.

    Attributes:
        what: ``user``, ``settings``, ``unit``, …
        outcome: ``created``, ``changed``, ``removed``, ``unchanged`` or ``kept``.
        subject: A path or a name.
        detail: What changed, for people.
        text: What would be written; in a dry run alone.
    """

    what: str
    outcome: str
    subject: str
    detail: str = ""
    text: str = ""


@dataclass(frozen=True)
class Identity:
    """Numbers of a user and a group; -1 where they are not known yet."""

    uid: int
    gid: int


def run_program(argv: Sequence[str]) -> str:
    """Run a program of the system and return what it printed.

    Raises:
        MissingToolError: It is not installed.
        DeviceError: It failed.
    """
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, errors="replace"
        )
    except FileNotFoundError as error:
        raise MissingToolError(
            f"{argv[0]} is not installed", hint="the service needs a Linux with systemd"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"`{' '.join(argv)}` took over {_TIMEOUT_S} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise DeviceError(
            f"`{' '.join(argv)}` failed: {said[-1] if said else done.returncode}",
            hint="`edgekit agent logs` may say why",
        )
    return done.stdout


class Machine:
    """What changes the machine, each call one step.

    Args:
        dry_run: Change nothing; say what would be.
        root: Everything lies below this folder: another one than / in tests and for images.
        run: Runs a program.
    """

    def __init__(
        self,
        *,
        dry_run: bool = False,
        root: Path = Path("/"),
        run: Callable[[Sequence[str]], str] = run_program,
    ) -> None:
        self.dry_run = dry_run
        self._root = root
        self._run = run

    def real(self, path: Path) -> Path:
        """Return where a path lies, under this machine's root."""
        return self._root / path.relative_to("/") if path.is_absolute() else path

    # Users

    def has_user(self, name: str) -> bool:
        """Tell whether a user exists."""
        with contextlib.suppress(KeyError):
            return bool(pwd.getpwnam(name))
        return False

    def has_group(self, name: str) -> bool:
        """Tell whether a group exists."""
        with contextlib.suppress(KeyError):
            return bool(grp.getgrnam(name))
        return False

    def identity(self, name: str) -> Identity:
        """Return a user's numbers."""
        with contextlib.suppress(KeyError):
            return Identity(pwd.getpwnam(name).pw_uid, grp.getgrnam(name).gr_gid)
        if self.dry_run:
            return Identity(-1, -1)
        raise DeviceError(
            f"there is no user and group named {name}", hint=f"groupadd {name}, or another --user"
        )

    def add_user(self, name: str, home: Path) -> None:
        """Make a system user without a shell, and its group."""
        if not self.dry_run:
            self._run(
                [
                    *("useradd", "--system", "--user-group", "--no-create-home"),
                    *("--home-dir", str(home), "--shell", "/usr/sbin/nologin"),
                    *("--comment", COMMENT, name),
                ]
            )

    def remove_user(self, name: str) -> Change:
        """Remove a user that :meth:`add_user` has made; others stay."""
        with contextlib.suppress(KeyError):
            if pwd.getpwnam(name).pw_gecos != COMMENT:
                return Change("user", "kept", name, "not made by edgekit")
            if not self.dry_run:
                self._run(["userdel", name])
            return Change("user", "removed", name)
        return Change("user", "unchanged", name, "not there")

    def closed_to(self, folder: Path, user: str) -> bool:
        """Tell whether a user cannot enter a folder. Only the plain modes are looked at."""
        try:
            found = self.real(folder).stat()
            known = pwd.getpwnam(user)
        except (OSError, KeyError):
            return False
        if known.pw_uid in (0, found.st_uid):
            return known.pw_uid != 0 and not found.st_mode & stat.S_IXUSR
        if found.st_gid in os.getgrouplist(user, known.pw_gid):
            return not found.st_mode & stat.S_IXGRP
        return not found.st_mode & stat.S_IXOTH

    # Files

    def owns(self, found: os.stat_result, owner: Identity) -> bool:
        """Tell whether a file belongs to someone; without rights to change that, it does."""
        return os.geteuid() != 0 or (found.st_uid, found.st_gid) == (owner.uid, owner.gid)

    def guard(self, path: Path, mode: int, owner: Identity) -> None:
        """Give a file a mode and an owner."""
        if self.dry_run:
            return
        with _explaining(path):
            descriptor = os.open(self.real(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                _guard(descriptor, mode, owner)
            finally:
                os.close(descriptor)

    def write(self, what: str, path: Path, data: bytes, mode: int, owner: Identity) -> Change:
        """Write a file so that readers see the old one or the new one."""
        real = self.real(path)
        outcome = "changed" if real.exists() else "created"
        if not self.dry_run:
            partial = real.with_name(f".{real.name}.new")
            with _explaining(path):
                real.parent.mkdir(parents=True, exist_ok=True)
                partial.unlink(missing_ok=True)
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
                with os.fdopen(os.open(partial, flags, 0o600), "wb") as file:
                    file.write(data)
                    file.flush()
                    _guard(file.fileno(), mode, owner)
                    os.fsync(file.fileno())
                partial.replace(real)
        text = data.decode(errors="replace") if self.dry_run else ""
        return Change(what, outcome, str(path), f"{len(data)} bytes, mode {mode:04o}", text)

    def make_folder(self, what: str, path: Path, mode: int, owner: Identity) -> Change:
        """Make a folder."""
        if not self.dry_run:
            with _explaining(path):
                self.real(path).mkdir(parents=True)
            self.guard(path, mode, owner)
        return Change(what, "created", str(path), f"mode {mode:04o}")

    def remove_file(self, what: str, path: Path) -> Change:
        """Remove a file."""
        if not self.real(path).exists():
            return Change(what, "unchanged", str(path), "not there")
        if not self.dry_run:
            with _explaining(path):
                self.real(path).unlink()
        return Change(what, "removed", str(path))

    def remove_folder_if_empty(self, what: str, path: Path) -> Change:
        """Remove a folder, unless something of others is in it."""
        if self.dry_run:
            return Change(what, "removed", str(path), "if it is empty then")
        try:
            self.real(path).rmdir()
        except FileNotFoundError:
            return Change(what, "unchanged", str(path), "not there")
        except OSError:
            return Change(what, "kept", str(path), "not empty")
        return Change(what, "removed", str(path))

    def remove_tree(self, what: str, path: Path) -> Change:
        """Remove a folder with all that is in it."""
        if not self.real(path).exists():
            return Change(what, "unchanged", str(path), "not there")
        if not self.dry_run:
            with _explaining(path):
                shutil.rmtree(self.real(path))
        return Change(what, "removed", str(path))

    # systemd

    @property
    def runs_systemd(self) -> bool:
        """Whether systemd is this machine's init, and running."""
        return self.real(_SYSTEMD).is_dir()

    def enable(self, unit: str, *, has_changed: bool, start: bool) -> Iterator[Change]:
        """Let systemd know the unit, start it at boot, and now."""
        if not self.runs_systemd:
            yield Change("service", "unchanged", unit, "systemd does not run here: not started")
            return
        if has_changed:
            yield from self.reload()
        enabled, active = self._is("is-enabled", unit), self._is("is-active", unit)
        if not enabled:
            self._systemctl("enable", unit)
            yield Change("boot", "changed", unit, "starts with the machine")
        if start and (has_changed or not active):
            self._systemctl("restart", unit)
            detail = "started anew" if active else "started"
            yield Change("service", "changed", unit, detail)
        else:
            yield Change("service", "unchanged", unit, "runs" if active else "not started")

    def disable(self, unit: str) -> Iterator[Change]:
        """Stop the unit, and let systemd not start it again."""
        there = self.real(Path("/etc/systemd/system") / unit).exists()
        if self.runs_systemd and there:
            self._systemctl("disable", "--now", unit)
            yield Change("service", "removed", unit, "stopped")

    def reload(self) -> Iterator[Change]:
        """Let systemd read its units again."""
        if self.runs_systemd:
            self._systemctl("daemon-reload")
        yield from ()

    def _is(self, question: str, unit: str) -> bool:
        with contextlib.suppress(DeviceError):
            self._run(["systemctl", question, "--quiet", unit])
            return True
        return False

    def _systemctl(self, *words: str) -> None:
        if not self.dry_run:
            self._run(["systemctl", *words])


def _guard(descriptor: int, mode: int, owner: Identity) -> None:
    os.fchmod(descriptor, mode)
    if os.geteuid() == 0:
        os.fchown(descriptor, owner.uid, owner.gid)


@contextlib.contextmanager
def _explaining(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DeviceError(
            f"cannot be changed: {error.strerror}",
            where=str(path),
            hint="run it as root: sudo",
        ) from error
