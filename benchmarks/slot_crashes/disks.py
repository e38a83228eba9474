"""Disks that end the process between any two operations, forget what was not synced, or are full.

Every operation of :class:`edgekit.agent.disk.Disk` that changes something has a point before and
one after it; a write has a third in its middle, with half of the bytes written.
"""

# what each method does stands at `Disk`, which it overrides
# ruff: noqa: D102, ARG002, ANN401
from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from edgekit.agent.disk import Disk


class Killed(BaseException):
    """The process ended here. Nothing may catch it, and nothing may be written after it."""


class PointDisk(Disk):
    """A real disk that calls ``at_point(name, path)`` at every point."""

    def __init__(self) -> None:
        self.paths: dict[int, Path] = {}

    def at_point(self, name: str, path: Path) -> None:
        """Do nothing here; subclasses count, kill or fail."""

    def _around(self, name: str, path: Path, work: Callable[[], Any]) -> Any:
        self.at_point(f"before {name}", path)
        result = work()
        self.at_point(f"after {name}", path)
        return result

    def create(self, path: Path) -> int:
        descriptor = self._around("create", path, lambda: super(PointDisk, self).create(path))
        self.paths[descriptor] = path
        return int(descriptor)

    def extend(self, path: Path) -> int:
        descriptor = self._around("extend", path, lambda: super(PointDisk, self).extend(path))
        self.paths[descriptor] = path
        return int(descriptor)

    def write(self, descriptor: int, data: bytes) -> int:
        path = self.paths[descriptor]
        self.at_point("before write", path)
        half = len(data) // 2
        if half:
            super().write(descriptor, data[:half])
            self.at_point("middle of write", path)
        super().write(descriptor, data[half:])
        self.at_point("after write", path)
        return len(data)

    def sync(self, descriptor: int) -> None:
        path = self.paths[descriptor]
        self._around("sync", path, lambda: super(PointDisk, self).sync(descriptor))

    def close(self, descriptor: int) -> None:
        path = self.paths[descriptor]
        self._around("close", path, lambda: super(PointDisk, self).close(descriptor))

    def rename(self, source: Path, target: Path) -> None:
        self._around("rename", target, lambda: super(PointDisk, self).rename(source, target))

    def unlink(self, path: Path) -> None:
        self._around("unlink", path, lambda: super(PointDisk, self).unlink(path))

    def make_folder(self, path: Path) -> None:
        self._around("make folder", path, lambda: super(PointDisk, self).make_folder(path))

    def remove_folder(self, path: Path) -> None:
        self._around("remove folder", path, lambda: super(PointDisk, self).remove_folder(path))

    def sync_folder(self, path: Path) -> None:
        self._around("sync folder", path, lambda: super(PointDisk, self).sync_folder(path))


@dataclass(frozen=True)
class Point:
    """One place where a device may die.

    Attributes:
        name: ``before rename``, ``middle of write``, …
        path: Of the file or folder.
        renamed: How often ``state.json`` had been replaced by then.
        synced: How often that had been synced, too.
    """

    name: str
    path: Path
    renamed: int
    synced: int


