"""A day of an agent in minutes: its clock runs fast, everything else is real.

``python -m tests.agent_soak SPEED --config agent.json`` is the agent under such a clock.
:func:`soak` lives with it: telemetry to a real broker, requests, commands, a broker that is killed
and comes back.
"""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil

from edgekit.agent.config import load_config
from edgekit.agent.link import Backoff
from edgekit.agent.main import Agent, Clocks, log_to_stderr
from edgekit.wire.messages import Command
from edgekit.wire.topics import topic

from .agent_board import DEVICE, FLEET, Board, until
from .agent_broker import Broker
from .agent_receiver import Receiver

ROOT = Path(__file__).resolve().parents[1]
SPEED = 200.0
PERIOD_S = 1.0
_LOOK_S = 0.5
_REQUESTS = 10  # for each look
_AWAY_S = 2.0
# Those that the broker had in hand when it was killed: it keeps nothing.
_LOST_COMMANDS = 12


@dataclass(frozen=True)
class Look:
    """What was seen of the agent at one moment.

    Attributes:
        samples: Telemetry samples that had been stored by then.
        rss_mb: Its resident memory, MB.
        files: Its open file handles.
        threads: Its threads.
    """

    samples: int
    rss_mb: float
    files: int
    threads: int


@dataclass(frozen=True)
class Soaked:
    """What came of a soak.

    Attributes:
        looks: In order.
        requests: Answered requests.
        commands: Answered commands.
        outages: How often the broker was killed.
        stored: Messages that the receiver has.
        boots: How many processes they came from.
    """

    looks: tuple[Look, ...]
    requests: int
    commands: int
    outages: int
    stored: int
    boots: int

    def growth(self, of: Callable[[Look], float]) -> float:
        """Return by how much something grew from the second quarter of the looks to the last.

        In the first one buffers and caches grow to the size that the largest batch needs.
        """
        quarter = max(1, len(self.looks) // 4)
        first, last = self.looks[quarter : 2 * quarter], self.looks[-quarter:]
        return statistics.median(map(of, last)) - statistics.median(map(of, first))


def soak(
    board: Board, broker: Broker, receiver: Receiver, sample: bytes, *, hours: float, outages: int
) -> Soaked:
    """Let an agent live for some hours of its own time.

    Args:
        board: Its settings; it is started here.
        broker: Running.
        receiver: Connected to it.
        sample: What requests send.
        hours: By the agent's telemetry, which comes once a second of its clock.
        outages: How often the broker is killed on the way.
    """
    board.module = ("tests.agent_soak", str(SPEED))
    board.environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    board.settings["telemetry"] = {"period_s": PERIOD_S}
    board.start()
    until(board.serves)
    assert board.process is not None
    process = psutil.Process(board.process.pid)
    wanted = int(hours * 3600 / PERIOD_S)
    looks: list[Look] = []
    requests, numbers, away = 0, itertools.count(), iter(_evenly(wanted, outages))
    next_outage = next(away)
    while (stored := receiver.count()) < wanted:
        requests += sum(_answered(board, sample) for _ in range(_REQUESTS))
        receiver.say(topic(FLEET, DEVICE, "command"), _ping(next(numbers)))
        looks.append(_look(process, stored))
        if stored >= next_outage:
            next_outage = next(away)
            broker.stop(kill=True)
            time.sleep(_AWAY_S)
            broker.start()
        time.sleep(_LOOK_S)
    until(lambda: len(receiver.of("reply")) >= len(looks) - _LOST_COMMANDS * outages)
    assert board.kill(signal.SIGTERM) == 0, board.log()
    replies = receiver.of("reply")
    return Soaked(
        tuple(looks),
        requests,
        len({reply["id"] for reply in replies if reply["ok"]}),
        outages,
        receiver.count(),
        len({boot for boot, *_ in receiver.rows()}),
    )


def _evenly(wanted: int, times: int) -> Iterator[float]:
    yield from (wanted * (i + 1) / (times + 1) for i in range(times))
    while True:
        yield float("inf")


def _answered(board: Board, sample: bytes) -> bool:
    try:
        board.infer(sample)
    except urllib.error.HTTPError as error:
        # The deadline of a request is by the fast clock: a busy machine may be too slow for it.
        if error.code not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.GATEWAY_TIMEOUT):
            raise
        return False
    return True


def _ping(number: int) -> bytes:
    return Command(f"soak-{number}", "ping", {"echo": number}).to_bytes()


def _look(process: psutil.Process, samples: int) -> Look:
    with process.oneshot():
        rss_mb = process.memory_info().rss / 1e6
        return Look(samples, rss_mb, process.num_fds(), process.num_threads())


def run_fast(config: Path, speed: float) -> dict[str, Any]:
    """Run an agent whose clocks run fast, until SIGTERM."""
    monotonic_s, unix_s = time.monotonic(), time.time()

    def passed_s() -> float:
        return (time.monotonic() - monotonic_s) * speed

    clocks = Clocks(lambda: monotonic_s + passed_s(), lambda: unix_s + passed_s(), speed)
    agent = Agent(load_config(config), clocks)
    assert agent.link is not None
    # The network's clock is the kernel's: outages of a day, minutes apart, would count as one.
    agent.link._backoff = Backoff(cap_s=2.0, stable_s=1.0)
    signal.signal(signal.SIGTERM, lambda *_: agent.stop())
    agent.run()
    return dict(agent.status())


if __name__ == "__main__":
    log_to_stderr()
    run_fast(Path(sys.argv[3]), float(sys.argv[1]))
