"""docs/mqtt.md: every example is parsed, every leaf, metric and reason is there."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from edgekit.agent import outbox
from edgekit.agent.commands import Commands
from edgekit.agent.desk import Desk
from edgekit.agent.telemetry import CONFIDENCE
from edgekit.agent.vitals import METRICS
from edgekit.runtime.batches import pack, unpack
from edgekit.runtime.sketches import _OFFSET, ClassMix, LatencyHistogram, ValueSketch
from edgekit.wire.errors import TrustError
from edgekit.wire.messages import (
    open_desired,
    parse_ack,
    parse_batch,
    parse_command,
    parse_hello,
    parse_reply,
    parse_reported,
    parse_state,
)
from edgekit.wire.signing import PrivateKey
from edgekit.wire.topics import LEAVES, NAMED

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "mqtt.md").read_text(encoding="utf-8")
PARSERS = {
    "telemetry": parse_batch,
    "ack": parse_ack,
    "state": parse_state,
    "hello": parse_hello,
    "command": parse_command,
    "reply": parse_reply,
    "reported": parse_reported,
}


def examples(leaf: str) -> list[bytes]:
    section = re.search(rf"^### {leaf}$(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None, leaf
    found = re.findall(r"^```json\n(.*?)\n```$", section.group(1), re.MULTILINE | re.DOTALL)
    assert found, leaf
    return [text.encode() for text in found]


@pytest.mark.parametrize("leaf", PARSERS)
def test_every_example_is_a_message_with_all_its_fields(leaf: str) -> None:
    for example in examples(leaf):
        message = PARSERS[leaf](example)
        assert json.loads(message.to_bytes()) == json.loads(example)


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_leaf_is_in_the_table(leaf: str) -> None:
    name = f"{leaf}/<pipeline>" if leaf in NAMED else leaf
    assert re.search(rf"^\| \[?`{name}`", PAGE, re.MULTILINE)
    assert leaf in NAMED or leaf in PARSERS or leaf == "desired"


def test_the_example_of_an_order_opens() -> None:
    key = PrivateKey(bytes(32)).public
    (data,) = examples("desired")
    order = open_desired(data, [key], now_s=1795720800, device="north/cam-01")
    assert order.serial == 12
    with pytest.raises(TrustError, match="expired"):
        open_desired(data, [key], now_s=order.expires)


def test_the_example_of_a_sample_is_one_that_the_sketches_read() -> None:
    batch = parse_batch(examples("telemetry")[0])
    assert unpack(pack(batch)) == batch
    model = batch.messages[0].values["models"]["pets"]  # type: ignore[index,call-overload]
    assert LatencyHistogram.from_json(model["latency_ms"]).count == 20
    assert ClassMix.from_json(model["outputs"]["classes"]).counts["cat"] == 14
    assert ValueSketch.from_json(model["outputs"]["confidence"], CONFIDENCE).counts[-1] == 12
    vitals = batch.messages[0].values["vitals"]
    assert set(vitals) <= {metric.name for metric in METRICS}  # type: ignore[arg-type]


def test_the_table_of_metrics_is_the_list_of_metrics() -> None:
    section = PAGE.partition("## What a sample says of the board")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", section, re.MULTILINE)
    assert rows == [(metric.name, metric.meaning, metric.source) for metric in METRICS]


def test_the_formula_of_the_buckets_is_the_one_in_the_code() -> None:
    assert f"+ {-_OFFSET}`" in PAGE


def test_the_reasons_of_drops_are_in_the_module() -> None:
    for reason in ("cap", "cap_event", "cap_sent", "disk", "corrupt", "too_large"):
        assert f"``{reason}``" in str(outbox.__doc__)


def test_every_command_is_in_the_table() -> None:
    desk = Desk(None, "ab" * 8, None, time.time, lambda *_: None)  # type: ignore[arg-type]
    made = desk.commands(None, None, dict, lambda _args: None, lambda _args: None)  # type: ignore[arg-type]
    for name in Commands(made).names:
        assert re.search(rf"^\| `{name}` \|", PAGE, re.MULTILINE), name
