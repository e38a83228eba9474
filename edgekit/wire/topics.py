"""The MQTT topics: ``edgekit/1/<fleet>/<device>/<leaf>``, built and parsed in one place.

The ``1`` is the version of the messages: what an old reader could not survive gets a ``2``. Names
of fleets and devices are plain enough to be a folder, a client id and a topic level at once: no
wildcard, no separator, no leading dot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from edgekit.wire.errors import TrustError

PREFIX = "edgekit/1"
MAX_NAME = 64

Leaf = Literal[
    "telemetry", "ack", "state", "hello", "command", "reply", "desired", "reported",
    "input", "output",
]  # fmt: skip
LEAVES: tuple[Leaf, ...] = get_args(Leaf)
# These have one level more: the name of a pipeline.
NAMED: tuple[Leaf, ...] = ("input", "output")
# What a device hears; it says all the others.
TO_DEVICE: tuple[Leaf, ...] = ("ack", "command", "desired", "input")

_PLAIN = rf"[a-z0-9_][a-z0-9._-]{{0,{MAX_NAME - 1}}}"
_NAME = re.compile(_PLAIN, re.ASCII)
_TOPIC = re.compile(
    rf"{PREFIX}/(?P<fleet>{_PLAIN})/(?P<device>{_PLAIN})/(?P<leaf>[a-z]+)(?:/(?P<name>{_PLAIN}))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Topic:
    """One topic, taken apart.

    Attributes:
        fleet: Name of the fleet.
        device: Name of the device in it.
        leaf: What is said there.
        name: The pipeline, for ``input`` and ``output``; empty for the others.
    """

    fleet: str
    device: str
    leaf: Leaf
    name: str = ""

    def __str__(self) -> str:
        return topic(self.fleet, self.device, self.leaf, self.name)


def check_name(name: str, what: str = "name") -> str:
    """Return a fleet's, device's or pipeline's name if it may stand in a topic.

    Args:
        name: 1 to 64 of ``a-z 0-9 . _ -``; the first is neither a dot nor a hyphen.
        what: What it names, for the message.

    Raises:
        TrustError: It may not.
    """
    if not _NAME.fullmatch(name):
        raise TrustError(
            f"{name[: MAX_NAME + 1]!r} is no {what} for a topic",
            hint=f"1 to {MAX_NAME} of a-z 0-9 . _ - and no dot or hyphen in front",
        )
    return name


def topic(fleet: str, device: str, leaf: Leaf, name: str = "") -> str:
    """Build a topic.

    Args:
        fleet: Name of the fleet.
        device: Name of the device.
        leaf: One of :data:`LEAVES`.
        name: The pipeline, for ``input`` and ``output`` alone.

    Raises:
        TrustError: A name is not plain, is missing, or is one too many.
    """
    if (leaf in NAMED) != bool(name):
        raise TrustError(f"a topic ends in {f'{leaf}/NAME' if leaf in NAMED else leaf}")
    parts = [PREFIX, check_name(fleet, "fleet"), check_name(device, "device"), leaf]
    if name:
        parts.append(check_name(name, "pipeline"))
    return "/".join(parts)


def fleet_filter(leaf: Leaf, fleet: str | None = None) -> str:
    """Return the filter that hears one leaf of all devices.

    Args:
        leaf: One of :data:`LEAVES`.
        fleet: Of one fleet alone; None for all.

    Raises:
        TrustError: The fleet's name is not plain.
    """
    named = "+" if fleet is None else check_name(fleet, "fleet")
    return "/".join([PREFIX, named, "+", leaf, *(["+"] if leaf in NAMED else [])])


def shared(group: str, topic_filter: str) -> str:
    """Return the shared subscription by which several ingest processes divide the messages.

    Raises:
        TrustError: The group's name is not plain.
    """
    return f"$share/{check_name(group, 'group')}/{topic_filter}"


def parse_topic(text: str) -> Topic:
    """Take a topic apart that strangers wrote.

    Raises:
        TrustError: It is none of ours: another prefix or version, a bad name, an unknown leaf.
    """
    match = _TOPIC.fullmatch(text) if len(text) <= 4 * MAX_NAME else None
    for leaf in LEAVES if match else ():
        if match is not None and match["leaf"] == leaf and (leaf in NAMED) == bool(match["name"]):
            return Topic(match["fleet"], match["device"], leaf, match["name"] or "")
    raise TrustError(f"{text[:80]!r} is no topic of {PREFIX}")
