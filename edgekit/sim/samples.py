"""What a simulated board measures: vitals with a daily drift, latencies as the agent counts them.

Made to be cheap: what a model did in a second comes from a few dozen seconds that were counted with
the agent's own sketches once; a sample is then one formatting of bytes.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from edgekit.runtime.sketches import ClassMix, LatencyHistogram, class_counts, drift
from edgekit.sim.faults import Fault
from edgekit.wire.canonical import canonical_json

DAY_S = 86_400.0
ERROR_SHARE = 0.25  # of a bad model
SLOWER = 4.0
_VARIANTS = 32
_SPREAD = 0.12  # of the logarithm of a latency
_REFERENCE = {"cat": 700, "dog": 300}


@dataclass(frozen=True)
class Board:
    """One kind of board with one model.

    Attributes:
        target: Its target's name.
        arch: Of its CPU.
        cores: How many.
        temp_c: Its mean temperature.
        clock_mhz: Its highest clock.
        memory_bytes: Physical memory.
        model: What it serves.
        latency_ms: Median time of a request.
        requests_per_s: It is asked so often.
    """

    target: str
    arch: str
    cores: int
    temp_c: float
    clock_mhz: int
    memory_bytes: int
    model: str
    latency_ms: float
    requests_per_s: int


BOARDS = (
    Board("rpi4", "aarch64", 4, 54.0, 1800, 4 << 30, "pets", 48.0, 5),
    Board("rpi5", "aarch64", 4, 58.0, 2400, 8 << 30, "pets", 19.0, 10),
    Board("rpi-zero2w", "aarch64", 4, 51.0, 1000, 512 << 20, "pets", 160.0, 2),
    Board("rk3588", "aarch64", 8, 49.0, 2400, 8 << 30, "ocr", 24.0, 8),
)

_SAMPLE = (
    b'{"boot_id":"%s","kind":"sample","seq":%d,"time_s":%.3f,"values":{"models":{"%s":{'
    b'"bundle":"%s",%s}},"outbox":{"bytes":%d,"messages":%d},"period_s":%s,"vitals":{'
    b'"clock_mhz":%d,"cpu_share":%.4f,"disk_free_bytes":%d,"memory_available_bytes":%d,'
    b'"memory_total_bytes":%d,"process_cpu_share":%.4f,"rss_bytes":%d,"temp_c":%.1f,'
    b'"throttle_bits":%d,"throttled":%s,"uptime_s":%d}}}'
)


@dataclass
class Meters:
    """The instruments of one device.

    Args:
        board: What it is.
        faults: What is wrong with it.
        generator: Its randomness.
    """

    board: Board
    faults: AbstractSet[Fault]
    generator: random.Random

    def __post_init__(self) -> None:
        one = self.generator
        self._model = self.board.model.encode()
        self._seconds = model_seconds(
            self.board, Fault.SLOW in self.faults, Fault.BAD_MODEL in self.faults
        )
        hot = Fault.HOT in self.faults
        self._temp_c = self.board.temp_c + one.gauss(0, 3) + (25 if hot else 0)
        self._cpu = min(0.9, max(0.05, one.gauss(0.3, 0.1)))
        # Throttled now, and once since it started (bits 2 and 18 of the firmware's word).
        self._throttle = (0x40004, b"true") if hot else (0, b"false")
        self._clock = int(self.board.clock_mhz * (0.6 if hot else 1.0))
        self._noon_s = one.uniform(0, DAY_S)
        self._free = self.board.memory_bytes * 5 // 8
        self._began_s: float | None = None

    def sample(
        self, boot_id: bytes, seq: int, time_s: float, bundle: bytes, held: int, period: bytes
    ) -> bytes:
        """Return one message, as JSON.

        Args:
            boot_id: Of the process.
            seq: Of the message.
            time_s: By the device's clock.
            bundle: First 12 digits of the digest of what serves.
            held: Messages in the outbox.
            period: Seconds since the sample before, as JSON.
        """
        if self._began_s is None:
            self._began_s = time_s
        number = self.generator.random()
        day = math.sin((time_s - self._noon_s) * (2 * math.pi / DAY_S))
        cpu = min(1.0, max(0.01, self._cpu + 0.05 * day + 0.08 * (number - 0.5)))
        bits, throttled = self._throttle
        return _SAMPLE % (
            boot_id, seq, time_s, self._model, bundle, self._seconds[int(number * _VARIANTS)],
            held * 700, held, period,
            self._clock, cpu, 20_000_000_000 - seq * 4096, self._free - int(number * 9e6),
            self.board.memory_bytes, cpu / 3, 61_000_000 + int(number * 1e6),
            self._temp_c + 4 * day + 2 * number, bits, throttled,
            int(time_s - self._began_s) + 60,
        )  # fmt: skip


@functools.cache
def model_seconds(board: Board, is_slow: bool, is_bad: bool) -> tuple[bytes, ...]:
    """Return what a model may have done in a second: members of a JSON object, some dozen of them.

    Args:
        board: With its model.
        is_slow: It answers slowly.
        is_bad: Requests fail, and its classes are not those of the reference.
    """
    generator = random.Random(f"{board.target}/{is_slow}/{is_bad}")  # noqa: S311 - a simulation
    return tuple(_second(board, is_slow, is_bad, generator) for _ in range(_VARIANTS))


def _second(board: Board, is_slow: bool, is_bad: bool, generator: random.Random) -> bytes:
    latency, classes, errors = LatencyHistogram(), ClassMix(), 0
    for _ in range(board.requests_per_s):
        if is_bad and generator.random() < ERROR_SHARE:
            errors += 1
            continue
        latency.add(latency_ms(board, is_slow, generator))
        classes.add("cat" if generator.random() < (0.15 if is_bad else 0.7) else "dog")
    seen = ClassMix()
    for _ in range(200):
        seen.add("cat" if generator.random() < (0.15 if is_bad else 0.7) else "dog")
    values = {
        "requests": board.requests_per_s,
        "errors": errors,
        "rejected": 0,
        "queue": 0,
        "latency_ms": latency.to_json(),
        "outputs": {"classes": classes.to_json()},
        "drift": {"output.classes": drift(*class_counts(_REFERENCE, seen))},
    }
    return canonical_json(values)[1:-1]


def latency_ms(board: Board, is_slow: bool, generator: random.Random) -> float:
    """Draw the time of one request."""
    usual = board.latency_ms * math.exp(generator.gauss(0, _SPREAD))
    return usual * SLOWER if is_slow else usual
