"""What ships: the fastest plan that meets the contract, else fp32, else nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgekit.toolchain.api import find_recipe
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.decide import (
    NO_LIMIT,
    Decision,
    TimeLimit,
    decide,
    describe_limit,
    describe_shortfall,
)
from edgekit.toolchain.events import ignore
from edgekit.toolchain.plan import make_plan
from edgekit.toolchain.project import folders
from edgekit.toolchain.scaffold import recipe_text
from edgekit.toolchain.stages import Workbench
from edgekit.toolchain.targets import load_target
from edgekit.toolchain.timing import Device, PairTiming
from edgekit.wire.located import Value
from edgekit.wire.measurement import Kind, Measurement, Outcome, Requirement, judge


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A model of three wide convolutions, for which int8 pays on a Cortex-A76."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder = tmp_path_factory.mktemp("decide")
    random = np.random.default_rng(5)
    weights, nodes, last = [], [], "x"
    for index, (width, depth) in enumerate([(3, 32), (32, 32), (32, 32)]):
        value = random.normal(scale=(width * 9) ** -0.5, size=(depth, width, 3, 3))
        weights.append(numpy_helper.from_array(value.astype(np.float32), f"w{index}"))
        conv = helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], pads=[1, 1, 1, 1])
        nodes += [conv, helper.make_node("Relu", [f"c{index}"], [f"r{index}"])]
        last = f"r{index}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["y"]))
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 1, 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "wide.onnx"))
    (folder / "samples").mkdir()
    for index in range(32):
        x = random.normal(size=(1, 3, 32, 32)).astype(np.float32)
        np.savez(folder / "samples" / f"{index}.npz", x=x)
    (folder / "models").mkdir()
    return folder


@pytest.fixture
def decided(project, shared_cache):
    """Decide under a contract, for a target, under an earlier decision."""

    def go(
        accept: str,
        target: str = "rpi5",
        lock: str | None = None,
        search: str = "quick",
        limit: TimeLimit = NO_LIMIT,
        device: Device | None = None,
    ) -> Decision:
        text = recipe_text(project / "wide.onnx", project / "samples", project / "models")
        assert "output_cosine = { min = 0.98 }" in text
        text = text.replace("output_cosine = { min = 0.98 }", accept)
        (project / "models" / "wide.toml").write_text(text)
        resolved = load_target(target, folders(project, "targets"))
        recipe = find_recipe("wide", project)
        decision = None if lock is None else Value(lock, "edgekit.lock")
        plan = make_plan(recipe, resolved, decision, Value(search, "--search"))
        cache = Cache(shared_cache)
        return decide(Workbench(recipe, resolved, plan, cache, ignore, device=device), limit)

    return go


def test_int8_ships_where_it_meets_the_contract_and_pays(decided):
    decision = decided("output_cosine = { min = 0.9 }")
    assert decision.winner.candidate.name == "static int8"
    assert decision.winner.latency_ratio < 1
    assert decision.winner.ratio_kind == "predicted"
    assert [j.candidate.name for j in decision.judged] == ["fp32", "static int8"]
    assert (
        decision.winner.candidate.graph.size_bytes < decision.judged[0].candidate.graph.size_bytes
    )
    assert "static int8 meets the contract at" in decision.reason


def test_weights_alone_are_stored_in_fewer_bits_where_no_int8_plan_will_do(decided):
    decision = decided("output_cosine = { min = 0.9 }", target="rpi4")
    assert all("x the time of fp32" in judged.reason for judged in decision.judged[1:-2])
    assert len(decision.judged) == 4, "one tells what int8 would lose; others are not evaluated"
    assert len(decision.refused) > 2
    assert all("x the time of fp32 (predicted)" in why for why in decision.refused.values())
    assert [j.candidate.name for j in decision.judged[-2:]] == ["fp16 weights", "int8 weights"]
    assert decision.winner.candidate.name == "int8 weights"
    assert decision.winner.latency_ratio == 1
    fp32 = decision.judged[0].candidate.graph.size_bytes
    assert decision.winner.candidate.graph.size_bytes < 0.4 * fp32
    decision = decided("output_cosine = { min = 0.9999999 }")
    assert decision.winner.candidate.name == "fp16 weights"
    assert decision.winner.candidate.graph.size_bytes < 0.6 * fp32


def test_a_full_search_ships_the_fastest_of_all(decided):
    quick, full = (decided("output_cosine = { min = 0.9 }", search=s) for s in ("quick", "full"))
    assert len(full.judged) > len(quick.judged)
    graphs = [j.candidate.graph.sha256 for j in full.judged]
    assert len(set(graphs)) == len(graphs), "no graph is tried under two names"
    assert {"int8 weights", "fp16 weights"} <= {j.candidate.name for j in full.judged}
    good = [j for j in full.judged[1:] if j.meets_contract and j.latency_ratio <= 1]
    assert full.winner.latency_ratio <= min(j.latency_ratio for j in good) + 0.01
    assert all(j.reason for j in full.judged[1:] if j.candidate.name != full.winner.candidate.name)


def test_a_limit_of_time_ends_a_search_with_what_was_found(decided):
    seconds = iter(range(0, 10_000, 40))
    limit = TimeLimit.of(1.0, lambda: next(seconds))
    accept = "output_cosine = { min = 0.9 }"
    decision = decided(accept, search="full", limit=limit)
    assert len(decision.judged) < len(decided(accept, search="full").judged)
    assert decision.winner.candidate.name == "static int8"
    assert decision.stopped == "the search ended after its 1 min"
    assert decision.reason.endswith(decision.stopped)


class Board:
    """Stands in for a board: it knows by the name how long a candidate takes."""

    def __init__(self, name: str, ratio: float) -> None:
        self.name, self.ratio = name, ratio

    def time_pair(self, fp32, candidate, feeds) -> PairTiming:
        assert fp32.sha256 != candidate.sha256
        assert feeds
        return PairTiming(10.0, 10.0 * self.ratio, self.ratio, 15)


def test_what_a_connected_device_measures_decides(decided):
    accept = "output_cosine = { min = 0.9 }"
    slow = decided(accept, device=Board("rpi5-slow", 1.2))
    assert slow.winner.candidate.name == "fp32"
    assert "takes 1.20 x the time of fp32 (measured on rpi5-slow)" in slow.judged[1].reason
    fast = decided(accept, device=Board("rpi5-fast", 0.4))
    assert fast.winner.candidate.name == "static int8"
    assert fast.winner.ratio_kind == "measured on rpi5-fast"


def test_what_a_full_search_decided_is_repeated_from_the_lock(decided):
    accept = "output_cosine = { min = 0.9 }"
    again = decided(accept, search="full", lock="fp16 weights")
    assert [j.candidate.name for j in again.judged] == ["fp32", "fp16 weights"]
    assert again.winner.candidate.name == "fp16 weights"


def test_fp32_is_kept_where_no_plan_is_close_enough(decided):
    decision = decided("output_cosine = { min = 0.9999999999 }")
    assert decision.winner.candidate.name == "fp32"
    assert decision.winner.reason == ""
    assert len(decision.judged) > 2
    assert all("output_cosine" in judged.reason for judged in decision.judged[1:])
    assert decision.reason.startswith("fp32 is kept: with ")
    assert "output_cosine" in decision.reason
    kept = [len(judged.candidate.kept_float) for judged in decision.judged[1:]]
    statics = [
        n for n, j in zip(kept, decision.judged[1:], strict=True) if "static" in j.candidate.name
    ]
    assert statics == sorted(statics), "more and more layers stay fp32"
    names = [judged.candidate.name for judged in decision.judged]
    assert len(set(names)) == len(names), "none is tried twice"


def test_int8_is_kept_where_fp32_alone_breaks_the_contract(decided):
    decision = decided("output_cosine = { min = 0.9 }\nsize_mib = { max = 0.04 }")
    assert decision.winner.candidate.name == "static int8"
    assert not decision.judged[0].meets_contract


def test_nothing_ships_where_nothing_meets_the_contract(decided):
    decision = decided("output_cosine = { min = 0.9 }\nsize_mib = { max = 0.001 }")
    assert decision.shipped is None
    assert decision.reason == ""
    with pytest.raises(ValueError, match="nothing ships"):
        _ = decision.winner


def test_a_metric_that_cannot_be_evaluated_ships_nothing(decided):
    decision = decided("npu_share = { min = 0.5 }")
    assert decision.shipped is None
    assert "npu_share is required and could not be evaluated" in decision.judged[1].reason


def test_an_earlier_decision_is_repeated(decided):
    fp32 = decided("output_cosine = { min = 0.9 }", lock="fp32")
    assert fp32.winner.candidate.name == "fp32"
    assert [j.candidate.name for j in fp32.judged] == ["fp32"]
    assert "edgekit.lock" in fp32.reason
    int8 = decided("output_cosine = { min = 0.9 }", lock="static int8")
    assert int8.winner.candidate.name == "static int8"
    assert int8.winner.timing is None


def test_a_decision_that_no_candidate_has_any_more_is_taken_anew(decided):
    decision = decided("output_cosine = { min = 0.9 }", lock="static int4, by a wizard")
    assert decision.winner.candidate.name == "static int8"


limits = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)


@given(limit=limits, value=limits, vs=st.sampled_from(["absolute", "fp32"]), low=st.booleans())
def test_a_shortfall_names_metric_value_and_limit(limit, value, vs, low):
    requirement = Requirement("m", limit if low else None, None if low else limit, vs, "f:1")
    measured = Measurement("m", value, Kind.MEASURED, "here")
    zero = Measurement("m", 0.0, Kind.MEASURED, "here")
    (verdict,) = judge([requirement], [measured], [zero])
    assume(not verdict.met)
    text = describe_shortfall(verdict)
    shown = float(text.removeprefix("m is ").partition(",")[0])
    assert shown == pytest.approx(value, rel=1e-2, abs=1e-300)
    if vs == "absolute" and abs(value - limit) > 1e-7 * abs(value):
        # Rounded to the limit it would read as met.
        assert shown < limit if low else shown > limit
    assert describe_limit(requirement) in text
    assert ("≥" if low else "≤") in text
    assert (f"{abs(limit):g}" if vs == "fp32" else f"{limit:g}") in text


@given(value=limits, step=st.floats(min_value=0, max_value=1e3), limit=limits)
def test_a_better_value_never_fails_where_a_worse_one_passes(value, step, limit):
    order = [Outcome.FAIL, Outcome.UNDECIDED, Outcome.PASS]

    def outcome(of: float, *, low: bool) -> int:
        requirement = Requirement("m", limit if low else None, None if low else limit)
        (verdict,) = judge([requirement], [Measurement("m", of, Kind.MEASURED, "here")], [])
        return order.index(verdict.outcome)

    assert outcome(value + step, low=True) >= outcome(value, low=True)
    assert outcome(value + step, low=False) <= outcome(value, low=False)
