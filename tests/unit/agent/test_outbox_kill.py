"""kill -9 at random moments: the store has every promised message once, or the drops explain it."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit.agent.outbox import Outbox
from edgekit.wire.messages import acks_for

from .outbox_child import open_store, receive

KILLS = 20
CHILD = Path(__file__).with_name("outbox_child.py")


def run_and_kill(folder: Path, cap_bytes: int, boot_id: str, seed: int) -> int:
    """Let a device run for a moment; return the last number that it was promised."""
    with subprocess.Popen(
        [
            *(sys.executable, str(CHILD), str(folder / "outbox.db"), str(cap_bytes), boot_id),
            *(str(folder / "store.db"), str(seed)),
        ],
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        said = child.stdout.read(8)
        time.sleep(random.Random(seed).random() * 0.08)  # noqa: S311
        child.kill()
        said += child.stdout.read()
    whole = said[: len(said) // 8 * 8]
    return int(struct.unpack(f"<{len(whole) // 8}q", whole)[-1])


@pytest.mark.parametrize("cap_bytes", [1 << 26, 30_000], ids=["no cap", "small cap"])
def test_killed_at_random_moments(tmp_path: Path, cap_bytes: int) -> None:
    promised = {
        f"{number:016x}": run_and_kill(tmp_path, cap_bytes, f"{number:016x}", number)
        for number in range(1, KILLS + 1)
    }
    db = open_store(tmp_path / "store.db")
    outbox = Outbox(tmp_path / "outbox.db", 1 << 26, "f" * 16, time.time)
    while batch := outbox.batch():
        receive(db, batch)
        for ack in acks_for(batch.messages):
            outbox.acknowledge(ack)
    assert outbox.stats().problem == ""
    rows = {}
    for (body,) in db.execute(
        "SELECT body FROM arrived WHERE kind = 'event' AND body LIKE '%\"drops\"%' ORDER BY rowid"
    ):
        for row in json.loads(body)["values"].get("boots", ()):
            rows[row["boot_id"]] = row
    assert sum(promised.values()) > 20 * KILLS
    for boot_id, last in promised.items():
        seqs = [s for (s,) in db.execute("SELECT seq FROM arrived WHERE boot_id = ?", (boot_id,))]
        assert len(seqs) == len(set(seqs))
        drops = rows.get(boot_id, {"drops": {}, "issued": 0})
        lost = sum(drops["drops"].values())
        unsure = drops["drops"].get("cap_sent", 0)
        issued = max([last + 1, drops["issued"], *(seq + 1 for seq in seqs)])
        assert len(seqs) + lost - unsure <= issued <= len(seqs) + lost
        if cap_bytes > 1 << 20:
            assert not lost
            assert set(range(last + 1)) <= set(seqs)
    assert cap_bytes > 1 << 20 or rows
    db.close()
    outbox.close()
