"""Where bundles live on a device, and the one file that says which of them serve.

    <root>/state.json                       the slots of all models; the only commit point
    <root>/bundles/<sha256>/bundle.ekb      whole, verified bundles, named by their content
    <root>/incoming/<sha256>/bundle.ekb     what is being fetched; goes on after a restart
    <root>/state.json.damaged               what could not be read and was put aside
    <root>/reserve                          space for one more state.json on a full disk
    <root>/lock                             held by the agent that runs

The names ``current``, ``previous`` and ``next`` are a function of ``state.json``
(:class:`~edgekit.runtime.trial_state.State`). It is written beside its place, synced, renamed, and
the folder is synced: a crash at any moment leaves the old names or the new ones. There are no
symbolic links that could say something else. A bundle gets into ``bundles`` only whole, verified
and synced, and leaves it only when the synced ``state.json`` names it no more.

Members are read out of the bundle itself, and nothing is unpacked: an unpacked model would take the
space twice and have to be hashed again at every load, and could be changed between the two.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.agent.disk import Disk, FullDiskError, explaining, remove_flat
from edgekit.agent.incoming import Source, hash_file, receive
from edgekit.agent.slot_file import STATE_FILE, SlotFile, read_states
from edgekit.runtime.trial_state import State
from edgekit.wire.bundle import Bundle, check_acceptable, open_bundle
from edgekit.wire.errors import DeviceError, EdgekitError, TrustError
from edgekit.wire.manifest import Manifest
from edgekit.wire.signing import PublicKey

__all__ = ["DEFAULT_LIMITS", "Limits", "Slots", "Trust", "open_slots", "read_states"]

BUNDLE_FILE = "bundle.ekb"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Trust:
    """What this device takes.

    Attributes:
        keys: Of which one must have signed a bundle.
        target: This device's target: ``rpi5``; None where only the family is known.
        family: Targets that agree with this one: ``arm64``; None where it is not to be compared.
    """

    keys: tuple[PublicKey, ...]
    target: str | None = None
    family: str | None = None


@dataclass(frozen=True)
class Limits:
    """How much of the disk bundles may take.

    Attributes:
        max_bytes: All bundles together, whole or not.
        spare_bytes: What stays free for others.
    """

    max_bytes: int = 8 << 30
    spare_bytes: int = 64 << 20


DEFAULT_LIMITS = Limits()


class Slots:
    """The bundles of a device; made by :func:`open_slots`.

    One thread decides and commits; another one may receive meanwhile.
    """

    def __init__(self, root: Path, trust: Trust, limits: Limits, disk: Disk, lock: int) -> None:
        self.root = root
        self._trust = trust
        self._limits = limits
        self._disk = disk
        self._lock = lock
        self._guard = threading.RLock()
        self._file = SlotFile(root, disk)
        self._file.keep_reserve()

    @property
    def states(self) -> Mapping[str, State]:
        """The slots by the model's name, as the disk has them."""
        return dict(self._file.states)

    @property
    def damage(self) -> str:
        """What was wrong with the last state, which was put aside at the start; else empty."""
        return self._file.damage

    def state(self, model: str) -> State:
        """Return a model's slot; a new one where the device has never had the model."""
        return self._file.states.get(model, State())

    def path(self, sha256: str) -> Path:
        """Return where a whole bundle lies, or would."""
        return self._folder("bundles", sha256) / BUNDLE_FILE

    def receive(self, sha256: str, size_bytes: int, source: Source) -> None:
        """Fetch a bundle's bytes, from where an earlier try stopped.

        Its order must have been committed, or else nothing protects what comes from being
        collected. What ``source`` raises goes through, and what came until then is kept.

        Args:
            sha256: Digest of the whole bundle.
            size_bytes: Its exact size.
            source: Returns its bytes from an offset on, in chunks of any size.

        Raises:
            FullDiskError: There is no space; nothing has changed.
            DeviceError: The bytes are not those of the bundle, or the disk fails.
        """
        digest = hashlib.sha256()
        hash_file(digest.update, self.path(sha256))
        if digest.hexdigest() != sha256:
            path = self._folder("incoming", sha256) / BUNDLE_FILE
            receive(self._disk, path, sha256, size_bytes, source, self._make_room)

    def accept(self, model: str, sha256: str) -> Manifest:
        """Verify a fetched bundle and put it among the whole ones. One that fails is removed.

        Args:
            model: The slot that it is for.
            sha256: Its digest.

        Raises:
            TrustError: Not genuine, of another model, for another device, below the highest
                confirmed serial, or in a newer format.
            DeviceError: It was never fetched, or the disk fails.
        """
        coming, path = self._folder("incoming", sha256), self.path(sha256)
        if not (coming / BUNDLE_FILE).exists():
            if not path.exists():
                raise DeviceError("the bundle has not been fetched", where=sha256[:12])
            return self._manifest(path, model, sha256)
        try:
            manifest = self._manifest(coming / BUNDLE_FILE, model, sha256)
        except EdgekitError:
            with contextlib.suppress(OSError):
                remove_flat(self._disk, coming)
            raise
        with self._guard, explaining("the bundle stays where it was fetched to", path):
            self._disk.sync_folder(coming)
            # Only a damaged one is fetched again.
            remove_flat(self._disk, path.parent)
            self._disk.rename(coming, path.parent)
            self._disk.sync_folder(path.parent.parent)
        return manifest

    def open(self, model: str, sha256: str) -> Bundle:
        """Open a bundle to use it; every byte of it is checked again.

        Args:
            model: The slot.
            sha256: One of the slot's names: ``state(model).current``, ``fallback`` or ``next``.

        Returns:
            The open bundle; use it in a ``with``.

        Raises:
            TrustError: It is not what was put there, or not trusted any more.
            DeviceError: It is not there.
        """
        state, path = self.state(model), self.path(sha256)
        if not path.exists():
            raise DeviceError("the bundle is not on this device", where=str(path))
        bundle = self._open(path, model, sha256, floor_serial=None)
        named = (state.previous, state.confirmed, state.order)
        serial = next((r.serial for r in named if r is not None and r.sha256 == sha256), None)
        if serial is not None and bundle.manifest.serial != serial:
            bundle.close()
            raise TrustError(f"its serial is not {serial}, which was taken", where=str(path))
        return bundle

    def commit(self, model: str, state: State) -> None:
        """Make a slot's new state the one that counts, on disk and here.

        Args:
            model: The slot.
            state: From :func:`edgekit.runtime.trial.step`.

        Raises:
            FullDiskError: No space, not even the reserve; the old state stands.
            DeviceError: The disk fails, or the state names a bundle that is not there.
        """
        old = self.state(model)
        known = {old.current, old.fallback, old.next, None}
        for sha256 in {state.current, state.fallback, state.next} - known:
            if sha256 is not None and not self.path(sha256).exists():
                raise DeviceError("the state names a bundle that is not here", where=sha256[:12])
        with self._guard:
            self._file.replace({**self._file.states, model: state})

    def collect(self) -> tuple[str, ...]:
        """Remove the bundles that no slot holds, and what earlier crashes have left.

        Returns:
            Their digests.

        Raises:
            DeviceError: The disk fails.
        """
        with self._guard:
            return self._collect()

    def _collect(self) -> tuple[str, ...]:
        states = self._file.states.values()
        held = {
            "bundles": {sha256 for state in states for sha256 in state.held},
            "incoming": {state.order.sha256 for state in states if state.order},
        }
        doomed = [
            folder
            for name in ("bundles", "incoming")
            for folder in sorted((self.root / name).iterdir())
            if _SHA256.fullmatch(folder.name) and folder.name not in held[name]
        ]
        with explaining("not all that could be removed was", self.root):
            if doomed:
                # The disk must have forgotten their names before it forgets them.
                self._disk.sync_folder(self.root)
            for folder in doomed:
                remove_flat(self._disk, folder)
        self._file.keep_reserve()
        return tuple(folder.name for folder in doomed)

    def used_bytes(self) -> int:
        """Return what all bundles take, whole or not."""
        files = (p for name in ("bundles", "incoming") for p in self.root.glob(f"{name}/*/*"))
        return sum(path.stat().st_size for path in files)

    def close(self) -> None:
        """Let another agent have the slots."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _folder(self, name: str, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise DeviceError(f"not a digest: {sha256[:80]!r}")
        return self.root / name / sha256

    def _make_room(self, need_bytes: int) -> None:
        if self._left_bytes() < need_bytes:
            self.collect()
        left = self._left_bytes()
        if left < need_bytes:
            raise FullDiskError(
                f"the disk is full: the bundle needs {need_bytes / 2**20:.1f} MiB more, "
                f"{max(0, left) / 2**20:.1f} MiB may be used; nothing changed",
                hint="free some space, or raise the agent's limit for bundles",
                where=str(self.root),
            )

    def _left_bytes(self) -> int:
        free = self._disk.free_bytes(self.root) - self._limits.spare_bytes
        return min(free, self._limits.max_bytes - self.used_bytes())

    def _manifest(self, path: Path, model: str, sha256: str) -> Manifest:
        floor = self.state(model).floor_serial
        with self._open(path, model, sha256, floor_serial=floor) as bundle:
            return bundle.manifest

    def _open(self, path: Path, model: str, sha256: str, *, floor_serial: int | None) -> Bundle:
        bundle = open_bundle(path, self._trust.keys)
        try:
            self._check(bundle, model, sha256, floor_serial)
        except BaseException:
            bundle.close()
            raise
        return bundle

    def _check(self, bundle: Bundle, model: str, sha256: str, floor_serial: int | None) -> None:
        # The same key may have signed another bundle that somebody put in this one's place.
        if bundle.sha256() != sha256:
            raise TrustError("not the file that its folder names", where=str(bundle.path))
        if bundle.manifest.model != model:
            raise TrustError(f"a bundle of {bundle.manifest.model}, not of {model}")
        check_acceptable(
            bundle.manifest,
            target=self._trust.target,
            family=self._trust.family,
            installed_serial=floor_serial,
        )


def open_slots(
    root: Path, trust: Trust, *, limits: Limits = DEFAULT_LIMITS, disk: Disk | None = None
) -> Slots:
    """Open a device's slots, and make them where there are none.

    Args:
        root: Their folder; its parent must be there.
        trust: What this device takes.
        limits: How much of the disk they may take.
        disk: What changes files; the real file system by default.

    Returns:
        The slots, with the names that the last commit before a crash has left.

    Raises:
        DeviceError: Another agent has them open, the folder cannot be written, or
            ``state.json`` is another version's.
    """
    disk = disk or Disk()
    with explaining("the folder of the slots cannot be made", root):
        _make_folders(disk, root)
        lock = _take_lock(root / "lock")
    try:
        return Slots(root, trust, limits, disk, lock)
    except BaseException:
        os.close(lock)
        raise


def _make_folders(disk: Disk, root: Path) -> None:
    for folder in (root, root / "bundles", root / "incoming"):
        if not folder.exists():
            disk.make_folder(folder)
    if not (root / STATE_FILE).exists():
        # Nothing was ever committed, and a crash may have come between making and syncing.
        disk.sync_folder(root)
        disk.sync_folder(root.parent)


def _take_lock(path: Path) -> int:
    # Not through the seam: a lock means nothing once its process has ended.
    lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise DeviceError(
            "another agent has these slots open", hint="`edgekit agent status`", where=str(path)
        ) from error
    return lock
