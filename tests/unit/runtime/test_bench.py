"""A benchmark of a real bundle under a clock of its own; what the document says and of whom."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.runtime.bench import Ask, Hooks, Machine, board_name, is_one_of, run, text_of
from edgekit.runtime.bench_profile import MAX_NODES, read_profile
from edgekit.wire.bundle import open_bundle
from edgekit.wire.errors import DeviceError, TrustError, UsageError
from edgekit.wire.messages import MAX_CONTROL_BYTES, Reply
from edgekit.wire.signing import load_public_key


class Clock:
    """Each look at it costs: 1 ms until it slows down."""

    def __init__(self, slow_after_s: float = 1e9) -> None:
        self.now_ns = 0
        self.slow_after_ns = slow_after_s * 1e9

    def __call__(self) -> int:
        self.now_ns += 1_000_000 if self.now_ns < self.slow_after_ns else 3_000_000
        return self.now_ns


@pytest.fixture
def bench(small_bundle, tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    with open_bundle(small_bundle.path, [load_public_key(small_bundle.public_key)]) as bundle:

        def go(ask: Ask | None = None, machine: Machine | None = None, **hooks) -> dict[str, Any]:
            given = {"clock_ns": Clock(), **hooks}
            return run(
                bundle.manifest,
                bundle.read,
                sha256="ab" * 32,
                ask=ask or Ask(),
                machine=machine or Machine("x86-64-vnni"),
                hooks=Hooks(tmp_path, "2026-11-22", **given),
            )

        yield go


def test_latencies_are_those_of_the_clock(bench) -> None:
    document = bench()
    call, request = document["model_call"], document["request"]
    # A call of the model lies between two looks at the clock, a request between four.
    assert call["p50_ms"] == call["p99_ms"] == 1.0
    assert request["p50_ms"] == 3.0
    assert call["n"] == request["n"] == pytest.approx(1250, abs=20)
    assert request["per_s"] == pytest.approx(250, rel=0.02)
    assert len(document["windows"]) == 10
    assert document["inputs"] == {
        "x": {"dtype": "float32", "shape": [1, 3, 16, 16], "varies": False}
    }
    assert text_of(document) == "p50 1 ms, p90 1 ms, p99 1 ms"


def test_a_sustained_run_takes_what_the_board_keeps_up(bench) -> None:
    document = bench(Ask(sustained_s=60.0), clock_ns=Clock(slow_after_s=20.0))
    assert document["basis"]["reached"]
    assert document["basis"]["from_s"] == pytest.approx(21, abs=2)
    assert document["model_call"]["p50_ms"] == 3.0
    assert document["windows"][0]["p50_ms"] == 1.0


def test_vitals_stand_where_the_board_tells_them_and_nowhere_else(bench) -> None:
    document = bench(vitals=lambda: {"temp_c": 61.5, "clock_mhz": 2400, "load_1m": 0.5, "x": 1})
    assert document["before"] == {"temp_c": 61.5, "clock_mhz": 2400, "load_1m": 0.5}
    assert all(w["temp_c"] == 61.5 for w in document["windows"])
    assert document["vitals"]["clock_mhz"] == 2400
    silent = bench()
    assert silent["before"] == {}
    assert "vitals" not in silent
    assert "temp_c" not in json.dumps(silent)


def test_progress_comes_to_its_end(bench) -> None:
    seen: list[tuple[float, float]] = []
    bench(on_progress=lambda done, total: seen.append((done, total)))
    assert len(seen) == 10
    assert seen == sorted(seen)
    assert seen[-1] == (5.0, 5.0)


@pytest.mark.parametrize("after", [0, 1, 330])
def test_what_is_stopped_early_says_what_it_has(bench, after: int) -> None:
    asked = iter(range(100_000))
    document = bench(stop=lambda: next(asked) >= after)
    assert document["interrupted"]
    assert document["model_call"]["n"] == after
    assert document["profile"] is None
    assert ("p50_ms" in document["model_call"]) == (after > 0)


def test_the_profile_names_the_operators(bench, tmp_path: Path) -> None:
    profile = bench()["profile"]
    assert profile["ops"][0]["op"] in ("QLinearConv", "ReorderInput", "QuantizeLinear")
    assert sum(row["share"] for row in profile["ops"]) == pytest.approx(1, abs=0.001)
    assert sum(row["ms"] for row in profile["nodes"]) == pytest.approx(profile["ms"], rel=0.01)
    assert list(tmp_path.iterdir()) == []


def test_the_document_fits_into_a_reply_of_a_device(bench) -> None:
    document = bench(
        Ask(sustained_s=3600.0),
        vitals=lambda: {"temp_c": 61.5, "clock_mhz": 2400, "cooling_share": 0.25},
        clock_ns=Clock(),
    )
    events = [node(f"{'a/very/long/name/of/a/node' * 3}/{i}", ts=i) for i in range(500)]
    document["profile"] = read_profile(events)
    assert len(Reply("1", True, document).to_bytes()) < MAX_CONTROL_BYTES


def test_a_bundle_without_samples_cannot_be_measured(small_bundle, tmp_path: Path) -> None:
    golden = replace(small_bundle.manifest.golden, count=0)
    with pytest.raises(DeviceError, match="golden"):
        run(
            replace(small_bundle.manifest, golden=golden),
            small_bundle.members.__getitem__,
            sha256="",
            ask=Ask(),
            machine=Machine("arm64"),
            hooks=Hooks(tmp_path, "2026-11-22"),
        )


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (Machine("arm64"), "measured on this arm64 host; not figures of rpi5"),
        (
            Machine("arm64", board="Raspberry Pi 5 Model B", target="rpi5"),
            "measured on Raspberry Pi 5 Model B (arm64), a rpi5",
        ),
        (
            Machine("arm64", board="Raspberry Pi 4 Model B", device="lab-3", target="rpi4"),
            "measured on lab-3 (arm64); not figures of rpi5",
        ),
    ],
)
def test_whose_numbers_they_are(bench, machine: Machine, says: str) -> None:
    measured = bench(machine=machine)["measured"]
    assert measured["says"] == says
    assert (measured["kind"], measured["target"]) == ("measured", machine.target)
    assert measured["date"] == "2026-11-22"


@pytest.mark.parametrize(
    ("target", "title", "host", "board", "same"),
    [
        ("rpi5", "Raspberry Pi 5", "arm64", "Raspberry Pi 5 Model B Rev 1.0", True),
        ("rpi5", "Raspberry Pi 5", "arm64", "Raspberry Pi 500", False),
        ("rpi5", "Raspberry Pi 5", "arm64", "Raspberry Pi 4 Model B Rev 1.1", False),
        ("rpi5", "Raspberry Pi 5", "arm64", None, False),
        ("rpi5", "Raspberry Pi 5", "x86-64-vnni", None, False),
        ("generic-arm64", "Any 64-bit Arm Linux board", "arm64", None, False),
        ("x86-64-vnni", "x86-64 with VNNI", "x86-64-vnni", None, True),
        ("x86-64-avx2", "x86-64 with AVX2, no VNNI", "x86-64-vnni", None, False),
    ],
)
def test_a_machine_is_a_target_by_its_board_or_its_cpu(
    target: str, title: str, host: str, board: str | None, same: bool
) -> None:
    assert is_one_of(target, title, host=host, board=board) is same


def test_a_board_says_its_name(tmp_path: Path) -> None:
    assert board_name(tmp_path) is None
    (tmp_path / "proc" / "device-tree").mkdir(parents=True)
    (tmp_path / "proc" / "device-tree" / "model").write_bytes(b"Raspberry Pi 5\x1b Model B\0")
    assert board_name(tmp_path) == "Raspberry Pi 5 Model B"


def test_a_command_asks_strictly() -> None:
    assert Ask.from_args({}) == Ask()
    assert Ask.from_args({"threads": 2, "sustained_s": 600}) == Ask(2, 600.0)
    for args in ({"thread": 2}, {"threads": "2"}, {"sustained_s": True}, {"threads": 2.5}):
        with pytest.raises(TrustError):
            Ask.from_args(args)
    for args in ({"threads": 0}, {"threads": 1000}, {"sustained_s": 1}, {"sustained_s": 1e6}):
        with pytest.raises(UsageError):
            Ask.from_args(args)


def node(name: str, ts: int, dur: int = 10, op: str = "Conv") -> dict[str, Any]:
    args = {"op_name": op, "provider": "CPUExecutionProvider", "node_index": "1"}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args}


def call(ts: int, dur: int = 100) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur, "args": {}}


def test_the_first_call_is_left_out_and_the_rest_is_a_mean_of_calls() -> None:
    events = [call(0), node("a", 10, 90)]
    events += [call(200), node("a", 210, 30), node("b", 250, 10, "Add")]
    events += [call(400), node("a", 410, 50), node("b", 470, 10, "Add")]
    found = read_profile(events)
    assert found is not None
    assert (found["calls"], found["ms"]) == (2, 0.05)
    assert found["nodes"] == [
        {"name": "a", "op": "Conv", "provider": "CPUExecutionProvider", "ms": 0.04, "share": 0.8},
        {"name": "b", "op": "Add", "provider": "CPUExecutionProvider", "ms": 0.01, "share": 0.2},
    ]


def test_of_many_nodes_the_longest_are_listed_and_the_rest_is_counted() -> None:
    found = read_profile([node(f"n{i}", i, i + 1) for i in range(200)])
    assert found is not None
    assert [row["name"] for row in found["nodes"]][:2] == ["n199", "n198"]
    assert len(found["nodes"]) == MAX_NODES
    assert found["left_out"]["nodes"] == 200 - MAX_NODES
    assert found["ops"][0]["nodes"] == 200


@pytest.mark.parametrize(
    "events", [None, {}, [], [1], [{"cat": "Node"}], [node("a", 1, dur=0)], [{"args": {}}]]
)
def test_a_profile_that_says_nothing_is_none(events: object) -> None:
    assert read_profile(events) is None
