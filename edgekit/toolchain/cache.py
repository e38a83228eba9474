"""One content-keyed cache for everything that is fetched or computed.

A *stage* is a folder under a kind (``download``, ``export``, …) and a key that stands for all that
its content depends on. It is made in a temporary folder, synced to disk and renamed into place, so
it is there whole or not at all:

    root/stages/<kind>/<key>/content/…      what the stage holds
    root/stages/<kind>/<key>/index.json     the size of every file in it
    root/work/<kind>~<key>.lock             held while the stage is made
    root/work/<kind>~<key>.<random>.tmp/    what is being made; swept once nobody holds the lock
    root/parts/<sha256>.part                downloads that can be resumed

The lock belongs to the operating system (``flock``), so it ends with its process,
however that ends.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.wire.errors import BuildError, ConfigError

log = logging.getLogger(__name__)

_KIND = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_TEMP = re.compile(r"([a-z0-9-]+~[A-Za-z0-9._+-]+)\.[0-9a-f]{8}\.tmp")
# EFBIG: a limit on the size of files (ulimit -f) ends a write just as a full disk does.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR})
# A hit refreshes the time of last use, but not more often than this.
_TOUCH_EVERY_S = 3600.0
_SYNCED_ONE_BY_ONE = 64
_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# Made by edgekit; safe to delete.\n"


@dataclass(frozen=True)
class Entry:
    """Something the cache holds.

    Attributes:
        kind: ``download``, ``source``, ``export``, … or ``part`` for an unfinished download.
        key: Its key.
        path: Its folder or file.
        size_bytes: Bytes of its files.
        used_at: When it was last used, seconds since 1970.
    """

    kind: str
    key: str
    path: Path
    size_bytes: int
    used_at: float


def default_root() -> Path:
    """Return the cache folder of this user."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("edgekit"))


@dataclass(frozen=True)
class Cache:
    """The cache below one folder, which need not exist yet.

    Several processes and threads may use it at once.

    Attributes:
        root: The folder.
    """

    root: Path

    def stage(self, name: str, key: str, produce: Callable[[Path], None]) -> tuple[Path, bool]:
        """Return a stage's folder; make it first if it is not there or not whole.

        Args:
            name: The kind of stage: ``export``, ``optimize``, …
            key: Digest of all that the content depends on.
            produce: Fills the empty folder it is given. It may itself use the cache, under other
                keys. Whatever it raises leaves the cache as it was.

        Returns:
            The folder, and True if it was there already.

        Raises:
            BuildError: The disk is full.
            ConfigError: The cache folder cannot be written.
        """
        place = self._place(name, key)
        if _is_whole(place):
            _touch(place / "index.json")
            return place / "content", True
        with self._explained():
            self._prepare()
            with self._locked(f"{name}~{key}"):
                if _is_whole(place):
                    return place / "content", True
                self._make(place, produce)
        return place / "content", False

    def has(self, name: str, key: str) -> bool:
        """Tell whether a stage is there and whole."""
        return _is_whole(self._place(name, key))

    def download_path(self, sha256: str) -> Path:
        """Return the folder that holds the downloaded file of a digest, if it was downloaded."""
        return self._place("download", sha256) / "content"

    def part_path(self, name: str) -> Path:
        """Return where an unfinished download is kept between tries.

        Raises:
            BuildError: The disk is full.
            ConfigError: The cache folder cannot be written.
        """
        if not _KEY.fullmatch(name):
            raise ValueError(f"not a name for a part: {name!r}")
        folder = self.root / "parts"
        with self._explained():
            folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.part"

    def usage(self) -> list[Entry]:
        """List what the cache holds, largest first. What nobody is making any more is swept."""
        self._sweep()
        found = [_entry(place) for place in self._places()]
        for part in sorted((self.root / "parts").glob("*.part")):
            status = part.stat()
            found.append(Entry("part", part.stem, part, status.st_size, status.st_mtime))
        return sorted(found, key=lambda e: (-e.size_bytes, e.kind, e.key))

    def select(
        self, kinds: Collection[str] | None = None, older_than: float | None = None
    ) -> list[Entry]:
        """List a part of what the cache holds.

        Args:
            kinds: Only these; None takes all.
            older_than: Only what was last used before this time (seconds since 1970); None: all.
        """
        return [
            entry
            for entry in self.usage()
            if (kinds is None or entry.kind in kinds)
            and (older_than is None or entry.used_at < older_than)
        ]

    def clear(
        self, kinds: Collection[str] | None = None, older_than: float | None = None
    ) -> list[Entry]:
        """Remove what :meth:`select` lists.

        Returns:
            What was removed.

        Raises:
            ConfigError: The cache folder cannot be written.
        """
        removed = []
        for entry in self.select(kinds, older_than):
            with self._explained():
                if entry.path.is_dir():
                    self._discard(entry.path)
                else:
                    entry.path.unlink(missing_ok=True)
            removed.append(entry)
        return removed

    def free_bytes(self) -> int:
        """Return the free bytes of the disk that the cache is on."""
        folder = self.root
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def _place(self, name: str, key: str) -> Path:
        if not _KIND.fullmatch(name) or not _KEY.fullmatch(key):
            raise ValueError(f"not a stage: {name!r} {key!r}")
        return self.root / "stages" / name / key

    @property
    def _work(self) -> Path:
        return self.root / "work"

    def _places(self) -> list[Path]:
        # Only what has an index is ours: a cache folder may be shared with other things.
        return sorted(p.parent for p in (self.root / "stages").glob("*/*/index.json"))

    def _prepare(self) -> None:
        if not self._work.is_dir():
            self._work.mkdir(parents=True, exist_ok=True)
            (self.root / "CACHEDIR.TAG").write_bytes(_TAG)
        self._sweep()

    def _make(self, place: Path, produce: Callable[[Path], None]) -> None:
        temporary = self._temporary(place)
        content = temporary / "content"
        try:
            content.mkdir(parents=True)
            produce(content)
            index = json.dumps({"files": _sizes(content)}, sort_keys=True)
            (temporary / "index.json").write_text(index, encoding="utf-8")
            _sync_tree(temporary)
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                self._discard(place)
            temporary.rename(place)
            _sync(place.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _temporary(self, place: Path) -> Path:
        return self._work / f"{place.parent.name}~{place.name}.{secrets.token_hex(4)}.tmp"

    def _discard(self, place: Path) -> None:
        """Remove a stage; it is gone for others at once, even where deleting takes long."""
        self._work.mkdir(parents=True, exist_ok=True)
        doomed = self._temporary(place)
        try:
            place.rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed, ignore_errors=True)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        path = self._work / f"{name}.lock"
        held = _lock(path, wait=False)
        if held is None:
            log.info("another process is making %s: waiting", name)
            held = _lock(path, wait=True)
        try:
            yield
        finally:
            _unlock(path, held)

    def _sweep(self) -> None:
        """Remove temporary folders whose maker is gone."""
        if not self._work.is_dir():
            return
        for folder in self._work.glob("*.tmp"):
            match = _TEMP.fullmatch(folder.name)
            if match is None:
                continue
            lock = self._work / f"{match.group(1)}.lock"
            try:
                held = _lock(lock, wait=False)
            except OSError:
                continue  # not ours to write: a hit needs no sweep
            if held is not None:
                shutil.rmtree(folder, ignore_errors=True)
                _unlock(lock, held)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            for cause in _causes(error):
                if isinstance(cause, OSError) and cause.errno in _FULL:
                    raise BuildError(
                        f"the disk is full: {self.free_bytes() / 2**20:.0f} MiB are free",
                        hint="`edgekit cache clear` makes room; EDGEKIT_CACHE_DIR moves the cache",
                        where=str(self.root),
                    ) from error
                if isinstance(cause, OSError) and self._is_ours(cause):
                    raise ConfigError(
                        f"the cache folder cannot be written ({os.strerror(cause.errno or 0)})",
                        hint="set EDGEKIT_CACHE_DIR or --cache-dir to a folder that can",
                        where=str(self.root),
                    ) from error
            raise

    def _is_ours(self, error: OSError) -> bool:
        if error.errno not in _REFUSED or error.filename is None:
            return False
        name = Path(str(error.filename))
        return name.is_relative_to(self.root) or self.root.is_relative_to(name)