class RecordingDisk(PointDisk):
    """Notes all points."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.points: list[Point] = []
        self._root = root
        self._renamed = self._synced = 0

    def at_point(self, name: str, path: Path) -> None:
        if name == "after rename" and path == self._root / "state.json":
            self._renamed += 1
        if name == "after sync folder" and path == self._root:
            self._synced = self._renamed
        self.points.append(Point(name, path, self._renamed, self._synced))


class KillingDisk(PointDisk):
    """Ends the process at one point.

    Args:
        at: Index of the point.
        kill: Ends it; returns never.
    """

    def __init__(self, at: int, kill: Callable[[], None]) -> None:
        super().__init__()
        self._left = at
        self._kill = kill

    def at_point(self, name: str, path: Path) -> None:
        if self._left <= 0:
            # Also what ``finally`` clauses do on the way out: a dead process does nothing.
            self._kill()
        self._left -= 1


class FullDisk(PointDisk):
    """Has no space from some operation on, until somebody sets :attr:`full` to False."""

    def __init__(self, at: int, error_number: int, *, once: bool = False) -> None:
        super().__init__()
        self.full = True
        self.failed: list[str] = []
        self._left = at
        self._error_number = error_number
        self._once = once

    def at_point(self, name: str, path: Path) -> None:
        if not name.startswith("before") or name in ("before close", "before unlink"):
            return
        self._left -= 1
        if self.full and self._left < 0:
            self.failed.append(f"{name} {path.name}")
            self.full = not self._once
            raise OSError(self._error_number, os.strerror(self._error_number), str(path))


@dataclass(eq=False)
class _File:
    synced: bytes = b""
    now: bytes = b""


@dataclass(eq=False)
class _Folder:
    synced: dict[str, _File | _Folder] = field(default_factory=dict)
    now: dict[str, _File | _Folder] = field(default_factory=dict)


@dataclass(eq=False)
class _Change:
    """A change of names that no sync has made last: what to take out, what to put in."""

    taken: tuple[_Folder, str] | None
    put: tuple[_Folder, str, _File | _Folder] | None

    def touches(self, folder: _Folder) -> bool:
        return any(place is not None and place[0] is folder for place in (self.taken, self.put))

    def names(self) -> list[tuple[int, str]]:
        return [(id(place[0]), place[1]) for place in (self.taken, self.put) if place is not None]

    def apply(self) -> None:
        if self.taken is not None:
            self.taken[0].synced.pop(self.taken[1], None)
        if self.put is not None:
            self.put[0].synced[self.put[1]] = self.put[2]


class ForgetfulDisk(KillingDisk):
    """A real disk whose power is cut at one point; :meth:`remains` writes what was left.

    What a sync has promised is there. Beyond that, anything goes: each change of a name since the
    folder's last sync has happened or not, independent of the others and of their order, and a file
    that was not synced holds what it held at its last sync, a part of what was written, or zeros.
    A rename is atomic.

    Args:
        base: The folder above the slots, which is there and stays.
        at: Index of the point.
    """

    def __init__(self, base: Path, at: int) -> None:
        super().__init__(at, _raise_killed)
        self._base = base
        self._top = _Folder()
        self._changes: list[_Change] = []

    def remains(self, base: Path, random_: random.Random) -> None:
        """Write what is left after the power has come back.

        Args:
            base: An empty folder that takes the place of the one above the slots.
            random_: Decides what was lucky.
        """
        luck = random_.choice((0.0, 0.2, 0.5, 0.8, 1.0))
        for change in self._changes:
            if random_.random() < luck:
                change.apply()
        _write_folder(self._top, base, random_)

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        self._put(path, _File())
        return descriptor

    def write(self, descriptor: int, data: bytes) -> int:
        file = self._file(self.paths[descriptor])
        self.at_point("before write", self.paths[descriptor])
        half = len(data) // 2
        for part in (data[:half], data[half:]) if half else (data,):
            Disk.write(self, descriptor, part)
            file.now += part
            self.at_point("during write", self.paths[descriptor])
        return len(data)

    def sync(self, descriptor: int) -> None:
        file = self._file(self.paths[descriptor])
        self.at_point("before sync", self.paths[descriptor])
        file.synced = file.now
        self.at_point("after sync", self.paths[descriptor])

    def rename(self, source: Path, target: Path) -> None:
        self.at_point("before rename", target)
        Disk.rename(self, source, target)
        self.paths = {
            descriptor: target if path == source else path
            for descriptor, path in self.paths.items()
        }
        old, new = self._folder(source.parent), self._folder(target.parent)
        node = old.now.pop(source.name)
        new.now[target.name] = node
        self._changes.append(_Change((old, source.name), (new, target.name, node)))
        self.at_point("after rename", target)

    def unlink(self, path: Path) -> None:
        self.at_point("before unlink", path)
        Disk.unlink(self, path)
        self._take(path)
        self.at_point("after unlink", path)

    def make_folder(self, path: Path) -> None:
        self.at_point("before make folder", path)
        Disk.make_folder(self, path)
        self._put(path, _Folder())
        self.at_point("after make folder", path)

    def remove_folder(self, path: Path) -> None:
        self.at_point("before remove folder", path)
        Disk.remove_folder(self, path)
        self._take(path)
        self.at_point("after remove folder", path)

    def sync_folder(self, path: Path) -> None:
        self.at_point("before sync folder", path)
        folder = self._folder(path)
        settled = [change for change in self._changes if change.touches(folder)]
        for change in settled:
            change.apply()
        # What an older change did to a name cannot come after a newer one that is settled.
        names = [name for change in settled for name in change.names()]
        self._changes = [
            change
            for change in self._changes
            if change not in settled and not any(name in names for name in change.names())
        ]
        self.at_point("after sync folder", path)

    def _put(self, path: Path, node: _File | _Folder) -> None:
        folder = self._folder(path.parent)
        folder.now[path.name] = node
        self._changes.append(_Change(None, (folder, path.name, node)))

    def _take(self, path: Path) -> None:
        folder = self._folder(path.parent)
        del folder.now[path.name]
        self._changes.append(_Change((folder, path.name), None))

    def _node(self, path: Path) -> _File | _Folder:
        node: _File | _Folder = self._top
        for part in path.relative_to(self._base).parts:
            node = node.now[part]  # type: ignore[union-attr]
        return node

    def _file(self, path: Path) -> _File:
        return cast("_File", self._node(path))

    def _folder(self, path: Path) -> _Folder:
        return cast("_Folder", self._node(path))


def _write_folder(folder: _Folder, place: Path, random_: random.Random) -> None:
    for name, node in sorted(folder.synced.items()):
        if isinstance(node, _Folder):
            (place / name).mkdir()
            _write_folder(node, place / name, random_)
        else:
            (place / name).write_bytes(random_.choice(list(_what_may_be_left(node, random_))))


def _what_may_be_left(file: _File, random_: random.Random) -> Iterator[bytes]:
    yield file.synced
    if file.now != file.synced:
        kept = len(file.synced)
        cut = random_.randint(kept, len(file.now))
        yield file.now
        yield file.now[:cut]
        yield file.now[:cut] + bytes(len(file.now) - cut)
        yield file.synced + bytes(len(file.now) - kept)


def _raise_killed() -> None:
    raise Killed
