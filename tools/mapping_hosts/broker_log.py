"""What a client did on the wire, read from the log of ``mosquitto -v``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["connect", "will", "subscribe", "publish", "disconnect"]
_CONNECT = re.compile(r"New client connected from \S+ as (\S+) \(p\d, c(\d), ")
_WILL = re.compile(r"Will message specified \(\d+ bytes\) \(r(\d), q(\d)\)")
_SUBSCRIBE = re.compile(r"Received SUBSCRIBE from (\S+)")
_FILTER = re.compile(r"\t(\S+) \(QoS (\d)\)")
_PUBLISH = re.compile(r"Received PUBLISH from (\S+) \(d\d, q(\d), r(\d), m\d+, '([^']*)'")
_DISCONNECT = re.compile(r"Received DISCONNECT from (\S+)")


@dataclass(frozen=True)
class Act:
    """One thing that a client did.

    Attributes:
        kind: What.
        topic: Where; empty for a connection and its end.
        qos: Quality of service.
        flag: Retain; of a connection, whether it is a clean one.
    """

    kind: Kind
    topic: str = ""
    qos: int = 0
    flag: bool = False


def acts_of(log: str, client: str) -> list[Act]:
    """Return what a client did, in order.

    Args:
        log: Of the broker.
        client: Its id.
    """
    acts: list[Act] = []
    lines = [line.partition(": ")[2] for line in log.splitlines()]
    ours = False  # whether an indented line belongs to what this client has just said
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if found := _CONNECT.match(line):
            ours = found[1] == client
            acts += [Act("connect", flag=found[2] == "1")] if ours else []
        elif found := _SUBSCRIBE.match(line):
            ours = found[1] == client
        elif ours and (found := _WILL.match(line)):
            acts.append(Act("will", after.strip(), int(found[2]), found[1] == "1"))
        elif ours and (found := _FILTER.match(line)):
            acts.append(Act("subscribe", found[1], int(found[2])))
        elif (found := _PUBLISH.match(line)) and found[1] == client:
            acts.append(Act("publish", found[4], int(found[2]), found[3] == "1"))
        elif (found := _DISCONNECT.match(line)) and found[1] == client:
            acts.append(Act("disconnect"))
    return acts
