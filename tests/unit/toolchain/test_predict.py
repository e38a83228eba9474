"""Predictions: what follows from the roofline whatever its constants are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit.toolchain import predict as module
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.predict import NEVER_CHECKED, load_band, predict
from edgekit.toolchain.project import packaged_folder
from edgekit.toolchain.targets import list_targets, load_target
from edgekit.wire.measurement import Kind

PACKAGED = packaged_folder("targets")


def target_of(name: str):
    return load_target(name, [PACKAGED]).target


def conv_stack(layers: int = 6, channels: int = 64, *, int8: bool = False, ends: bool = True):
    """Convolutions one after another; if int8, each between Q and DQ, the last one if ``ends``."""
    node = helper.make_node
    constants = {"s": np.float32(0.1), "z": np.uint8(0), "zw": np.int8(0)}
    nodes, last = [], "x"
    for i in range(layers):
        constants[f"w{i}"] = np.ones((channels, channels, 3, 3), np.int8 if int8 else np.float32)
        weight = f"w{i}"
        if int8:
            nodes += [
                node("QuantizeLinear", [last, "s", "z"], [f"q{i}"]),
                node("DequantizeLinear", [f"q{i}", "s", "z"], [f"d{i}"]),
                node("DequantizeLinear", [weight, "s", "zw"], [f"wd{i}"]),
            ]
            last, weight = f"d{i}", f"wd{i}"
        nodes.append(node("Conv", [last, weight], [f"c{i}"], pads=[1, 1, 1, 1]))
        last = f"c{i}"
    if int8 and ends:
        nodes += [
            node("QuantizeLinear", [last, "s", "z"], ["yq"]),
            node("DequantizeLinear", ["yq", "s", "z"], [last := "y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 28, 28])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    return Graph.of(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


@pytest.mark.parametrize("name", list_targets([PACKAGED]))
def test_predictions_carry_kind_place_and_band(name):
    forecast = predict(conv_stack(2), target_of(name))
    metrics = [m.metric for m in forecast.measurements]
    assert metrics == ["latency_p50_ms", "latency_p95_ms", "peak_memory_mib"]
    for measurement in forecast.measurements:
        assert measurement.kind is Kind.PREDICTED
        assert measurement.where == name
        low, high = measurement.interval
        assert 0 < low <= measurement.value <= high
    assert forecast.latency_p95_ms.value >= forecast.latency_p50_ms.value
    assert NEVER_CHECKED in forecast.note


def test_the_same_graph_gives_the_same_numbers():
    target = target_of("rpi5")
    first, second = (predict(conv_stack(), target).measurements for _ in range(2))
    assert first == second


def test_dotprod_makes_int8_faster_and_its_absence_does_not():
    for name, faster in (("rpi5", True), ("rk3566", True), ("rpi4", False), ("rpi3", False)):
        fp32 = predict(conv_stack(), target_of(name)).latency_p50_ms.value
        int8 = predict(conv_stack(int8=True), target_of(name)).latency_p50_ms.value
        assert (int8 / fp32 < 0.7) is faster, name


def test_int8_that_stays_in_float_costs_more_than_fp32():
    """Q and DQ around a float convolution are pure overhead."""
    target = target_of("rpi4")
    broken = predict(conv_stack(1, int8=True, ends=False), target)
    assert broken.facts.int8_macs == 0
    plain = predict(conv_stack(1), target)
    assert broken.latency_p50_ms.value > plain.latency_p50_ms.value


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["clock", "bandwidth", "threads"]), st.floats(1.1, 4))
def test_better_hardware_is_never_slower(what, factor):
    target = target_of("rpi4")
    cpu, memory, runtime = target.cpu, target.memory, target.runtime
    if what == "clock":
        cpu = dataclasses.replace(
            cpu,
            clock_mhz=int(cpu.clock_mhz * factor),
            fp32_gflops=cpu.fp32_gflops * factor,
            int8_gops=cpu.int8_gops * factor,
        )
    elif what == "bandwidth":
        faster = memory.bandwidth_mib_s * factor
        memory = dataclasses.replace(memory, bandwidth_mib_s=faster)
    else:
        target = dataclasses.replace(target, runtime=dataclasses.replace(runtime, threads=2))
    better = dataclasses.replace(target, cpu=cpu, memory=memory)
    if what == "threads":
        better = dataclasses.replace(target, runtime=runtime)
    graph = conv_stack(3)
    assert (
        predict(graph, better).latency_p50_ms.value <= predict(graph, target).latency_p50_ms.value
    )


def test_latency_is_the_sum_of_the_nodes():
    forecast = predict(conv_stack(), target_of("rk3588"))
    total = sum(node.total_ms for node in forecast.nodes)
    assert forecast.latency_p50_ms.value == pytest.approx(total, rel=1e-3)
    for node in forecast.nodes:
        assert node.total_ms >= max(node.compute_ms, node.memory_ms)


def test_more_weights_take_more_memory():
    small, large = (predict(conv_stack(n), target_of("rpi5")).peak_memory_mib.value for n in (1, 8))
    assert large > small > 0


def test_the_committed_band_was_made_with_the_constants_in_use():
    """Whoever changes an assumption measures the band again."""
    document = json.loads(Path(module._DATA).read_text())
    assert document["assumptions"] == dataclasses.asdict(module.ASSUMED)
    assert document["n"] == len(document["models"]) >= 10
    ratios = [row["measured_ms"] / row["predicted_ms"] for row in document["models"]]
    band = load_band()
    inside = sum(band.low <= ratio <= band.high for ratio in ratios)
    assert 0.6 <= inside / len(ratios) <= 1.0
    assert band.low < band.high
