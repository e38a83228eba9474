"""Samples: what they hold, that they add up, and that no raw value leaves the device."""

from __future__ import annotations

import json
import random

from edgekit.agent.outbox import OutboxStats
from edgekit.agent.telemetry import Collector, Meter, ModelReference, Queue, Served
from edgekit.runtime.sketches import LatencyHistogram, ValueSketch, make_reference
from edgekit.wire.messages import MAX_MESSAGE_BYTES, Message, parse_message

GENERATOR = random.Random(2)  # noqa: S311
REFERENCE = ModelReference(
    {"input.brightness": make_reference(GENERATOR.gauss(0.5, 0.1) for _ in range(500))},
    {"cat": 300, "dog": 200},
)


def collector(models: dict[str, Served], times: list[float], stats: OutboxStats) -> Collector:
    moments = iter(times)
    return Collector(
        lambda: {"cpu_share": 0.2}, lambda: models, lambda: stats, lambda: next(moments)
    )


EMPTY = OutboxStats(3, 900, {}, "")


def busy_meter(mean: float = 0.5) -> Meter:
    meter = Meter(REFERENCE)
    for i in range(300):
        meter.answered(4.0 + i / 100)
        meter.saw_class("cat" if i % 5 < 3 else "dog", 0.9)
        meter.saw_value("input.brightness", GENERATOR.gauss(mean, 0.1))
        meter.saw_value("input.unknown", 1.0)
    meter.failed()
    return meter


def test_a_sample_holds_the_board_the_models_and_the_outbox() -> None:
    served = Served("ab" * 32, busy_meter(), Queue(waiting=2, turned_away=1))
    sample = collector({"pets": served}, [10.0, 11.5], EMPTY).sample()
    assert sample["period_s"] == 1.5
    assert sample["vitals"] == {"cpu_share": 0.2}
    assert sample["outbox"] == {"messages": 3, "bytes": 900}
    model = sample["models"]["pets"]
    assert (model["requests"], model["errors"], model["rejected"], model["queue"]) == (301, 1, 1, 2)
    assert model["bundle"] == "ab" * 6
    assert model["outputs"]["classes"]["counts"] == {"cat": 180, "dog": 120}
    histogram = LatencyHistogram.from_json(model["latency_ms"])
    assert histogram.count == 300
    assert abs(histogram.percentile_ms(0.5) - 5.5) < 0.2
    assert set(model["drift"]) == {"input.brightness", "output.classes"}
    message = Message("0" * 16, 0, 1.0, "sample", sample)
    assert parse_message(message.to_bytes()) == message


def test_the_next_sample_begins_anew_and_the_two_merge() -> None:
    meter = busy_meter()
    together = collector({"pets": Served("ab" * 32, meter)}, [0.0, 1.0, 2.0, 3.0], EMPTY)
    first = together.sample()["models"]["pets"]
    meter.answered(8.0)
    second = together.sample()["models"]["pets"]
    third = together.sample()["models"]["pets"]
    assert second["requests"] == 1
    assert third == {"bundle": "ab" * 6, "requests": 0, "errors": 0}
    parts = [LatencyHistogram.from_json(p["latency_ms"]) for p in (first, second)]
    assert parts[0].merged(parts[1]).count == 301
    reference = REFERENCE.values["input.brightness"]
    sketch = ValueSketch.from_json(first["drift"]["input.brightness"]["sketch"], reference)
    assert sum(sketch.counts) == 300


def test_who_is_turned_away_is_counted_once() -> None:
    models = {"pets": Served("ab" * 32, Meter(), Queue(0, 0))}
    together = collector(models, [0.0, 1.0, 2.0, 3.0, 4.0], EMPTY)
    counts = []
    for turned_away in (0, 5, 5, 7):
        models["pets"] = Served("cd" * 32, Meter(), Queue(1, turned_away))
        counts.append(together.sample()["models"]["pets"]["rejected"])
    assert counts == [0, 5, 0, 2]


def test_drift_is_told_and_its_absence_too() -> None:
    def level(mean: float) -> str:
        served = Served("ab" * 32, busy_meter(mean))
        model = collector({"m": served}, [0.0, 1.0], EMPTY).sample()["models"]["m"]
        return model["drift"]["input.brightness"]["level"]

    assert level(0.5) == "none"
    assert level(0.7) == "much"


def test_no_models_no_model_values_and_drops_are_told() -> None:
    stats = OutboxStats(1, 2, {"cap": 7}, "database or disk is full")
    sample = collector({}, [0.0, 1.0], stats).sample()
    assert "models" not in sample
    assert sample["outbox"]["drops"] == {"cap": 7}
    assert "full" in sample["outbox"]["problem"]


def test_no_raw_value_leaves_the_device() -> None:
    meter = Meter(REFERENCE)
    meter.saw_value("input.brightness", 0.123456789)
    sample = collector({"m": Served("ab" * 32, meter)}, [0.0, 1.0], EMPTY).sample()
    assert "123456" not in json.dumps(sample)


def test_a_sample_of_a_busy_agent_fits_a_message() -> None:
    values = {f"input.v{i}": REFERENCE.values["input.brightness"] for i in range(100)}
    models = {}
    for n in range(4):
        meter = Meter(ModelReference(values, {f"class {i}": 1 for i in range(1000)}))
        for i in range(3000):
            meter.answered(GENERATOR.lognormvariate(2, 2))
            meter.saw_class(f"class {i % 1000}", GENERATOR.random())
            for name in values:
                meter.saw_value(name, 0.5)
        models[f"m{n}"] = Served("ab" * 32, meter)
    sample = collector(models, [0.0, 1.0], EMPTY).sample()
    assert len(Message("0" * 16, 0, 1.0, "sample", sample).to_bytes()) < MAX_MESSAGE_BYTES
