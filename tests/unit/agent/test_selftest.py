"""Self-tests of real bundles, and of some that fail, hang and crash."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.agent.placement import Found, compare_placement, read_profile
from edgekit.agent.selftest import SelfTest, SelfTestSettings, run_self_test
from edgekit.agent.selftest_run import _rank
from edgekit.runtime.golden import Recorded, to_members
from edgekit.runtime.host import host_kind
from edgekit.toolchain.pack import write_bundle
from edgekit.wire.canonical import canonical_json
from edgekit.wire.errors import DeviceError, TrustError
from edgekit.wire.manifest import Placement
from edgekit.wire.measurement import Kind, Requirement
from edgekit.wire.selftest import SelfTestResult, parse_self_test
from edgekit.wire.signing import generate_key, load_private_key
from edgekit.wire.strict import parse_object

QUICK = SelfTestSettings(deadline_s=60.0, rounds=2, timing_s=2.0, where="bench 3")
CPU = "CPUExecutionProvider"


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def checked(result):
    """Every result, whatever happened, can be sent and read back."""
    data = canonical_json(result.to_json())
    assert parse_self_test(parse_object(data, "x", most_bytes=1 << 20)) == result
    return result


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A real bundle for this kind of host, and its key."""
    if host_kind() != "x86-64-vnni":
        pytest.skip("the bundle is built for x86-64-vnni")
    folder = tmp_path_factory.mktemp("digits")
    command = [sys.executable, "-m", "edgekit", "build", "digits-cnn"]
    line = [*command, "--target", "x86-64-vnni", "-o", str(folder)]
    # Not in the repository: a timing decides, and the decision is written to the project's lock.
    subprocess.run(line, check=True, capture_output=True, cwd=folder)
    key = load_private_key(Path(os.environ["XDG_CONFIG_HOME"]) / "edgekit" / "keys" / "dev.pem")
    return folder / "digits-cnn-x86-64-vnni.ekb", key.public


@pytest.fixture
def tested(small_bundle, tmp_path):
    """Make a variant of the small bundle and run its self-test."""

    def run(members=(), settings=QUICK, command=None, drop=(), **changes):
        path = tmp_path / "variant.ekb"
        content = {k: v for k, v in small_bundle.members.items() if k not in drop} | dict(members)
        write_bundle(
            path, replace(small_bundle.manifest, **changes), content, small_bundle.private_key
        )
        options = {} if command is None else {"command": command}
        keys = [small_bundle.private_key.public]
        test = SelfTest(path, digest(path), keys, settings=settings, **options)
        return checked(test.wait())

    return run


def test_a_real_bundle_passes_with_numbers_measured_here(digits):
    path, key = digits
    result = checked(run_self_test(path, digest(path), [key], settings=QUICK))
    assert (result.passed, result.reason, result.exit_code) == (True, "", 0)
    assert (result.golden.samples, result.golden.within) == (16, 16)
    latencies = {m.metric: m for m in result.measurements}
    assert set(latencies) == {"latency_p50_ms", "latency_p95_ms", "latency_p99_ms"}
    p95 = latencies["latency_p95_ms"]
    assert (p95.kind, p95.where, p95.n) == (Kind.MEASURED, "bench 3", 32)
    assert 0 < latencies["latency_p50_ms"].value <= p95.value < 1000
    assert result.providers[CPU] > 0
    assert result.host == host_kind()
    assert result.onnxruntime
    assert 0 < result.duration_s < 60


def test_integer_nodes_are_counted_where_they_run(tested):
    result = tested(placement=(Placement("Conv", "int8", CPU, 1),))
    assert result.passed
    assert [(row.op, row.expected, row.found) for row in result.placement] == [("Conv", 1, 1)]


def test_an_accelerator_that_runs_nothing_fails(tested):
    result = tested(placement=(Placement("Conv", "int8", "QNNExecutionProvider", 1),))
    assert not result.passed
    assert result.reason == "nothing runs on QNNExecutionProvider, where Conv should"
    assert result.placement[0].found == 0
    assert result.exit_code == 6


