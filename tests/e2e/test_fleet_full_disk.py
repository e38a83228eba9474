"""A disk that is really full: what ingest acknowledged is kept, and it goes on with room."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from edgekit.fleet.broker import credentials
from edgekit.fleet.ingest.inbox import Arrived, Inbox
from edgekit.fleet.ingest.worker import Pace, Worker
from edgekit.fleet.store import open_store, queries
from edgekit.fleet.store.writes import add_device
from edgekit.runtime.batches import pack
from edgekit.wire.errors import ConfigError
from edgekit.wire.messages import Batch, Message

from ..agent_broker import Broker, find_mosquitto, free_port  # noqa: TID252
from .test_fleet_ingest import Devices, Place, until

NAMES = [f"cam-{i}" for i in range(5)]
RESERVE_BYTES = Pace().min_free_bytes
FIRST_S = 1_795_720_800.0


class Disk:
    """A small file system in memory, and a file that takes its room."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def leave(self, free_bytes: int) -> None:
        """Let others take the room, up to so many bytes."""
        with self._ballast.open("ab") as file:
            more = shutil.disk_usage(self.folder).free - free_bytes
            os.posix_fallocate(file.fileno(), file.tell(), max(1, more))

    def take_the_rest(self) -> None:
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 16, 4096):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass

    def free(self) -> None:
        """Make room."""
        self._ballast.unlink()


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Disk]:
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(line, capture_output=True, check=False).returncode:
        reason = "only root can mount a small file system"
        if os.environ.get("CI") == "true":
            pytest.fail(f"left out under CI: {reason}", pytrace=False)
        pytest.skip(reason)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def place(tmp_path):
    """A fleet on a small disk, its broker, and a log that lies elsewhere."""
    with mounted(tmp_path / "fleet", "80m") as disk:
        port = free_port()
        made = Place(tmp_path, port)
        broker = Broker(tmp_path / "broker", f"password_file {made.home.broker}/passwords")
        settings = tmp_path / "broker" / "mosquitto.conf"
        text = settings.read_text().replace(f"listener {broker.port}", f"listener {port}")
        settings.write_text(f"allow_anonymous false\n{text}")
        broker.port = port
        for name in NAMES:
            add_device(made.engine, name, {}, time.time())
        broker.start()
        devices = Devices(port, credentials(made.home, "web"), NAMES)
        yield disk, made, devices, tmp_path / "ingest.log"
        devices.close()
        made.close()
        broker.stop()


@pytest.mark.mosquitto
@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
def test_ingest_waits_on_a_full_disk_and_loses_nothing(place):
    disk, fleet, devices, log = place
    fleet.start()
    disk.leave(RESERVE_BYTES + (256 << 10))
    sent = 0

    def load(batches: int) -> None:
        nonlocal sent
        for _ in range(batches):
            for name in NAMES:
                devices.send(name, range(sent, sent + 50))
            sent += 50

    def says_full() -> bool:
        load(2)
        time.sleep(0.1)
        found = queries.ingest(fleet.reader)
        return found is not None and found.status == "waiting"

    until(says_full, "the disk never got full")
    found = queries.ingest(fleet.reader)
    assert "the disk is full" in found.detail
    assert "make room" in found.detail
    time.sleep(1.0)  # acknowledgements that were on their way
    acked = set(devices.acked)
    assert acked, "nothing was acknowledged while there was room"
    disk.take_the_rest()
    deadline = time.monotonic() + 3.0
    while time.monotonic() < deadline:
        load(1)
        devices.again()
        time.sleep(0.2)
    assert shutil.disk_usage(disk.folder).free == 0
    assert fleet.process.poll() is None, log.read_text()
    assert devices.acked == acked, "acknowledged on a full disk"
    assert log.read_text().count("ingest waits") == 1, "the log is flooded"
    fleet.stop(signal.SIGKILL)
    assert set(fleet.rows()) >= acked
    disk.free()
    disk.leave(RESERVE_BYTES - (1 << 20))
    fleet.start()

    def waits_again() -> bool:
        devices.again()
        time.sleep(0.2)
        return log.read_text().count("ingest waits") > 1

    until(waits_again, "it never waited again")
    disk.free()
    until(lambda: "ingest works again" in log.read_text(), "it never went on")
    deadline = time.monotonic() + 60.0
    while any(devices.left.values()):
        assert time.monotonic() < deadline, "not everything was acknowledged"
        for name, left in devices.left.items():
            numbers = sorted(left)
            for first in range(0, len(numbers), 100):
                devices.send(name, numbers[first : first + 100])
        time.sleep(2.0)
    fleet.stop()
    rows = fleet.rows()
    assert len(rows) == len(set(rows)), "something is doubled"
    assert set(rows) == devices.sent == devices.acked
    assert "Traceback" not in log.read_text()


