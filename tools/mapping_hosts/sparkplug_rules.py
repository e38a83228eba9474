"""The rules of the Sparkplug 3.0.0 specification for edge nodes, as checks of what was heard.

Each check names the end of the specification's own label of the rule (``tck-id-…``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mapping_hosts.broker_log import Act
from mapping_hosts.checks import Checks

Message = Mapping[str, Any]
REBIRTH = "Node Control/Rebirth"
_TYPES = {
    **dict.fromkeys(("bdSeq", "requests", "errors"), "INT64"),
    **dict.fromkeys((REBIRTH, "Vitals/under_voltage", "Vitals/throttled"), "BOOLEAN"),
    "last_class": "STRING",
}
_WRAP = 256
_MAX_SKEW_MS = 60_000


def check_wire(checks: Checks, acts: Sequence[Act], topic: Mapping[str, str]) -> None:
    """Check flags and order of what the node's client did.

    Args:
        checks: Takes the result.
        acts: As the broker saw them.
        topic: By kind of message.
    """
    connections = list(_connections(acts))
    checks.holds("the node connected, and again after it was killed", len(connections) > 1)
    checks.add(
        "every connection is clean (persistence-clean-session)",
        *(acts[0] for acts in connections if not acts[0].flag),
    )
    will = Act("will", topic["NDEATH"], 1)
    checks.add(
        "its will is NDEATH, QoS 1, not retained (birth-publish-will-message)",
        *(acts[1] for acts in connections if acts[1] != will),
    )
    asked = Act("subscribe", topic["NCMD"], 1)
    birth = Act("publish", topic["NBIRTH"])
    checks.add(
        "it subscribes to NCMD at QoS 1, then says NBIRTH first (edge-node-ncmd-subscribe)",
        # One that ends before its birth says nothing.
        *(acts[:4] for acts in connections if acts[2:4] not in ([asked, birth], [asked])),
    )
    allowed = {birth, Act("publish", topic["NDATA"]), Act("publish", topic["NDEATH"], 1)}
    said = {act for act in acts if act.kind == "publish"}
    checks.add("births and data at QoS 0, nothing retained (payloads-*-qos)", *(said - allowed))
    last = [Act("publish", topic["NDEATH"], 1), Act("disconnect")]
    checks.holds(
        "a node that is stopped says NDEATH, then DISCONNECT (intentional-disconnect-ndeath)",
        list(acts[-2:]) == last,
        acts[-2:],
    )


def _connections(acts: Iterable[Act]) -> Iterator[list[Act]]:
    found: list[Act] = []
    for act in acts:
        if act.kind == "connect" and found:
            yield found
            found = []
        found.append(act)
    yield found


def check_messages(checks: Checks, heard: Sequence[Message], topic: Mapping[str, str]) -> None:
    """Check what stands in the messages, and their order.

    Args:
        checks: Takes the result.
        heard: As the host has read them.
        topic: By kind of message.
    """
    read = [message for message in heard if "problem" not in message]
    checks.add(
        "the host reads every message",
        *(message["problem"] for message in heard if "problem" in message),
    )
    checks.add(
        "topics are spBv1.0/group/kind/node (topic-structure-namespace)",
        *(m["topic"] for m in read if m["topic"] != topic[m["kind"]]),
    )
    births, data, deaths = (
        [message for message in read if message["kind"] == kind]
        for kind in ("NBIRTH", "NDATA", "NDEATH")
    )
    checks.add("NBIRTH has seq 0 (payloads-nbirth-seq)", *(b["seq"] for b in births if b["seq"]))
    checks.add("each next message has the next seq, NDATA none before its NBIRTH", *_gaps(read))
    checks.holds(
        "seq goes from 255 to 0 (payloads-sequence-num-incrementing)",
        any(a["seq"] == _WRAP - 1 and b["seq"] == 0 for a, b in itertools.pairwise(data)),
        "it was not seen",
    )
    checks.add(
        "NDEATH is bdSeq alone, without seq (payloads-ndeath-seq, topics-ndeath-payload)",
        *(d for d in deaths if d["seq"] is not None or names_of(d) != ["bdSeq"]),
    )
    checks.add("bdSeq: one for birth and death, then the next (payloads-bdseq)", *_sessions(read))
    checks.add(
        "NBIRTH has Node Control/Rebirth, Boolean, false, no alias (data-commands-rebirth-*)",
        *(b["metrics"][:2] for b in births if not _offers_rebirth(b)),
    )
    checks.add(
        "every metric of a birth says its type (metric-datatype-req)",
        *(b["topic"] for b in births if not all(b["typed"])),
    )
    checks.add(
        "no metric of data does (metric-datatype-not-req)",
        *(d["topic"] for d in data if any(d["typed"])),
    )
    checks.add("data has metrics of its birth alone, of the birth's type", *_strangers(read))
    checks.add("types are Int64, Double, Boolean, String as documented", *_wrong_types(read))
    checks.add("times are UTC in ms, for each message and metric", *_wrong_times(read))
    aliased = [m["name"] for message in read for m in message["metrics"] if m["alias"] is not None]
    checks.add("no aliases, so every metric has its name (payloads-name-requirement)", *aliased)


def names_of(message: Message) -> list[str]:
    """Return the names of a message's metrics."""
    return [metric["name"] for metric in message["metrics"]]


