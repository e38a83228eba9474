"""A board for tests: a folder with settings, and the agent as a process that runs with them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.wire.signing import PrivateKey

FLEET, DEVICE, MODEL = "lab", "board-1", "small-conv"


def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


@dataclass
class Board:
    """A folder with settings, and the agent that runs with them."""

    folder: Path
    key: PrivateKey
    settings: dict[str, Any]
    python: tuple[str, ...] = (sys.executable,)
    environment: dict[str, str] | None = None
    process: subprocess.Popen[bytes] | None = None
    logs: list[Path] = field(default_factory=list)
    module: tuple[str, ...] = ("edgekit.agent.main",)
    model: str = MODEL

    def start(self) -> None:
        config = self.folder / "agent.json"
        config.write_text(json.dumps(self.settings))
        self.logs.append(self.folder / f"log-{len(self.logs)}")
        with self.logs[-1].open("wb") as log:
            self.process = subprocess.Popen(
                [*self.python, "-m", *self.module, "--config", str(config)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment,
            )

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def status(self) -> dict[str, Any]:
        """The status that this process has written; empty before the first."""
        try:
            found = json.loads((self.folder / "state" / "status.json").read_text())
        except (OSError, ValueError):
            return {}
        return found if self.process and found["pid"] == self.process.pid else {}

    def confirmed(self) -> bool:
        return self.status().get("models", {}).get(self.model, {}).get("phase") == "confirmed"

    def serves(self) -> str | None:
        return self.status().get("models", {}).get(self.model, {}).get("serves_sha256")

    def infer(self, sample: bytes, model: str = "") -> dict[str, Any]:
        url = f"{self.status()['http']}infer/{model or self.model}"
        request = urllib.request.Request(url, data=sample)  # noqa: S310 - the agent's own page
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return json.loads(answer.read())

    def log(self) -> str:
        return self.logs[-1].read_text()


def settings_for(bundle: Any, broker_port: int) -> dict[str, Any]:
    return {
        "schema": "edgekit.agent/1",
        "fleet": FLEET,
        "device": DEVICE,
        "target": bundle.manifest.target.name,
        "state_dir": "state",
        "trusted_keys": [bundle.private_key.public.to_pem().decode()],
        "http": {"port": 0},
        "broker": {"host": "127.0.0.1", "port": broker_port},
        "telemetry": {"period_s": 0.2, "outbox_mib": 4},
        "trial": {"duration_s": 1, "min_requests": 1},
        "bundles": [str(bundle.path)],
    }


def sample_of(bundle) -> bytes:
    return next(v for k, v in bundle.members.items() if k.endswith(".npy") and "/0" in k)
