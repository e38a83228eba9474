"""The rules of `make check-mappings`: they pass what is right, and see each thing that is wrong."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
TOPIC = {kind: f"spBv1.0/lab/{kind}/b1" for kind in ("NBIRTH", "NDATA", "NDEATH", "NCMD")}
NOW_MS = 1_795_720_800_000
LOG = """\
1: New client connected from 127.0.0.1:1 as node (p5, c1, k60).
1: Will message specified (27 bytes) (r0, q1).
1: \tspBv1.0/lab/NDEATH/b1
1: Sending CONNACK to node (0, 0)
1: Received SUBSCRIBE from node
1: \tspBv1.0/lab/NCMD/b1 (QoS 1)
1: node 1 spBv1.0/lab/NCMD/b1
1: Received PUBLISH from node (d0, q0, r0, m0, 'spBv1.0/lab/NBIRTH/b1', ... (64 bytes))
1: Received PUBLISH from other (d0, q2, r1, m0, 'spBv1.0/lab/NBIRTH/b1', ... (64 bytes))
"""
END = """\
1: Received PUBLISH from node (d0, q1, r0, m3, 'spBv1.0/lab/NDEATH/b1', ... (27 bytes))
1: Received DISCONNECT from node
"""


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> ModuleType | SimpleNamespace:
    monkeypatch.syspath_prepend(str(TOOLS))
    for name in [name for name in sys.modules if name.partition(".")[0] == "mapping_hosts"]:
        monkeypatch.delitem(sys.modules, name)
    from mapping_hosts import broker_log, checks, sparkplug_rules

    return SimpleNamespace(log=broker_log, checks=checks, rules=sparkplug_rules)


def metric(name: str, value: object, datatype: str) -> dict[str, Any]:
    facts = {"name": name, "value": value, "datatype": datatype, "null": False, "alias": None}
    return facts | {"timestamp": NOW_MS}


def message(kind: str, seq: int | None, *metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "topic": TOPIC[kind],
        "kind": kind,
        "seq": seq,
        "typed": [kind != "NDATA"] * len(metrics),
        "metrics": list(metrics),
        "timestamp": NOW_MS,
        "heard_ms": NOW_MS + 5,
    }


def session(bdseq: int, length: int) -> list[dict[str, Any]]:
    number = metric("bdSeq", bdseq, "INT64")
    load = metric("Vitals/cpu_share", 0.5, "DOUBLE")
    offer = metric("Node Control/Rebirth", False, "BOOLEAN")
    data = [message("NDATA", seq % 256, load) for seq in range(1, length)]
    return [message("NBIRTH", 0, number, offer, load), *data, message("NDEATH", None, number)]


def failed(hosts: Any, heard: list[dict[str, Any]]) -> list[str]:
    checks = hosts.checks.Checks("x")
    hosts.rules.check_messages(checks, heard, TOPIC)
    assert checks.failed == sum(bool(wrong) for _, wrong in checks.rows)
    return [what for what, wrong in checks.rows if wrong]


def test_what_is_right_holds(hosts: Any) -> None:
    assert failed(hosts, session(255, 300) + session(0, 3)) == []


WRONG: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "a gap": (lambda m: m.pop(5), "next seq"),
    "birth with another seq": (lambda m: m[0].update(seq=1), "seq 0"),
    "data before the birth": (lambda m: m.insert(0, m.pop(1)), "next seq"),
    "death with a seq": (lambda m: m[-1].update(seq=4), "bdSeq alone"),
    "death of another connection": (
        lambda m: m[-1]["metrics"].__setitem__(0, metric("bdSeq", 9, "INT64")),
        "one for birth and death",
    ),
    "no offer of a rebirth": (lambda m: m[0]["metrics"].pop(1), "Rebirth"),
    "bdSeq of another type": (lambda m: m[0]["metrics"][0].update(datatype="UINT64"), "Int64"),
    "data with types": (lambda m: m[3].update(typed=[True]), "no metric of data"),
    "birth without": (lambda m: m[0].update(typed=[False]), "says its type"),
    "a metric that was not born": (
        lambda m: m[3]["metrics"].append(metric("Vitals/temp_c", 1.0, "DOUBLE")),
        "of its birth alone",
    ),
    "seconds": (lambda m: m[3].update(timestamp=NOW_MS // 1000), "UTC in ms"),
    "a metric without a time": (lambda m: m[3]["metrics"][0].update(timestamp=None), "UTC in ms"),
    "another topic": (lambda m: m[3].update(topic="spBv1.0/lab/NDATA/b2"), "topics are"),
    "not read": (lambda m: m.append({"topic": "x", "problem": "ValueError"}), "reads every"),
    "no wrap": (lambda m: m.__delitem__(slice(200, 300)), "from 255 to 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_seen(hosts: Any, name: str) -> None:
    spoil, seen = WRONG[name]
    heard = copy.deepcopy(session(0, 300))
    spoil(heard)
    assert any(seen in what for what in failed(hosts, heard))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("c1, k60", "c0, k60"),
        ("(r0, q1)", "(r1, q1)"),
        ("NCMD/b1 (QoS 1)", "NCMD/b1 (QoS 0)"),
        ("from node (d0, q0, r0", "from node (d0, q1, r0"),
        ("from node (d0, q0, r0", "from node (d0, q0, r1"),
        ("Received DISCONNECT from node", "Client node closed its connection."),
        ("1: \tspBv1.0/lab/NCMD/b1 (QoS 1)\n", ""),
        ("", ""),
    ],
)
def test_flags_and_order_are_read_from_the_brokers_log(hosts: Any, right: str, wrong: str) -> None:
    checks = hosts.checks.Checks("x")
    killed_early = "".join(LOG.splitlines(keepends=True)[:7])
    log = LOG + killed_early + LOG + END
    log = log.replace(right, wrong) if right else log
    hosts.rules.check_wire(checks, hosts.log.acts_of(log, "node"), TOPIC)
    assert bool(checks.failed) == bool(right), checks.show()