def value_of(message: Message, name: str) -> Any:  # noqa: ANN401 - as its type says
    """Return a metric's value; None where the message has it not."""
    return next((m["value"] for m in message["metrics"] if m["name"] == name), None)


def _gaps(read: Sequence[Message]) -> Iterator[str]:
    expected: int | None = None
    for message in read:
        if message["kind"] == "NDEATH":
            expected = None
            continue
        if message["kind"] == "NBIRTH":
            expected = 0
        if message["seq"] != expected:
            yield f"{message['kind']} has {message['seq']}, not {expected}"
        expected = None if expected is None else (expected + 1) % _WRAP


def _sessions(read: Sequence[Message]) -> Iterator[str]:
    current: int | None = None
    ended = True
    for message in read:
        if message["kind"] == "NDATA":
            continue
        told = value_of(message, "bdSeq")
        if ended and current is not None and told != (current + 1) % _WRAP:
            yield f"{told} after {current}"
        if not ended and told != current:
            yield f"{message['kind']} has {told}, not {current}"
        current, ended = told, message["kind"] == "NDEATH"


def _offers_rebirth(birth: Message) -> bool:
    metric = next((m for m in birth["metrics"] if m["name"] == REBIRTH), None)
    return metric is not None and (metric["datatype"], metric["value"], metric["alias"]) == (
        *("BOOLEAN", False),
        None,
    )


def _strangers(read: Iterable[Message]) -> Iterator[str]:
    born: dict[str, str] = {}
    for message in read:
        if message["kind"] == "NBIRTH":
            born = {metric["name"]: metric["datatype"] for metric in message["metrics"]}
        for metric in message["metrics"] if message["kind"] == "NDATA" else ():
            if born.get(metric["name"]) != metric["datatype"]:
                yield metric["name"]


def _wrong_types(read: Iterable[Message]) -> Iterator[str]:
    for message in read:
        for metric in message["metrics"]:
            name = metric["name"]
            short = name.rpartition("/")[2] if name.startswith("Models/") else name
            if metric["datatype"] != _TYPES.get(short, "DOUBLE"):
                yield f"{name} is {metric['datatype']}"


def _wrong_times(read: Iterable[Message]) -> Iterator[str]:
    for message in read:
        times = [metric["timestamp"] for metric in message["metrics"]]
        # A will is as old as its connection.
        bound = _MAX_SKEW_MS if message["kind"] != "NDEATH" else 3_600_000
        for time_ms in [message["timestamp"], *times]:
            if time_ms is None or abs(time_ms - message["heard_ms"]) > bound:
                yield f"{message['kind']} {time_ms}"
