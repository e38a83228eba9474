"""What one flush will store, gathered in memory: new messages, sums, last words, acks."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from edgekit.fleet.ingest.decode import Control, Said, Telemetry
from edgekit.fleet.ingest.ranges import Ranges
from edgekit.fleet.ingest.sums import WINDOW_S, Key, Sums, models_of, number, vitals_of
from edgekit.wire.canonical import canonical_json
from edgekit.wire.messages import Ack
from edgekit.wire.strict import MAX_INTEGER

log = logging.getLogger(__name__)

# Of one process of a device, in memory; the lower half of more goes into the store.
MAX_RUNS = 4096
# There, of one process; more are no loss on the way, but somebody's game.
MAX_SPILLED = 1_000_000
EVERYBODY = ""
Mark = tuple[str, str]


@dataclass
class Process:
    """What is committed of one process of a device, or will be with this flush.

    Attributes:
        have: Numbers.
        issued: How many it has given out, as it said.
        dropped: How many of them it said will not come.
        received_s: When the last one came.
        floor: Numbers below it stand in the store alone.
        spilled: So many.
    """

    have: Ranges
    issued: int = 0
    dropped: int = 0
    received_s: float = 0.0
    floor: int = 0
    spilled: int = 0

    @property
    def count(self) -> int:
        """How many numbers are committed."""
        return self.have.count + self.spilled


class Known(Protocol):
    """What was stored before."""

    def process(self, device: str, boot_id: str) -> Process:
        """Return what is committed of a process; the same object each time."""
        ...

    def sums(self, key: Key) -> Sums:
        """Return the sums of a window, device and model; the same object each time."""
        ...

    def is_spilled(self, mark: Mark, seq: int) -> bool:
        """Tell whether a number below the floor of a process is committed."""
        ...


@dataclass
class Pending:
    """What is gathered since the last flush.

    Attributes:
        lines: Rows of raw telemetry, as JSON.
        size_bytes: Of the rows and the events, about.
        first_s: When the first one came.
        last_s: When the last one came.
        processes: That have changed.
        spilled: By device and process, numbers below its floor that the store does not have yet.
        sums: That have changed.
        samples: By device, the last sample and when it came.
        controls: By device and leaf, the last one, and when it came (None where it was retained).
        events: Rows.
        acks: By device and process, what will be committed.
        counts: What happened, by name.
    """

    lines: list[bytes] = field(default_factory=list)
    size_bytes: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    processes: dict[Mark, Process] = field(default_factory=dict)
    spilled: dict[Mark, Ranges] = field(default_factory=dict)
    sums: dict[Key, Sums] = field(default_factory=dict)
    samples: dict[str, tuple[Said, float]] = field(default_factory=dict)
    controls: dict[Mark, tuple[Said, float | None]] = field(default_factory=dict)
    events: list[tuple[str, float, float, str, str, str | None]] = field(default_factory=list)
    acks: dict[Mark, Ranges] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to store and nobody to answer."""
        return not (self.lines or self.controls or self.acks or self.events)

    def ack_messages(self) -> Iterator[tuple[str, Ack]]:
        """Return what to tell devices once all this is committed."""
        for (device, boot_id), numbers in self.acks.items():
            for first, last in numbers:
                yield device, Ack(boot_id, first, last)


def gather(pending: Pending, known: Known, batch: Telemetry, received_s: float) -> None:
    """Add a batch to what the next flush stores.

    Args:
        pending: Is changed.
        known: What was stored before; its objects are changed.
        batch: What came.
        received_s: When.
    """
    pending.counts["batches"] += 1
    device = batch.device
    for message in batch.messages:
        mark = (device, message["boot_id"])
        process = pending.processes.get(mark) or known.process(*mark)
        seq = message["seq"]
        is_new = _is_new(pending, known, mark, process, seq)
        if is_new is None:
            if not pending.counts["refused_gaps"]:
                log.warning(
                    "%s: over %d numbers of its process %s came with gaps; the rest is refused"
                    " until it starts again",
                    device, MAX_SPILLED, mark[1],
                )  # fmt: skip
            pending.counts["refused_gaps"] += 1
            continue
        pending.acks.setdefault(mark, Ranges()).add(seq)
        if not is_new:
            pending.counts["repeated"] += 1
            continue
        process.received_s = received_s
        pending.processes[mark] = process
        _store(pending, known, device, message, received_s)


