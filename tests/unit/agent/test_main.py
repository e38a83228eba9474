"""The agent as a whole, in this process: how it begins and how it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent import main
from edgekit.agent.config import Config, FlowSettings, Http
from edgekit.agent.engine import predicting
from edgekit.agent.flows import Flow
from edgekit.agent.jobs import BusyError, ModelInfo
from edgekit.agent.lane import Limits
from edgekit.agent.main import Agent
from edgekit.agent.serving import Serving
from edgekit.agent.slots import Trust, open_slots, read_states
from edgekit.runtime.pipeline import Pipeline
from edgekit.runtime.trial_state import Order, Phase, State
from edgekit.wire.errors import ConfigError
from edgekit.wire.messages import Message
from tests.agent_board import until

SHA256 = "ab" * 32


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config("lab", "board-1", "rpi5", tmp_path / "state", (), http=Http(port=0))


def with_flow(config: Config, **source: Any) -> Config:
    return dataclasses.replace(config, flows=(FlowSettings(source, "m", ()),))


def events(agent: Agent) -> list[Message]:
    batch = agent.outbox.batch()
    return [m for m in batch.messages if m.kind == "event"] if batch else []


def test_wrong_settings_of_a_flow_are_not_the_fault_of_a_bundle_on_trial(config: Config) -> None:
    config.state_dir.mkdir()
    slots = open_slots(config.state_dir / "slots", Trust(()))
    slots.path(SHA256).parent.mkdir()
    slots.path(SHA256).write_bytes(b"x")
    order = Order("o-1", SHA256, 1, 1, 4e9)
    slots.commit("m", State(phase=Phase.TRIAL, order=order))
    slots.close()
    for _ in range(3):
        agent = Agent(with_flow(config, kind="folder", path="/no/such/folder"))
        with pytest.raises(ConfigError, match="no such folder"):
            agent.run()
    state = read_states(config.state_dir / "slots")["m"]
    assert (state.phase, state.restarts) == (Phase.TRIAL, 0)
    # And the folder is free for the next one.
    open_slots(config.state_dir / "slots", Trust(())).close()


def test_an_agent_that_ends_leaves_no_camera_running(config: Config, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = ["sh", "-c", f"echo $$ > {pid}.part; mv {pid}.part {pid}; exec sleep 600"]
    agent = Agent(with_flow(config, kind="camera", source="command", command=command))
    thread = threading.Thread(target=agent.run)
    thread.start()
    until(pid.exists)
    agent.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert not Path("/proc", pid.read_text().strip()).exists()


class Buggy:
    def samples(self, _stop: threading.Event) -> Iterator[Any]:
        raise ZeroDivisionError("a bug")


def test_a_flow_that_a_bug_ends_is_told_of(config: Config) -> None:
    agent = Agent(config)
    agent.flows.run(Flow(Buggy(), "m"))
    (event,) = events(agent)
    assert (event.values["what"], event.values["model"]) == ("flow-ended", "m")
    assert "a bug" in str(event.values["why"])
    agent._close()


class Shut:
    """A task that waits for as long as the test wants."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def predict(self, _run: Any, _data: bytes) -> dict[str, Any]:
        self.gate.wait(20)
        return {}

    def agreement(self, _reference: Any, _other: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def agent(config: Config) -> Iterator[Agent]:
    made = Agent(config)
    yield made
    made._close()


def test_telemetry_tells_who_found_the_queue_full(agent: Agent) -> None:
    task = Shut()
    info = ModelInfo("m", "1", "M", "tensors")
    agent.engine.serve(info, Pipeline(task, lambda _feeds: {}), limits=Limits(queue=1))
    agent.models._served["m"] = Serving(SHA256, 1)
    for number in range(4):
        with contextlib.suppress(BusyError):
            agent.engine.submit("m", predicting(b"x"), lambda _job: None)
        if not number:
            until(lambda: agent.engine.stats("m").running)
    sample = agent.collector.sample()
    task.gate.set()
    assert sample["models"]["m"]["rejected"] == 2  # type: ignore[index, call-overload]
    assert sample["models"]["m"]["queue"] == 1  # type: ignore[index, call-overload]


def test_a_model_that_has_just_gone_does_not_end_the_agent(agent: Agent) -> None:
    agent.models._served["gone"] = Serving(SHA256, 1)
    assert "gone" in agent.collector.sample()["models"]  # type: ignore[operator]


def test_a_call_that_hung_in_an_older_bundle_is_not_held_against_the_next(agent: Agent) -> None:
    gate, entered = threading.Event(), threading.Event()

    def hang(_feeds: Any) -> Any:
        entered.set()
        gate.wait(20)
        return {}

    old, new = Serving(SHA256, 1), Serving("cd" * 32, 2)
    agent.models._served["m"] = old
    thread = threading.Thread(target=agent.models._watched("m", old, hang), args=({},))
    thread.start()
    assert entered.wait(20)
    assert agent.models.oldest_call_s("m") is not None
    agent.models._served["m"] = new
    assert agent.models.oldest_call_s("m") is None
    gate.set()
    thread.join(20)


def test_an_http_server_that_hangs_lets_the_watchdog_bite(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(main, "notify", said.append)
    monkeypatch.setattr(main, "HTTP_HANGS_S", 0.3)
    agent.http.start()
    gate = threading.Event()
    try:
        agent._tick()
        time.sleep(0.5)
        agent._tick()
        time.sleep(0.1)
        agent._tick()
        assert said == ["WATCHDOG=1"] * 3
        assert agent.http._loop is not None
        agent.http._loop.call_soon_threadsafe(gate.wait, 20)
        agent._tick()
        time.sleep(0.5)
        said.clear()
        agent._tick()
        assert said == []
    finally:
        gate.set()
    time.sleep(0.1)
    agent._tick()
    time.sleep(0.1)
    agent._tick()
    assert said[-1:] == ["WATCHDOG=1"]