def test_the_latency_of_the_contract_is_judged_here(tested):
    loose = Requirement("latency_p95_ms", maximum=10_000.0)
    elsewhere = (
        Requirement("top1", minimum=0.9),
        Requirement("latency_p95_ms", maximum=0.5, vs="fp32"),
    )
    result = tested(contract=(loose, *elsewhere))
    assert result.passed
    assert [(row.metric, row.outcome) for row in result.judged] == [("latency_p95_ms", "pass")]
    result = tested(contract=(loose, Requirement("latency_p50_ms", maximum=1e-6)))
    assert not result.passed
    assert result.reason.startswith("latency_p50_ms is ")
    assert result.reason.endswith("the contract says ≤ 1e-06")
    assert [row.outcome for row in result.judged] == ["pass", "fail"]


def test_wrong_answers_fail_before_anything_is_timed(tested, small_bundle):
    swapped = {"golden/02/input.npy": small_bundle.members["golden/01/input.npy"]}
    result = tested(swapped)
    assert not result.passed
    assert result.reason.startswith('golden sample 2, output "y": off by ')
    assert (result.golden.outputs, result.golden.within) == (4, 3)
    assert result.measurements == ()
    assert result.exit_code == 6


def test_a_bundle_without_golden_samples_cannot_pass(tested, small_bundle):
    golden = [name for name in small_bundle.members if name.startswith("golden/")]
    result = tested(drop=golden, golden=replace(small_bundle.manifest.golden, count=0))
    assert (result.passed, result.reason) == (False, "the bundle has no golden samples")


def test_what_is_no_model_fails(tested):
    result = tested({"model.onnx": b"no model"})
    assert not result.passed
    assert "cannot load the model" in result.reason
    assert result.exit_code == 5


def test_a_model_that_never_ends_is_killed_at_the_deadline(tested, small_bundle):
    members = {"model.onnx": endless_model()}
    sample = small_bundle.members["golden/00/input.npy"]
    recorded = Recorded({}, {"y": np.zeros(1, np.float32)}, {"y": "0" * 64})
    for index in range(4):
        members |= to_members(index, ".npy", sample, recorded)
    result = tested(members, replace(QUICK, deadline_s=3.0))
    assert (result.passed, result.signal, result.exit_code) == (False, "SIGKILL", None)
    assert result.reason == "it hung: no answer within 3 s"
    assert 3 <= result.duration_s < 20
    assert result.measurements == ()