def control(pending: Pending, said: Control, received_s: float, *, is_retained: bool) -> None:
    """Add any other message to what the next flush stores.

    Args:
        pending: Is changed.
        said: What came.
        received_s: When.
        is_retained: The broker had kept it.
    """
    pending.counts[said.leaf] += 1
    if said.leaf == "reply":
        text = canonical_json(said.said).decode()
        row = (said.device, received_s, received_s, "reply", text, str(said.said["id"]))
        pending.events.append(row)
        pending.size_bytes += len(text)
        return
    seen_s = None if is_retained or said.said.get("reason") == "lost" else received_s
    pending.controls[said.device, said.leaf] = (said.said, seen_s)


def _is_new(pending: Pending, known: Known, mark: Mark, process: Process, seq: int) -> bool | None:
    """Put a number into what a process has, and tell whether it is new; None: it is refused."""
    have = process.have
    if seq >= process.floor:
        if len(have) < MAX_RUNS or _joins(have, seq):
            return have.add(seq)
        if process.spilled >= MAX_SPILLED:
            return None
        lowest = have.take_lowest(MAX_RUNS // 2)
        process.floor = lowest[-1][1] + 1
        process.spilled += sum(last - first + 1 for first, last in lowest)
        pending.spilled.setdefault(mark, Ranges()).extend(lowest)
        return _is_new(pending, known, mark, process, seq)
    spilled = pending.spilled.get(mark)
    if (spilled is not None and seq in spilled) or known.is_spilled(mark, seq):
        return False
    if process.spilled >= MAX_SPILLED:
        return None
    process.spilled += 1
    return pending.spilled.setdefault(mark, Ranges()).add(seq)


def _joins(have: Ranges, seq: int) -> bool:
    return seq in have or seq - 1 in have or seq + 1 in have


def _store(pending: Pending, known: Known, device: str, message: Said, received_s: float) -> None:
    values = message["values"]
    vitals, name = vitals_of(values), values.get("name")
    line = {
        "device": device,
        "boot_id": message["boot_id"],
        "seq": message["seq"],
        "received_s": received_s,
        "time_s": message["time_s"],
        "kind": message["kind"],
        "name": name if type(name) is str and message["kind"] == "event" else None,
        "temp_c": number(vitals.get("temp_c")),
        "cpu_share": number(vitals.get("cpu_share")),
        "rss_bytes": number(vitals.get("rss_bytes")),
        "content": values,
    }
    # A clock that is set back makes a later message the first one.
    pending.first_s = min(pending.first_s, received_s) if pending.lines else received_s
    pending.last_s = max(pending.last_s, received_s)
    pending.lines.append(orjson.dumps(line))
    pending.size_bytes += len(pending.lines[-1])
    pending.counts["messages"] += 1
    if message["kind"] == "event":
        _event(pending, known, device, message, received_s)
        return
    _, before_s = pending.samples.get(device, ({}, 0.0))
    if received_s >= before_s:
        pending.samples[device] = (values, received_s)
    window_s = int(received_s // WINDOW_S) * WINDOW_S
    if vitals:
        _sums(pending, known, (window_s, device, "")).add_vitals(vitals)
    for model, said in models_of(values):
        _sums(pending, known, (window_s, device, model)).add_model(said)
        _sums(pending, known, (window_s, EVERYBODY, model)).add_model(said)


def _sums(pending: Pending, known: Known, key: Key) -> Sums:
    found = pending.sums.get(key)
    if found is None:
        found = pending.sums[key] = known.sums(key)
    return found


def _event(pending: Pending, known: Known, device: str, message: Said, received_s: float) -> None:
    values = message["values"]
    given = values.get("name") or values.get("what")
    name = given[:100] if isinstance(given, str) else "event"
    text = orjson.dumps(values).decode()
    pending.events.append((device, received_s, message["time_s"], name, text, None))
    pending.size_bytes += len(text)
    boots = values.get("boots")
    if name != "drops" or not isinstance(boots, list):
        return
    for boot in boots:
        told = _drops(boot)
        if told is not None:
            boot_id, issued, dropped = told
            mark = (device, boot_id)
            process = pending.processes.get(mark) or known.process(*mark)
            process.issued = max(process.issued, issued)
            process.dropped = max(process.dropped, dropped)
            process.received_s = received_s
            pending.processes[mark] = process


def _drops(boot: Any) -> tuple[str, int, int] | None:  # noqa: ANN401 - JSON
    if not isinstance(boot, dict) or not isinstance(boot.get("drops"), dict):
        return None
    boot_id, issued = boot.get("boot_id"), boot.get("issued")
    counts = [n for n in boot["drops"].values() if type(n) is int and n >= 0]
    if not isinstance(boot_id, str) or type(issued) is not int:
        return None
    if len(boot_id) != 16 or not 0 <= issued <= MAX_INTEGER:  # noqa: PLR2004 - hex digits of a process
        return None
    return boot_id, issued, min(sum(counts), MAX_INTEGER)
