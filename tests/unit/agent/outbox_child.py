"""A device in a process of its own, made to be killed: it puts as fast as it can, and sends.

    python outbox_child.py OUTBOX CAP_BYTES BOOT_ID STORE SEED

It says each number that :meth:`put` returned on stdout, 8 bytes each: that is the promise.
"""

from __future__ import annotations

import os
import random
import sqlite3
import struct
import sys
import time
from pathlib import Path

from edgekit.agent.outbox import Outbox
from edgekit.wire.messages import Batch, acks_for

_TABLE = (
    "CREATE TABLE IF NOT EXISTS arrived (boot_id TEXT, seq INTEGER, kind TEXT, body TEXT,"
    " PRIMARY KEY (boot_id, seq))"
)


def open_store(path: Path) -> sqlite3.Connection:
    """Open the receiving store."""
    db = sqlite3.connect(path, isolation_level=None, timeout=30)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(_TABLE)
    return db


def receive(db: sqlite3.Connection, batch: Batch) -> None:
    """Commit a batch, as the fleet does before it acknowledges."""
    db.execute("BEGIN IMMEDIATE")
    for message in batch.messages:
        row = (message.boot_id, message.seq, message.kind, message.to_bytes().decode())
        db.execute("INSERT OR IGNORE INTO arrived VALUES (?, ?, ?, ?)", row)
    db.execute("COMMIT")


def main() -> None:
    """Put and send until killed."""
    path, cap_bytes, boot_id, store, seed = sys.argv[1:]
    generator = random.Random(int(seed))  # noqa: S311
    outbox = Outbox(Path(path), int(cap_bytes), boot_id, time.time)
    db = open_store(Path(store))
    while True:
        kind = "event" if generator.random() < 0.05 else "sample"
        seq = outbox.put(kind, {"text": "x" * generator.randrange(300)})
        os.write(1, struct.pack("<q", seq))
        if generator.random() < 0.02:
            batch = outbox.batch(max_messages=generator.randrange(1, 60))
            if batch:
                receive(db, batch)
                for ack in acks_for(batch.messages):
                    if generator.random() < 0.8:
                        outbox.acknowledge(ack)


if __name__ == "__main__":
    main()
