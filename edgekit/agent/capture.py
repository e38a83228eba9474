"""Captures: the next inputs of a model as they came, for who wants to see what it sees.

Raw inputs are pictures, sounds and texts of people. Nothing is captured unless the device's own
settings allow it, whatever the fleet asks for; how much is bounded there, too.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.agent.config import Capture
from edgekit.agent.engine import Engine
from edgekit.agent.inbox import MAX_PACKET_BYTES
from edgekit.wire.canonical import Json, sha256_hex
from edgekit.wire.errors import ConfigError, DeviceError, UsageError

FOLDER = "captures"
# The pipeline's name under which samples are published.
OUTPUT = "capture"
MAX_SAMPLES = 256
MAX_PUBLISHED = 32
MAX_WAIT_S = 600.0
_WAIT_S = 30.0
_MAX_WAITING = 16
_MIN_FREE_BYTES = 64 << 20
_WAYS = ("device", "topic", "both")
_KINDS = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n", "png"),
    (b"RIFF", "wav"),
    (b"\x93NUMPY", "npy"),
)


@dataclass(frozen=True)
class Ask:
    """What is asked for.

    Attributes:
        model: Whose inputs.
        n: How many.
        within_s: Longest wait for them.
        to: ``device``, ``topic`` or ``both``.
    """

    model: str
    n: int = 1
    within_s: float = _WAIT_S
    to: str = "device"

    @classmethod
    def from_args(cls, args: Mapping[str, Json]) -> Ask:
        """Read a command's arguments.

        Raises:
            UsageError: One is missing, unknown or out of bounds.
        """
        left: dict[str, Any] = dict(args)
        model, n = left.pop("model", None), left.pop("n", 1)
        within_s, to = left.pop("within_s", _WAIT_S), left.pop("to", "device")
        if left:
            raise UsageError(
                f"capture does not know {min(left)[:80]!r}", hint="model, n, within_s, to"
            )
        if not isinstance(model, str):
            raise UsageError("capture needs the name of a model", hint='{"model": "…", "n": 5}')
        if to not in _WAYS:
            raise UsageError(f"no way {str(to)[:20]!r}", hint=f"one of {', '.join(_WAYS)}")
        most = MAX_SAMPLES if to == "device" else MAX_PUBLISHED
        if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= most:
            raise UsageError(f"n must be 1 to {most}")
        if not isinstance(within_s, int | float) or not 0 < within_s <= MAX_WAIT_S:
            raise UsageError(f"within_s must be up to {MAX_WAIT_S:g}")
        return cls(model, n, float(within_s), to)


@dataclass
class Captures:
    """Does the command ``capture``.

    Attributes:
        settings: Whether it may, and how much.
        folder: Where captured inputs are kept.
        engine: Whose inputs.
        publish: Publishes on ``output/<name>``.
        unix_s: Unix time in seconds.
    """

    settings: Capture
    folder: Path
    engine: Engine
    publish: Callable[[str, bytes], None]
    unix_s: Callable[[], float]

    def run(self, args: Mapping[str, Json]) -> Json:
        """Capture, and say what was kept.

        Raises:
            ConfigError: The device's settings do not allow it.
            DeviceError: Nothing more may be kept on this device, or its disk is full.
            UsageError: The arguments will not do, or no such model is served.
        """
        if not self.settings.allowed:
            raise ConfigError(
                "this device does not give raw inputs away",
                hint='"capture": {"allowed": true} in its settings allows it',
            )
        ask = Ask.from_args(args)
        if ask.model not in (names := self.engine.names()):
            raise UsageError(
                f"no model {ask.model[:80]!r} is served",
                hint=f"models: {', '.join(sorted(names)) or 'none'}",
            )
        kept = _Kept(self.settings.max_bytes)
        place = self._new_folder(ask, kept) if ask.to != "topic" else None
        coming: queue.Queue[bytes] = queue.Queue(_MAX_WAITING)

        def tap(sample: bytes) -> None:
            # Who serves does not wait for who watches.
            with contextlib.suppress(queue.Full):
                coming.put_nowait(sample)

        self.engine.tap(ask.model, tap)
        try:
            self._collect(ask, coming, place, kept)
        finally:
            self.engine.tap(ask.model, None)
        if place is not None and not kept.files:
            place.rmdir()
        return {
            "model": ask.model,
            "kept": len(kept.samples),
            "folder": str(place) if place is not None and kept.files else None,
            "topic": f"output/{OUTPUT}" if kept.published else None,
            "published": kept.published,
            "skipped": kept.skipped,
            "samples": kept.samples,
        }

    def _collect(
        self, ask: Ask, coming: queue.Queue[bytes], place: Path | None, kept: _Kept
    ) -> None:
        end_s = self.engine.clock() + ask.within_s
        while len(kept.samples) < ask.n and (left_s := end_s - self.engine.clock()) > 0:
            try:
                sample = coming.get(timeout=min(left_s, 1.0))
            except queue.Empty:
                continue
            said: dict[str, Json] = {"sha256": sha256_hex(sample), "size_bytes": len(sample)}
            if place is not None:
                if kept.size_bytes + len(sample) > kept.most_bytes:
                    kept.skipped += 1
                    return
                name = f"{len(kept.samples):04d}.{kind_of(sample)}"
                _write(place / name, sample)
                kept.files += 1
                kept.size_bytes += len(sample)
                said["file"] = name
            if ask.to != "device":
                if len(sample) > MAX_PACKET_BYTES:
                    kept.skipped += 1
                    if place is None:
                        continue
                else:
                    self.publish(OUTPUT, sample)
                    kept.published += 1
            kept.samples.append(said)

    def _new_folder(self, ask: Ask, kept: _Kept) -> Path:
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            kept.size_bytes = sum(p.stat().st_size for p in self.folder.glob("*/*") if p.is_file())
            if kept.size_bytes >= kept.most_bytes:
                raise DeviceError(
                    f"captures take {kept.size_bytes} bytes already",
                    hint=f"delete what is not needed in {self.folder}",
                )
            if shutil.disk_usage(self.folder).free < _MIN_FREE_BYTES:
                raise DeviceError("the disk is too full for captures")
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.unix_s()))
            for number in itertools.count():
                place = self.folder / f"{ask.model}-{stamp}-{number}"
                with contextlib.suppress(FileExistsError):
                    place.mkdir(mode=0o700)
                    return place
        except OSError as error:
            raise DeviceError(f"captures cannot be kept: {error.strerror}") from error
        raise AssertionError


@dataclass
class _Kept:
    most_bytes: int
    size_bytes: int = 0
    files: int = 0
    published: int = 0
    skipped: int = 0
    samples: list[Json] = field(default_factory=list)


def kind_of(sample: bytes) -> str:
    """Return the ending that a sample's file gets, by its first bytes."""
    for head, kind in _KINDS:
        if sample.startswith(head):
            return kind
    try:
        sample.decode()
    except UnicodeDecodeError:
        return "bin"
    return "txt"


def _write(path: Path, sample: bytes) -> None:
    try:
        with path.open("xb") as file:
            path.chmod(0o600)
            file.write(sample)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise DeviceError(f"a capture cannot be written: {error.strerror}") from error
