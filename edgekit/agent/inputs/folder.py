"""A watched folder: every file that appears in it is a sample.

Options:
    path: The folder.
    poll_s: Seconds between two looks, default 1.
    after: ``"move"`` (default) moves a file to ``done/`` or ``failed/`` in the folder; ``"delete"``
        deletes what was answered and moves the rest to ``failed/``.
    max_bytes: A larger file fails, default 64 MiB.

A file is taken once its size and time have stayed the same between two looks, so that none is read
while it is being written. Names that begin with a dot or end in ``.part`` or ``.tmp`` are left
alone, and so is everything that is not a plain file. Nothing leaves the folder through a link.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.agent.inputs import MAX_SAMPLE_BYTES, Sample
from edgekit.runtime.options import Options
from edgekit.wire.errors import ConfigError

log = logging.getLogger(__name__)

_UNFINISHED = (".part", ".tmp")
# A name that is taken already gets a number; nobody has that many of one name.
_MOST_NUMBERS = 100_000

State = tuple[int, int, int]


@dataclass
class WatchedFolder:
    """The input; see the module's text for the options."""

    path: Path
    poll_s: float
    deletes: bool
    max_bytes: int

    def samples(self, stop: threading.Event) -> Iterator[Sample]:
        """Yield the files that have settled, oldest first."""
        seen: dict[str, State] = {}
        stuck: dict[str, State] = {}
        while not stop.is_set():
            found = self._look()
            settled = sorted(
                (state[1], name)
                for name, state in found.items()
                if seen.get(name) == state and stuck.get(name) != state
            )
            seen = found
            for _, name in settled:
                if stop.is_set():
                    return
                yield from self._take(name)
                # What cannot be moved away is not taken again and again.
                stuck[name] = found[name]
            stuck = {name: state for name, state in stuck.items() if name in found}
            stop.wait(self.poll_s)

    def _look(self) -> dict[str, State]:
        found: dict[str, State] = {}
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name.endswith(_UNFINISHED):
                        continue
                    # One that somebody else takes away meanwhile hides no other.
                    with contextlib.suppress(FileNotFoundError):
                        if entry.is_file(follow_symlinks=False):
                            s = entry.stat(follow_symlinks=False)
                            found[entry.name] = (s.st_size, s.st_mtime_ns, s.st_ino)
        except OSError as error:
            log.warning("%s cannot be read: %s", self.path, error.strerror)
        return found

    def _take(self, name: str) -> Iterator[Sample]:
        path = self.path / name
        try:
            data = _read(path, self.max_bytes)
        except OSError as error:
            log.warning("%s cannot be read: %s", path, error.strerror or error)
            self._move(name, "failed")
            return

        def done(ok: bool) -> None:
            if ok and self.deletes:
                self._delete(path)
            else:
                self._move(name, "done" if ok else "failed")

        yield Sample(data, name, done)

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be deleted: %s", path, error.strerror)

    def _move(self, name: str, folder: str) -> None:
        target = self.path / folder
        try:
            target.mkdir(exist_ok=True)
            # Who may write here could put a link in its place.
            place = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.rename(self.path / name, _free_name(name, place), dst_dir_fd=place)
            finally:
                os.close(place)
        except FileNotFoundError:
            return  # someone else has taken it away
        except OSError as error:
            log.warning("%s cannot be moved to %s: %s", name, target, error.strerror)


def _free_name(name: str, folder: int) -> str:
    """Return the name, with a number where the folder has it already."""
    stem, dot, suffix = name.rpartition(".")
    for number in range(_MOST_NUMBERS):
        tried = (
            name if not number else f"{stem}-{number}{dot}{suffix}" if stem else f"{name}-{number}"
        )
        try:
            os.stat(tried, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return tried
    raise OSError(errno.EEXIST, "every name is taken")


def _read(path: Path, max_bytes: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("not a plain file")
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(f"over {max_bytes} bytes")
    return data


def create(options: Mapping[str, Any], clock: Callable[[], float]) -> WatchedFolder:  # noqa: ARG001
    """Make the input; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong, or there is no such folder.
    """
    opts = Options(options, "input folder")
    watched = WatchedFolder(
        path=Path(opts.get("path", str)),
        poll_s=opts.within("poll_s", 0.01, 3600, 1.0),
        deletes=opts.choice("after", ("move", "delete"), "move") == "delete",
        max_bytes=int(opts.within("max_bytes", 1, MAX_SAMPLE_BYTES, MAX_SAMPLE_BYTES)),
    )
    opts.close()
    if not watched.path.is_dir():
        raise ConfigError("there is no such folder", where=str(watched.path), hint="make it first")
    return watched
