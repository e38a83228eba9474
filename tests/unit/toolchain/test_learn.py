"""Facts come back from timings that were made from them, and from nothing else."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.toolchain.facts import GraphFacts, NodeFacts
from edgekit.toolchain.learn import (
    LEARNED,
    MIN_MODELS,
    OVERHEAD,
    Observation,
    fit,
    predict_ms,
    with_facts,
)
from edgekit.toolchain.placement import Place
from edgekit.toolchain.project import packaged_folder
from edgekit.toolchain.target import Target
from edgekit.toolchain.targets import load_target
from edgekit.wire.errors import ConfigError

TARGET = load_target("rpi5", [packaged_folder("targets")]).target
MIB = 1 << 20


def node(
    *, macs: int = 0, params: int = 0, moved: int = 1000, place: Place = Place.FLOAT, op="MatMul"
) -> NodeFacts:
    return NodeFacts("n", op, place, macs, bool(macs), False, params, moved, moved, moved // 4)


def graph(*nodes: NodeFacts) -> GraphFacts:
    params = sum(n.param_bytes for n in nodes)
    macs = sum(n.macs or 0 for n in nodes)
    int8 = sum(n.macs or 0 for n in nodes if n.place is Place.INT8)
    return GraphFacts(nodes, {}, macs, int8, params, params, params, 4 * MIB, {}, frozenset(), 0)


def float_net(millions: int) -> GraphFacts:
    layers = [node(macs=millions * 10**6 // 10, params=40_000) for _ in range(10)]
    return graph(*layers)


def int8_net(millions: int) -> GraphFacts:
    one = node(macs=millions * 10**6 // 10, params=10_000, place=Place.INT8)
    return graph(*[one] * 10)


def memory_net(mib: int) -> GraphFacts:
    # A vector times large matrices: every weight is read once and used once.
    layers = [node(macs=mib * MIB // 40, params=mib * MIB // 10) for _ in range(10)]
    return graph(*layers)


MODELS = {
    "float-a": float_net(300),
    "float-b": float_net(1500),
    "int8-a": int8_net(800),
    "int8-b": int8_net(4000),
    "memory-a": memory_net(20),
    "memory-b": memory_net(90),
}


def observed(
    truth: Target, models: dict[str, GraphFacts] | None = None, noise: float = 0.0, threads: int = 4
) -> list[Observation]:
    chance = random.Random(1)  # noqa: S311 - test data
    out = []
    for index, (name, facts) in enumerate((models or MODELS).items()):
        one = Observation(name, f"{index:064x}", facts, threads, 1.0)
        latency_ms = predict_ms(one, truth) * (1 + noise * chance.uniform(-1, 1))
        out.append(dataclasses.replace(one, latency_ms=latency_ms))
    return out


def scaled(fp32: float, int8: float, bandwidth: float) -> Target:
    moves = dict(zip(LEARNED, (fp32, int8, bandwidth), strict=True))
    return with_facts(TARGET, {key: value_of(TARGET, key) * move for key, move in moves.items()})


def value_of(target: Target, key: str) -> float:
    section, name = key.split(".")
    return float(getattr(getattr(target, section), name))


share = st.floats(0.25, 1.4)


@settings(max_examples=25, deadline=None)
@given(share, share, share, st.integers(1, 4))
def test_timings_made_from_facts_give_these_facts_back(
    fp32: float, int8: float, bandwidth: float, threads: int
) -> None:
    truth = scaled(fp32, int8, bandwidth)
    found = fit(observed(truth, threads=threads), TARGET)
    told = {fact.key: fact for fact in found.facts if fact.after is not None}
    assert "cpu.fp32_gflops" in told
    for key, fact in ((key, fact) for key, fact in told.items() if key in LEARNED):
        assert fact.after == pytest.approx(value_of(truth, key), rel=0.05)
        assert fact.error is not None
        assert fact.error < 0.25
    assert found.off(after=True) < 1.02


def test_all_three_facts_are_told_by_models_of_all_kinds_in_spite_of_noise() -> None:
    truth = scaled(0.5, 0.4, 0.6)
    found = fit(observed(truth, noise=0.05), TARGET)
    assert set(found.changed) == set(LEARNED)
    for key, value in found.changed.items():
        assert value == pytest.approx(value_of(truth, key), rel=0.15), key
    assert found.off(after=False) > 1.5
    assert found.off(after=True) < 1.06


def test_another_overhead_does_not_bend_the_facts_and_is_never_written() -> None:
    tiny = {f"tiny-{n}": graph(*[node(macs=1000, moved=64)] * n) for n in (40, 200)}
    truth = scaled(0.5, 0.4, 0.6)
    slow = [
        dataclasses.replace(o, latency_ms=predict_ms(o, truth, 9000.0))
        for o in observed(truth, MODELS | tiny)
    ]
    found = fit(slow, TARGET)
    overhead = next(fact for fact in found.facts if fact.key == OVERHEAD)
    assert overhead.after == pytest.approx(9000, rel=0.1)
    assert set(found.changed) == set(LEARNED)
    for key, value in found.changed.items():
        assert value == pytest.approx(value_of(truth, key), rel=0.05), key


def test_what_the_models_do_not_tell_stays() -> None:
    nets = {name: facts for name, facts in MODELS.items() if name.startswith("float")}
    found = fit(observed(scaled(0.5, 0.5, 1.0), nets | {"float-c": float_net(700)}), TARGET)
    after = {fact.key: fact.after for fact in found.facts}
    assert after["cpu.fp32_gflops"] == pytest.approx(0.5 * 153.6, rel=0.05)
    assert after["cpu.int8_gops"] is None
    assert set(found.changed) == {"cpu.fp32_gflops"}


def test_two_facts_that_no_model_tells_apart_are_not_both_moved() -> None:
    nets = {
        f"mixed-{size}": graph(*float_net(size).nodes, *int8_net(30 * size).nodes)
        for size in (50, 100, 200, 400)
    }
    found = fit(observed(scaled(0.5, 0.4, 1.0), nets), TARGET)
    moved = {fact.key: fact.after for fact in found.facts if fact.after is not None}
    assert len(set(moved) & {"cpu.fp32_gflops", "cpu.int8_gops"}) == 1
    assert found.off(after=True) < 1.2


def test_facts_that_hold_already_are_not_moved() -> None:
    found = fit(observed(TARGET), TARGET)
    for key, value in found.changed.items():
        assert value == pytest.approx(value_of(TARGET, key), rel=0.01)
    assert found.off(after=True) == pytest.approx(1, abs=0.01)


def test_of_several_runs_of_one_model_the_median_counts() -> None:
    runs = observed(scaled(0.5, 0.5, 0.5))
    outlier = dataclasses.replace(runs[0], latency_ms=50 * runs[0].latency_ms)
    found = fit([*runs, runs[0], outlier], TARGET)
    assert len(found.rows) == len(MODELS)
    assert found.rows[0].measured_ms == runs[0].latency_ms


@pytest.mark.parametrize("count", [0, 1, MIN_MODELS - 1])
def test_too_few_models_are_refused(count: int) -> None:
    few = observed(TARGET)[:count]
    with pytest.raises(ConfigError, match="too few") as caught:
        fit(few * 5, TARGET)
    assert caught.value.hint


@pytest.mark.parametrize("latency_ms", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_latencies_that_are_none_are_refused(latency_ms: float) -> None:
    bad = [dataclasses.replace(o, latency_ms=latency_ms) for o in observed(TARGET)]
    with pytest.raises(ConfigError, match="no latency"):
        fit(bad, TARGET)


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_facts_that_cannot_be_are_refused(factor: float) -> None:
    bad = [dataclasses.replace(o, latency_ms=factor * o.latency_ms) for o in observed(TARGET)]
    with pytest.raises(ConfigError, match=r"absurd|no facts describe"):
        fit(bad, TARGET)


def test_latencies_that_no_facts_describe_are_refused() -> None:
    twins = {f"float-{i}": float_net(300) for i in range(6)}
    mixed = [
        dataclasses.replace(o, latency_ms=o.latency_ms * (12.0 if i % 2 else 1 / 12))
        for i, o in enumerate(observed(TARGET, twins))
    ]
    with pytest.raises(ConfigError, match="no facts describe") as caught:
        fit(mixed, TARGET)
    assert "busy" in str(caught.value.hint)
