"""The outbox: a week at 1 Hz without a network, kill -9 at random moments, then a real broker.

    python benchmarks/agent_outbox.py                # 7 days, 1,000 kills; writes docs/benchmarks
    python benchmarks/agent_outbox.py --kills 50     # the short one

A device puts one sample a (simulated) second, an event a (simulated) hour, and is killed at random
moments, half of them while it is offline. For the last tenth of the time it has a link to a real
mosquitto, and a receiver that commits to SQLite and acknowledges. In the end the store must hold
every message whose number the device was promised, once. A second run has a cap that holds a fifth:
there, what the store holds and the drops that were told must add up to the numbers issued.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import mmap
import os
import platform
import random
import resource
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from agent_broker import Broker, find_mosquitto  # noqa: E402

from edgekit.agent.link import Backoff, Link  # noqa: E402
from edgekit.agent.outbox import Outbox  # noqa: E402
from edgekit.agent.session import Address  # noqa: E402
from edgekit.agent.window import Pace  # noqa: E402
from edgekit.runtime.host import host_kind  # noqa: E402
from edgekit.wire.messages import Hello  # noqa: E402

START_S = 1_795_000_000.0
HOUR_S = 3600
DAY_S = 24 * HOUR_S
ONLINE_SHARE = 0.1
ONLINE_PUTS_PER_S = 2000
TIMEOUT_S = 3600.0


@dataclass
class Process:
    """One life of the agent: its puts, the numbers that it was promised, and how it ended."""

    boot_id: str
    puts: int
    promised: int
    killed: bool


@dataclass
class Week:
    """What is shared by all lives of one device."""

    folder: Path
    cap_bytes: int
    seconds: int
    kills: int
    generator: random.Random
    processes: list[Process] = field(default_factory=list)
    # Of this life: its puts, and one more than the last number that was returned.
    shared: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, 16))
    put_cpu_s: float = 0.0
    peak_bytes: int = 0

    @property
    def done(self) -> int:
        """Seconds that have passed."""
        return sum(process.puts for process in self.processes)


def sample(second: int) -> dict[str, Any]:
    """Return the values of a sample as one model on a Pi makes them."""
    share = 0.2 + second % 97 / 1000
    return {
        "period_s": 1.0,
        "vitals": {
            "cpu_share": round(share, 4),
            "cpu_core_shares": [round(share + i / 50, 4) for i in range(4)],
            "memory_available_bytes": 2_900_000_000 + second * 4096 % 10_000_000,
            "disk_free_bytes": 20_000_000_000 - second * 100,
            "network_sent_bytes_per_s": 900 + second % 311,
            "temp_c": 55 + second % 80 / 10,
            "clock_mhz": 1800,
            "throttle_bits": 0,
            "rss_bytes": 61_000_000,
            "uptime_s": second,
        },
        "models": {
            "pets": {
                "requests": 10,
                "errors": 0,
                "latency_ms": {
                    "error": 0.025,
                    "sum_us": 400_000 + second % 5000,
                    "buckets": [[211, 3 + second % 3], [212, 4], [213, 1]],
                },
                "outputs": {"classes": {"counts": {"cat": 7, "dog": 3}, "other": 0}},
            }
        },
    }


def put_seconds(week: Week, outbox: Outbox, pause: Callable[[], None]) -> None:
    """Put what is left of the time, and say each number that was returned in the shared memory."""
    first = week.done
    limit = week.seconds if pause is not _no_pause else int(week.seconds * (1 - ONLINE_SHARE))
    for count, second in enumerate(range(first, limit), start=1):
        seq = outbox.put("event" if second % HOUR_S == 0 else "sample", sample(second))
        struct.pack_into("<qq", week.shared, 0, count, seq + 1)
        pause()


def _no_pause() -> None:
    pass


def offline_life(week: Week, outbox: Outbox) -> None:
    put_seconds(week, outbox, _no_pause)


def online_life(week: Week, outbox: Outbox, port: int) -> None:
    """Put the rest, send everything, and end when the outbox is empty."""
    hello = Hello(outbox.boot_id, time.time(), "bench", "bench", platform.machine())
    link = Link(
        Address("127.0.0.1", port, "bench", "device"),
        outbox,
        hello=lambda: hello,
        pace=Pace(flush_s=0.2, resend_s=5.0),
        backoff=Backoff(base_s=0.02, cap_s=0.2),
    )
    link.start()
    put_seconds(week, outbox, lambda: time.sleep(1 / ONLINE_PUTS_PER_S))
    deadline = time.monotonic() + TIMEOUT_S
    while outbox.stats().messages and time.monotonic() < deadline:
        time.sleep(0.05)
    link.stop()


def live(
    week: Week, life: Callable[[Week, Outbox], None], kill_after: Callable[[], None] | None
) -> bool:
    """Run one life in a process of its own; tell whether it was killed."""
    struct.pack_into("<qq", week.shared, 0, 0, 0)
    boot_id = f"{week.generator.getrandbits(64):016x}"
    base = week.done
    child = os.fork()
    if child == 0:
        code = 1
        try:
            now = lambda: START_S + base + struct.unpack_from("<q", week.shared)[0]  # noqa: E731
            outbox = Outbox(week.folder / "outbox.db", week.cap_bytes, boot_id, now)
            life(week, outbox)
            outbox.close()
            code = 0
        finally:
            os._exit(code)
    killed = False
    if kill_after is not None:
        kill_after()
        # The moment is random, so now and then it has ended by itself.
        killed = os.waitpid(child, os.WNOHANG)[0] == 0
        if killed:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    else:
        _, status = os.waitpid(child, 0)
        if status:
            raise RuntimeError("a life ended badly")
    week.processes.append(Process(boot_id, *struct.unpack_from("<qq", week.shared), killed))
    files = list(week.folder.glob("outbox.db*"))
    week.peak_bytes = max(week.peak_bytes, sum(file.stat().st_size for file in files))
    return killed


def after_puts(week: Week, most: int) -> Callable[[], None]:
    """Return a wait until a random number of puts, and a random part of a millisecond more."""
    target = week.generator.randrange(1, max(most, 2))
    more_s = week.generator.random() / 500

    def wait() -> None:
        deadline = time.monotonic() + 60
        while struct.unpack_from("<q", week.shared)[0] < target and time.monotonic() < deadline:
            time.sleep(0.0002)
        time.sleep(more_s)

    return wait


def run(week: Week) -> dict[str, Any]:
    """Live the whole time, and compare the store with what was promised."""
    began = time.monotonic()
    offline_puts = int(week.seconds * (1 - ONLINE_SHARE))
    kills = 0
    while kills < week.kills // 2 and week.done < offline_puts:
        left = (offline_puts - week.done) // max(week.kills // 2 - kills, 1)
        kills += live(week, offline_life, after_puts(week, 2 * left))
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    before, cpu_before = week.done, cpu.ru_utime + cpu.ru_stime
    live(week, offline_life, None)
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    put_us = (cpu.ru_utime + cpu.ru_stime - cpu_before) / max(week.done - before, 1) * 1e6
    offline_kills, offline_s = kills, time.monotonic() - began
    with Broker(week.folder / "broker") as broker:
        store = week.folder / "store.db"
        with subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "tests" / "agent_receiver.py"),
                str(broker.port),
                str(store),
            ],
            stdout=subprocess.PIPE,
        ) as receiver:
            began = time.monotonic()
            life = lambda w, outbox: online_life(w, outbox, broker.port)  # noqa: E731
            while kills < week.kills:
                wait_s = 0.02 + week.generator.random() * 0.4
                kills += live(week, life, lambda s=wait_s: time.sleep(s))
                if week.done >= week.seconds and not week.processes[-1].killed:
                    break
            live(week, life, None)
            drain_s = time.monotonic() - began
            receiver.terminate()
            counts = json.loads(receiver.communicate(timeout=60)[0])
    return {
        "days": week.seconds / DAY_S,
        "cap_mib": round(week.cap_bytes / 2**20, 1),
        "kills": {"offline": offline_kills, "online": kills - offline_kills},
        "processes": len(week.processes),
        "put_cpu_us": round(put_us, 1) if week.done > before else None,
        "outbox_peak_mib": round(week.peak_bytes / 2**20, 1),
        "offline_wall_s": round(offline_s, 1),
        "online_wall_s": round(drain_s, 1),
        **counts,
        **compare(week, store),
    }


def compare(week: Week, store: Path) -> dict[str, Any]:
    """Account for every number that a device was promised."""
    db = sqlite3.connect(store)
    told: dict[str, dict[str, Any]] = {}
    for (body,) in db.execute("SELECT body FROM arrived WHERE kind = 'event' ORDER BY rowid"):
        for row in json.loads(body).get("boots", ()):
            told[row["boot_id"]] = row
    result = {"promised": 0, "stored": 0, "lost": 0, "doubled": 0, "drops": 0, "maybe_arrived": 0}
    for process in week.processes:
        rows = db.execute(
            "SELECT seq FROM arrived WHERE boot_id = ?", (process.boot_id,)
        ).fetchall()
        there = {seq for (seq,) in rows}
        drops = told.get(process.boot_id, {}).get("drops", {})
        missing = len(set(range(process.promised)) - there)
        result["promised"] += process.promised
        result["stored"] += len(there)
        result["doubled"] += len(rows) - len(there)
        result["drops"] += sum(drops.values())
        result["maybe_arrived"] += drops.get("cap_sent", 0)
        result["lost"] += max(missing - sum(drops.values()), 0)
        # More drops than gaps are as wrong as fewer. Of a killed process, a put and an event of
        # drops may be stored whose numbers it was not told.
        issued = max(process.promised, told.get(process.boot_id, {}).get("issued", 0))
        excess = len(there) + sum(drops.values()) - drops.get("cap_sent", 0) - issued
        result["overcounted"] = result.get("overcounted", 0) + max(excess - 2, 0)
    db.close()
    return result


def versions() -> dict[str, str]:
    """Return the versions of everything that is measured."""
    program = find_mosquitto()
    text = subprocess.run([program or "false", "-h"], capture_output=True, text=True, check=False)
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "paho-mqtt": importlib.metadata.version("paho-mqtt"),
        "backports.zstd": importlib.metadata.version("backports.zstd"),
        "mosquitto": text.stdout.split("\n")[0].removeprefix("mosquitto version "),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--days", type=float, default=7.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "benchmarks" / "agent_outbox.json"
    )
    options = parser.parse_args()
    if find_mosquitto() is None:
        print("error: mosquitto is not installed\n  hint: make system-packages", file=sys.stderr)
        return 4
    runs: dict[str, Any] = {}
    for name, days, cap, kills in (
        ("whole", options.days, 2 << 30, options.kills),
        ("capped", options.days / 7, 0, options.kills // 5),
    ):
        folder = Path(tempfile.mkdtemp(prefix="edgekit-outbox-"))
        seconds = int(days * DAY_S)
        one = len(json.dumps(sample(100_000))) + 150
        week = Week(folder, cap or seconds * one // 5, seconds, kills, random.Random(options.seed))  # noqa: S311
        runs[name] = run(week)
        print(name, json.dumps(runs[name]), file=sys.stderr, flush=True)
        shutil.rmtree(folder)
    document = {
        "schema": "edgekit.bench.outbox/1",
        "where": f"{host_kind()} host, {os.cpu_count()} cores, measured here",
        "versions": versions(),
        "runs": runs,
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    good = all(not r["lost"] and not r["doubled"] and not r["overcounted"] for r in runs.values())
    print("every message once, every drop counted" if good else "MESSAGES ARE LOST OR DOUBLED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