def endless_model():
    """y = x after 2**62 rounds of a loop."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["c2"]),
            helper.make_node("Identity", ["v"], ["v2"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 3, 16, 16]),
        ],
        [
            helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v2", TensorProto.FLOAT, [1, 3, 16, 16]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "t", "x"], ["y"], body=body)],
        "endless",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 16, 16])],
        [
            numpy_helper.from_array(np.asarray(2**62, np.int64), "n"),
            numpy_helper.from_array(np.asarray(True), "t"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def child(before):
    """Return a command whose process does something before it runs the real self-test."""
    script = (
        f"import os, subprocess, sys, time\n{before}\n"
        "from edgekit.agent import selftest\nsys.exit(selftest.main(sys.argv[1:]))"
    )
    return (sys.executable, "-X", "faulthandler", "-c", script)


ABORTS = "import onnxruntime\nonnxruntime.InferenceSession = lambda *a, **k: os.abort()"
NOISY = (
    "import onnxruntime\nreal = onnxruntime.InferenceSession\n"
    "def noisy(*a, **k):\n    os.write(1, b'noise' * 99); return real(*a, **k)\n"
    "onnxruntime.InferenceSession = noisy"
)


def test_a_crash_of_the_runtime_is_only_the_childs(tested):
    result = tested(command=child(ABORTS))
    assert (result.passed, result.signal) == (False, "SIGABRT")
    assert result.reason == "its process was ended by SIGABRT"
    assert "Fatal Python error: Aborted" in result.detail


def test_what_libraries_print_is_no_part_of_the_result(tested):
    result = tested(command=child(NOISY))
    assert result.passed


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("sys.exit(0)", "ended with 0 and said nothing"),
        ("print('{}'); sys.exit(0)", "ended with 0 and said nothing"),
        ("raise MemoryError('no more')", "ended with 1 and said nothing"),
        ("print('x' * (2 << 20)); sys.exit(0)", "ended with 0 and said nothing"),
    ],
)
def test_silence_is_no_pass(tested, before, words):
    result = tested(command=child(before))
    assert not result.passed
    assert words in result.reason
    assert "MemoryError" not in before or "MemoryError: no more" in result.detail


def test_a_result_of_another_bundle_or_against_the_exit_code_is_no_pass(tested, small_bundle):
    other = tested()
    assert other.passed
    document = replace(other, exit_code=None).to_json()
    lies = child(f"print({canonical_json(document).decode()!r}); sys.exit(0)")
    changed = tested(command=lies, title="Another title, so another digest")
    assert changed.reason == "its process ended with 0 and said otherwise"
    failing = child(f"print({canonical_json(document).decode()!r}); sys.exit(6)")
    assert tested(command=failing).reason == "its process ended with 6 and said otherwise"


def test_a_bundle_that_is_not_trusted_is_not_run(small_bundle):
    stranger = generate_key("x").public
    sha256 = digest(small_bundle.path)
    result = checked(run_self_test(small_bundle.path, sha256, [stranger], settings=QUICK))
    assert (result.passed, result.exit_code) == (False, 7)
    assert "not trusted here" in result.reason
    known = small_bundle.private_key.public
    result = checked(run_self_test(small_bundle.path, "a" * 64, [known], settings=QUICK))
    assert (result.passed, result.exit_code) == (False, 7)
    assert "not the bundle" in result.reason


def test_nothing_is_left_of_a_test_that_was_killed(tested, tmp_path):
    pid_file = tmp_path / "pid"
    starts = (
        "p = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(pid_file)!r}, 'w').write(str(p.pid))\ntime.sleep(600)"
    )
    result = tested(command=child(starts), settings=replace(QUICK, deadline_s=3.0))
    assert "hung" in result.reason
    pid = int(pid_file.read_text())
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the grandchild is alive")


def test_a_test_can_be_stopped(small_bundle):
    keys = [small_bundle.private_key.public]
    test = SelfTest(
        small_bundle.path, digest(small_bundle.path), keys, command=child("time.sleep(600)")
    )
    threading.Timer(0.5, test.cancel).start()
    result = checked(test.wait())
    assert (result.passed, result.reason) == (False, "it was stopped")
    test.cancel()  # nothing is left to stop


def test_a_program_that_is_not_there_is_named(small_bundle):
    with pytest.raises(DeviceError, match="cannot be started: No such file"):
        SelfTest(small_bundle.path, "a" * 64, [], command=("/nowhere/python",))


def test_the_quantile_is_the_one_that_a_trial_counts():
    # 1 slow answer of 20 is within a 95th percentile, 2 are not.
    assert [_rank(0.95, n) for n in (1, 2, 19, 20, 21, 40, 100)] == [0, 1, 18, 18, 19, 37, 94]
    assert [_rank(0.5, n) for n in (1, 2, 3)] == [0, 0, 1]


def node(name, op, provider=CPU, index="0"):
    args = {"op_name": op, "provider": provider, "node_index": index}
    return {"cat": "Node", "name": name, "args": args}


def test_a_profile_is_counted_once_a_node():
    events = [
        {"cat": "Session", "name": "model_run"},
        {"cat": "Node", "name": "no provider", "args": {"op_name": "Conv"}},
        node("a", "QLinearConv"),
        node("a", "QLinearConv"),
        node("b", "QLinearConv", "NPU", "1"),
        node("c", "QGemm", CPU, "2"),
        node("d", "Relu", CPU, "3"),
    ]
    found = read_profile(events)
    assert found.nodes == {CPU: 3, "NPU": 1}
    assert found.integer == {("Conv", CPU): 1, ("Conv", "NPU"): 1, ("Gemm", CPU): 1}
    rows = compare_placement(
        [Placement("Conv", "int8", CPU, 5), Placement("Relu", "fp32", CPU, 1)], found
    )
    assert [(row.expected, row.found) for row in rows] == [(5, 1), (1, None)]


@pytest.mark.parametrize(
    "events", [None, {}, [], [1], [{"cat": "Node"}], [{"cat": "Node", "args": {}}]]
)
def test_a_profile_that_tells_nothing_is_no_placement(events):
    assert read_profile(events) is None
    assert compare_placement([], Found({}, {})) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "edgekit.selftest/2"},
        {"passed": 1},
        {"passed": True},
        {"sha256": "a"},
        {"measurements": [{}]},
        {"judged": [{"metric": "x", "outcome": "great"}]},
        {"exit_code": -1},
        {"surprise": 1},
    ],
)
def test_a_result_in_another_form_is_refused(change):
    document = SelfTestResult("a" * 64, False, "why", 1.0, "arm64").to_json()
    parse_self_test(document)
    with pytest.raises(TrustError):
        parse_self_test({**document, **change})
