"""Captures: off by default, bounded, and never in the way of who serves."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.agent.capture import MAX_PUBLISHED, MAX_SAMPLES, Ask, Captures, kind_of
from edgekit.agent.commands import Commands
from edgekit.agent.config import Capture
from edgekit.wire.canonical import sha256_hex
from edgekit.wire.errors import ConfigError, DeviceError, UsageError

JPEG, PNG = b"\xff\xd8\xff picture", b"\x89PNG\r\n\x1a\n picture"


class Engine:
    """As much of the engine as a capture sees."""

    clock = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self.taps: dict[str, Any] = {}
        self.tapped = threading.Event()

    def names(self) -> list[str]:
        return ["pets"]

    def tap(self, name: str, tap: Any) -> None:
        if tap is None:
            del self.taps[name]
        else:
            self.taps[name] = tap
            self.tapped.set()


class Bench:
    def __init__(self, folder: Path, settings: Capture) -> None:
        self.engine = Engine()
        self.published: list[tuple[str, bytes]] = []
        self.captures = Captures(
            settings,
            folder / "captures",
            self.engine,  # type: ignore[arg-type]
            lambda name, payload: self.published.append((name, payload)),
            lambda: 1_795_720_800.0,
        )

    def run(self, args: dict[str, Any], *samples: bytes) -> Any:
        def serve() -> None:
            assert self.engine.tapped.wait(10)
            for sample in samples:
                if tap := self.engine.taps.get("pets"):
                    tap(sample)

        self.engine.tapped.clear()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return self.captures.run({"model": "pets", "within_s": 0.3} | args)
        finally:
            self.engine.tapped.set()
            thread.join()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, Capture(allowed=True, max_bytes=1000))


def test_nothing_is_captured_unless_the_device_allows_it(tmp_path: Path) -> None:
    closed = Bench(tmp_path, Capture())
    with pytest.raises(ConfigError, match="does not give"):
        closed.captures.run({"model": "pets"})
    assert not closed.engine.tapped.is_set()
    assert not (tmp_path / "captures").exists()


def test_samples_are_kept_as_they_came(bench: Bench, tmp_path: Path) -> None:
    told = bench.run({"n": 3}, JPEG, PNG, b"a text", b"one too many")
    assert told["kept"] == 3
    folder = Path(told["folder"])
    assert folder.parent == tmp_path / "captures"
    assert sorted(p.name for p in folder.iterdir()) == ["0000.jpg", "0001.png", "0002.txt"]
    assert (folder / "0001.png").read_bytes() == PNG
    assert told["samples"][0] == {
        "file": "0000.jpg",
        "sha256": sha256_hex(JPEG),
        "size_bytes": len(JPEG),
    }
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "0000.jpg").stat().st_mode & 0o777 == 0o600
    assert not bench.engine.taps, "the tap is closed"
    assert not bench.published


def test_samples_may_be_sent_instead(bench: Bench, tmp_path: Path) -> None:
    told = bench.run({"n": 2, "to": "topic"}, JPEG, b"x" * (2 << 20), PNG)
    assert bench.published == [("capture", JPEG), ("capture", PNG)]
    assert (told["kept"], told["published"], told["skipped"]) == (2, 2, 1)
    assert told["folder"] is None
    assert told["topic"] == "output/capture"
    assert not (tmp_path / "captures").exists()


def test_the_byte_cap_holds_over_captures(bench: Bench, tmp_path: Path) -> None:
    assert bench.run({"n": 2}, b"a" * 600, b"b" * 600)["kept"] == 1
    told = bench.run({"n": 2}, b"c" * 400, b"d")
    assert (told["kept"], told["skipped"]) == (1, 1)
    with pytest.raises(DeviceError, match="1000 bytes already"):
        bench.run({}, b"e")
    assert sum(p.stat().st_size for p in (tmp_path / "captures").glob("*/*")) == 1000


def test_a_model_that_nobody_asks_leaves_no_folder(bench: Bench, tmp_path: Path) -> None:
    told = bench.run({"n": 5})
    assert (told["kept"], told["folder"]) == (0, None)
    assert not list((tmp_path / "captures").iterdir())


def test_who_serves_never_waits(bench: Bench) -> None:
    told = bench.run({"n": 256}, *[b"%d" % i for i in range(2000)])
    assert 1 <= told["kept"] <= 256


def test_a_repeated_command_captures_once(bench: Bench) -> None:
    commands = Commands({"capture": lambda args: bench.run(dict(args), JPEG)})
    wire = {"id": "a", "name": "capture", "args": {"model": "pets", "within_s": 0.3}}
    payload = json.dumps(wire).encode()
    command = commands.accept(payload)
    reply = commands.run(command)  # type: ignore[arg-type]
    commands.remember("a", reply)
    assert commands.accept(payload) == reply
    assert json.loads(reply)["result"]["kept"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"model": 5},
        {"model": "pets", "n": 0},
        {"model": "pets", "n": True},
        {"model": "pets", "n": MAX_SAMPLES + 1},
        {"model": "pets", "n": MAX_PUBLISHED + 1, "to": "both"},
        {"model": "pets", "to": "/etc"},
        {"model": "pets", "to": []},
        {"model": "pets", "within_s": 0},
        {"model": "pets", "within_s": 1e9},
        {"model": "pets", "folder": "elsewhere"},
        {"model": "cats"},
    ],
)
def test_what_cannot_be_done_is_refused(bench: Bench, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        bench.captures.run(wrong)


@given(
    st.dictionaries(
        st.sampled_from(["model", "n", "within_s", "to", "x"]),
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    )
)
def test_any_arguments_are_read_or_refused(args: dict[str, Any]) -> None:
    try:
        ask = Ask.from_args(args)
    except UsageError:
        return
    assert 1 <= ask.n <= MAX_SAMPLES
    assert 0 < ask.within_s <= 600


@given(st.binary(max_size=20))
def test_every_sample_gets_a_plain_ending(sample: bytes) -> None:
    assert kind_of(sample) in ("jpg", "png", "wav", "npy", "txt", "bin")
