"""Small models in an engine: plain functions, and a real one where the model matters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.agent.engine import Engine
from edgekit.agent.jobs import ModelInfo
from edgekit.runtime.pipeline import Pipeline
from edgekit.runtime.session import open_session, runner
from edgekit.runtime.tasks import create_task
from edgekit.wire.errors import ConfigError
from edgekit.wire.manifest import Tensor

ROOT = Path(__file__).resolve().parents[4]

Feeds = Mapping[str, np.ndarray[Any, Any]]


class Echo:
    """A task that answers with the text it gets, once the gate is open."""

    def __init__(self, version: str = "1") -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.version = version

    def predict(self, run: Any, data: bytes) -> dict[str, Any]:
        self.entered.release()
        if not self.gate.wait(20):
            raise RuntimeError("the test left the gate shut")
        if data == b"bad":
            raise ConfigError("that is bad")
        if data == b"bug":
            raise ZeroDivisionError
        run({})
        return {"text": data.decode(), "version": self.version}

    def agreement(self, reference: Any, other: Any) -> Any:
        raise NotImplementedError


def no_model(feeds: Feeds) -> dict[str, np.ndarray[Any, Any]]:
    return {}


def doubling(feeds: Feeds) -> dict[str, np.ndarray[Any, Any]]:
    return {"y": feeds["x"] * 2}


def echo_info(version: str = "1") -> ModelInfo:
    return ModelInfo("echo", version, "Echo", "echo")


DOUBLE = ModelInfo(
    "double",
    "3",
    "Twice",
    "tensors",
    inputs=(Tensor("x", "float32", ("n", 2)),),
    outputs=(Tensor("y", "float32", ("n", 2)),),
    batchable=True,
)


@pytest.fixture
def served() -> list[tuple[str, float, bool, Any]]:
    """What the engine has told its listener."""
    return []


@pytest.fixture
def engine(served: list[tuple[str, float, bool, Any]]) -> Iterator[Engine]:
    made = Engine(on_served=lambda *told: served.append(told))
    yield made
    made.close(drain_s=5)


@pytest.fixture
def echo(engine: Engine) -> Callable[..., Echo]:
    """Serve an echo and return it."""

    def serve(version: str = "1", **limits: Any) -> Echo:
        from edgekit.agent.lane import Limits

        task = Echo(version)
        engine.serve(
            echo_info(version),
            Pipeline(task, no_model),
            limits=Limits(**limits) if limits else None,
        )
        return task

    return serve


@pytest.fixture(scope="session")
def digits() -> tuple[ModelInfo, Pipeline]:
    """The real model of handwritten digits, as its recipe has it."""
    options = {
        "input": "image",
        "size": 8,
        "order": "grey",
        "std": 255,
        "fit": "stretch",
        "top_k": 3,
        "labels": [str(i) for i in range(10)],
    }
    info = ModelInfo(
        "digits",
        "1",
        "Digits",
        "classify-image",
        inputs=(Tensor("image", "float32", (1, 1, 8, 8)),),
        outputs=(Tensor("logits", "float32", (1, 10)),),
    )
    run = runner(open_session(ROOT / "models" / "digits-cnn.onnx"))
    return info, Pipeline(create_task("classify-image", options, {}), run)