@pytest.mark.mosquitto
@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
def test_ingest_cannot_start_on_a_full_disk_and_says_why(place):
    disk, fleet, devices, log = place
    fleet.engine.dispose()
    disk.take_the_rest()
    fleet.start()
    assert fleet.process.wait(30) == ConfigError.exit_code
    assert log.read_text().rstrip().endswith("the disk is full: make room")
    disk.free()
    fleet.start()
    devices.send("cam-0", range(3))

    def is_stored() -> bool:
        devices.again()
        time.sleep(0.2)
        return not devices.left["cam-0"]

    until(is_stored, "it never worked again")


class Bench:
    """A worker of a thread of its own, which writes until nothing more fits."""

    def __init__(self, folder: Path) -> None:
        self.engine = open_store(folder / "fleet.db")
        add_device(self.engine, "cam-1", {}, FIRST_S)
        self.folder = folder / "raw"
        self.acked: set[int] = set()
        self.inbox = Inbox()
        self.seq = 0
        self._rng = random.Random(7)  # noqa: S311 - a test
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        pace = Pace(flush_s=0.0, retry_s=0.02, alive_s=0.05, devices_s=0.05, min_free_bytes=0)
        Worker(self.engine, self.folder, "north", self.inbox, self._tell, pace).run(self._stop)

    def _tell(self, _device, ack) -> None:
        self.acked |= set(range(ack.first, ack.last + 1))

    def put(self, count: int) -> None:
        """Send numbers that have not been sent, with values that do not shrink."""
        numbers = range(self.seq, self.seq + count)
        self.seq += count
        messages = tuple(
            Message("b" * 16, seq, 1.0, "sample", {"noise": self._rng.randbytes(200).hex()})
            for seq in numbers
        )
        topic = "edgekit/1/north/cam-1/telemetry"
        self.inbox.put(Arrived(topic, pack(Batch(messages)), FIRST_S, is_retained=False))

    def is_done(self) -> bool:
        """Whether all is acknowledged."""
        assert self._thread.is_alive(), "the worker died"
        return len(self.acked) == self.seq

    def stored(self) -> list[int]:
        files = queries.Reader(self.engine, self.folder).files()
        if not files:
            return []
        sql = "SELECT seq FROM read_parquet(?) ORDER BY seq"
        return [seq for (seq,) in duckdb.execute(sql, [files]).fetchall()]

    def close(self) -> None:
        self._stop.set()
        self._thread.join(20)
        self.engine.dispose()


def test_whatever_does_not_fit_is_stored_when_there_is_room(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    with mounted(tmp_path / "disk", "24m") as disk:
        bench = Bench(disk.folder)
        try:
            # Full before the spool, within it, within the Parquet file, within SQLite's journal.
            for room in (0, 4 << 10, 40 << 10, 100 << 10, 200 << 10, 400 << 10, 1 << 20):
                bench.put(50)
                until(bench.is_done, "not acknowledged while there is room")
                caplog.clear()
                disk.leave(room)
                while "ingest waits" not in caplog.text:
                    bench.put(50)
                    time.sleep(0.01)
                kept = set(bench.acked)
                assert set(bench.stored()) >= kept
                time.sleep(0.2)
                assert bench.acked == kept, "acknowledged on a full disk"
                disk.free()
                until(bench.is_done, "not acknowledged when there was room again")
                assert bench.stored() == list(range(bench.seq))
        finally:
            bench.close()
