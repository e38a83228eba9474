"""Sparkplug B: order, counters and types, read back by a reader that knows the encoding alone."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.agent.config import Config, SparkplugSettings
from edgekit.agent.mappings.chosen import Mappings
from edgekit.agent.mappings.sparkplug import BDSEQ, REBIRTH, Node
from edgekit.agent.mappings.sparkplug_payload import (
    BOOLEAN,
    INT64,
    Metric,
    _payload_class,
    decode,
    encode,
    type_of,
)
from edgekit.agent.session import Address
from edgekit.wire.errors import TrustError

from ....protobuf_reader import sparkplug  # noqa: TID252 - helper of the agent's tests

pytest.importorskip("google.protobuf")


def test_birth_death_and_data() -> None:
    node = Node(7)
    death, birth = sparkplug(node.death(5)), sparkplug(node.birth({"a": 1, "b": 0.5}, 9))
    assert death == {"timestamp": 5, "metrics": {BDSEQ: (4, 7)}}
    assert birth["seq"] == 0
    assert birth["metrics"] == {BDSEQ: (4, 7), REBIRTH: (11, 0), "a": (4, 1), "b": (10, 0.5)}
    data = node.data({"a": 2, "b": 0.5}, 10)
    assert data is not None
    assert sparkplug(data) == {"timestamp": 10, "seq": 1, "metrics": {"a": (None, 2)}}, (
        "types are the birth's"
    )
    assert node.data({"a": 2, "b": 0.5}, 11) is None, "nothing has changed"
    gone = node.data({"a": 2}, 12)
    assert gone is not None
    assert sparkplug(gone)["metrics"] == {"b": (None, None)}


def test_what_a_model_has_later_is_born_null_and_needs_no_other_birth() -> None:
    node, name = Node(0), "Models/pets/last_class"
    assert sparkplug(node.birth({name: None}, 0))["metrics"][name] == (12, None)
    assert not node.needs_birth({name: "cat"})
    assert node.data({name: None}, 1) is None
    data = node.data({name: "cat"}, 2)
    assert data is not None
    assert sparkplug(data)["metrics"] == {name: (None, "cat")}


@given(st.lists(st.one_of(st.just("birth"), st.just("data")), max_size=600))
def test_the_sequence_has_no_gap_and_wraps(steps: list[str]) -> None:
    node, expected = Node(0), 0
    node.birth({"x": 0}, 0)
    for number, step in enumerate(steps, 1):
        values = {"x": number}
        payload = node.birth(values, 0) if step == "birth" else node.data(values, 0)
        expected = 0 if step == "birth" else (expected + 1) % 256
        assert payload is not None
        assert sparkplug(payload)["seq"] == expected


def test_255_is_followed_by_0() -> None:
    node = Node(256)
    assert node.bdseq == 0
    node.birth({"x": 0}, 0)
    seqs = [sparkplug(node.data({"x": i}, 0) or b"")["seq"] for i in range(1, 258)]
    assert seqs[253:257] == [254, 255, 0, 1]


def test_a_new_metric_needs_a_birth_and_so_does_a_command() -> None:
    node = Node(0)
    node.birth({"a": 1}, 0)
    assert not node.needs_birth({"a": 2})
    assert node.needs_birth({"a": 2, "b": 1})
    node.command(encode([Metric(REBIRTH, False, BOOLEAN)], 0, None))
    assert not node.needs_birth({"a": 2})
    node.command(encode([Metric(REBIRTH, True, BOOLEAN)], 0, None))
    assert node.needs_birth({"a": 2})
    node.birth({"a": 2}, 0)
    assert not node.needs_birth({"a": 2})


@given(st.binary(max_size=200))
def test_what_strangers_send_is_refused_or_nothing(payload: bytes) -> None:
    node = Node(0)
    try:
        node.command(payload)
    except TrustError:
        return
    assert node.rebirth_asked == any(m.name == REBIRTH and m.value is True for m in decode(payload))


def test_too_large_a_command_is_refused() -> None:
    with pytest.raises(TrustError):
        Node(0).command(b"\0" * 70_000)
    with pytest.raises(TrustError):
        Node(0).command(encode([Metric("x", 1, INT64)] * 300, 0, None))


@given(
    st.one_of(
        st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.booleans(), st.text()
    )
)
def test_every_value_comes_back(value: float | bool | str) -> None:
    kind = type_of(value)
    data = encode([Metric("m", value, kind)], 1, 0)
    read = sparkplug(data)["metrics"]["m"]
    assert read[0] == kind
    held = read[1]
    if kind == INT64 and held >= 2**63:
        held -= 2**64
    assert held == value


def test_without_the_library_the_agent_goes_on(tmp_path, monkeypatch, caplog) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "google"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    _payload_class.cache_clear()
    config = Config(
        "lab", "b1", "rpi5", tmp_path, (), sparkplug=SparkplugSettings("lab", "b1", 10.0)
    )
    address = Address("127.0.0.1", 1, "lab", "b1")
    clocks = SimpleNamespace(unix_s=time.time, monotonic_s=time.monotonic)
    mappings = Mappings(config, address, lambda _model: None, set, lambda: None, clocks)
    mappings.start()
    assert "edgekit[sparkplug]" in caplog.text
    mappings.take({"vitals": {}})
    mappings.stop()
