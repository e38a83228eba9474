"""Stands in for the fleet: commits batches to SQLite, then acknowledges them. Nothing else.

python tests/agent_receiver.py PORT STORE.db
"""

from __future__ import annotations

import json
import signal
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgekit.runtime.batches import unpack
from edgekit.wire.errors import TrustError
from edgekit.wire.messages import acks_for
from edgekit.wire.topics import fleet_filter, parse_topic, topic

_TABLE = (
    "CREATE TABLE IF NOT EXISTS arrived (fleet TEXT, device TEXT, boot_id TEXT, seq INTEGER,"
    " kind TEXT, body TEXT, PRIMARY KEY (boot_id, seq))"
)


class Receiver:
    """Ingest, as small as it can be.

    Args:
        port: The broker's, on the loopback.
        store: SQLite file.

    Attributes:
        batches: How many came.
        repeats: Messages that came again, and were already stored.
        acknowledge: Whether it acknowledges; it stores in any case.
        heard: Topic and payload of everything else that devices say.
    """

    def __init__(
        self, port: int, store: Path, *, username: str | None = None, password: str | None = None
    ) -> None:
        self.batches = 0
        self.repeats = 0
        self.refused = 0
        self.acknowledge = True
        self.heard: list[tuple[str, bytes]] = []
        self._lock = threading.Lock()
        self._db = sqlite3.connect(store, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute(_TABLE)
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311
        )
        if username is not None:
            self._client.username_pw_set(username, password)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect("127.0.0.1", port)

    def start(self) -> Receiver:
        """Receive in a thread of paho's."""
        self._client.loop_start()
        assert self._subscribed.wait(10)
        return self

    def forever(self) -> None:
        """Receive in this thread."""
        self._client.loop_forever()

    def leave(self) -> None:
        """Disconnect, which ends :meth:`forever`."""
        self._client.disconnect()

    def stop(self) -> None:
        """End."""
        self.leave()
        self._client.loop_stop()
        with self._lock:
            self._db.close()

    def say(self, place: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish something to a device."""
        self._client.publish(place, payload, qos=1, retain=retain)

    def rows(self) -> list[tuple[str, int, str, dict[str, Any]]]:
        """Return what is stored: boot id, seq, kind and values, in order of arrival."""
        with self._lock:
            found = self._db.execute("SELECT boot_id, seq, kind, body FROM arrived ORDER BY rowid")
            return [(*row[:3], json.loads(row[3])) for row in found.fetchall()]

    def count(self) -> int:
        """Return how many messages are stored."""
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM arrived").fetchone()[0])

    def of(self, leaf: str) -> list[Any]:
        """Return the JSON that was heard on one leaf."""
        return [json.loads(p) for t, p in list(self.heard) if t.split("/")[4] == leaf]

    def _on_connect(self, client: mqtt.Client, *_: object) -> None:
        leaves = ("telemetry", "hello", "state", "reply", "reported", "output")
        client.subscribe([(fleet_filter(leaf), 1) for leaf in leaves])

    def _on_message(self, client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        place = parse_topic(message.topic)
        if place.leaf != "telemetry":
            self.heard.append((message.topic, message.payload))
            return
        try:
            batch = unpack(message.payload)
        except TrustError:
            self.refused += 1
            return
        self.batches += 1
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            for entry in batch.messages:
                row = (place.fleet, place.device, entry.boot_id, entry.seq, entry.kind)
                done = self._db.execute(
                    "INSERT OR IGNORE INTO arrived VALUES (?, ?, ?, ?, ?, ?)",
                    (*row, json.dumps(dict(entry.values))),
                )
                self.repeats += 1 - done.rowcount
            self._db.execute("COMMIT")
        if self.acknowledge:
            for ack in acks_for(batch.messages):
                client.publish(topic(place.fleet, place.device, "ack"), ack.to_bytes(), qos=1)


def main() -> None:
    """Receive until told to stop."""
    receiver = Receiver(int(sys.argv[1]), Path(sys.argv[2]))
    signal.signal(signal.SIGTERM, lambda *_: receiver.leave())
    receiver.forever()
    counts = {"batches": receiver.batches, "repeats": receiver.repeats}
    sys.stdout.write(json.dumps(counts | {"refused": receiver.refused}))


if __name__ == "__main__":
    main()