def _causes(error: BaseException) -> list[BaseException]:
    chain = [error]
    while chain[-1].__cause__ is not None and chain[-1].__cause__ not in chain:
        chain.append(chain[-1].__cause__)
    return chain


def _sizes(content: Path) -> dict[str, int]:
    sizes = {}
    for path in sorted(content.rglob("*")):
        if path.is_symlink():
            raise ValueError(f"a stage holds files, not links: {path.name}")
        if path.is_file():
            sizes[path.relative_to(content).as_posix()] = path.stat().st_size
    return sizes


def _is_whole(place: Path) -> bool:
    sizes = _index(place)
    if sizes is None:
        return False
    content = f"{place}/content"
    try:
        return Path(content).is_dir() and all(
            os.stat(f"{content}/{name}").st_size == size  # noqa: PTH116 - Path is slow for thousands
            for name, size in sizes.items()
        )
    except (OSError, ValueError):
        return False


def _index(place: Path) -> Mapping[str, int] | None:
    try:
        document: Any = json.loads((place / "index.json").read_bytes())
        sizes = document["files"]
        if not all(isinstance(k, str) and isinstance(v, int) for k, v in sizes.items()):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    checked: dict[str, int] = sizes
    return checked


def _entry(place: Path) -> Entry:
    index = place / "index.json"
    size = sum((_index(place) or {}).values()) + index.stat().st_size
    return Entry(place.parent.name, place.name, place, size, index.stat().st_mtime)


def _touch(index: Path) -> None:
    now = time.time()
    try:
        if now - index.stat().st_mtime > _TOUCH_EVERY_S:
            os.utime(index, (now, now))
    except OSError:
        log.debug("the time of last use of %s cannot be kept", index)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    paths = [*sorted(folder.rglob("*"), reverse=True), folder]
    if len(paths) > _SYNCED_ONE_BY_ONE:
        os.sync()  # 10,000 files: 2 s, where one fsync each takes 100 s
        return
    for path in paths:
        _sync(path)


def _lock(path: Path, *, wait: bool) -> int | None:
    """Take a lock file; None if another holds it and `wait` is False."""
    import fcntl

    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Its last holder may have removed the file between the two calls: take the new one.
            if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            log.debug("%s went away while it was taken", path)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _unlock(path: Path, descriptor: int | None) -> None:
    path.unlink(missing_ok=True)
    if descriptor is not None:
        os.close(descriptor)
